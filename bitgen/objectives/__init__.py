"""Features become numbers: one file per loss, and the queue of past features."""
