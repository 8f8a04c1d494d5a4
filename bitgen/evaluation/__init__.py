"""What the model can do, measured."""
