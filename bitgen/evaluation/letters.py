"""Words as Pillow's own font can draw them, which has the letters and signs of English and little else."""

import unicodedata

_SIGNS = {"→": " to ", "×": "x", "≥": ">=", "≤": "<=", "−": "-", "–": "-", "½": "1/2"}


def drawable(words: str) -> str:
    """On one line, signs in letters, letters without their accents; what the font has no letter for stays, and becomes a box."""
    plain = "".join(_SIGNS.get(c, c if c.isprintable() else " ") for c in words)
    bare = "".join(c for c in unicodedata.normalize("NFD", plain) if not unicodedata.combining(c))
    return " ".join(unicodedata.normalize("NFC", bare).split())
