"""A trained model leaves the machine that it was trained on."""
