"""Drawn scenes: what is in them, their pixels, and what is said of them. `pipeline/shapes.py` writes them."""
