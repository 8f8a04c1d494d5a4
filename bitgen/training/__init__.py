"""Numbers become gradient steps."""
