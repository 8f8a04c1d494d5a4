"""Words as Pillow's own font can draw them, which has the letters and signs of English and little else."""

import unicodedata
from collections.abc import Iterator

from PIL import ImageFont

_SIGNS = {"→": " to ", "×": "x", "≥": ">=", "≤": "<=", "−": "-", "–": "-", "½": "1/2"}


def drawable(words: str) -> str:
    """On one line, signs in letters, letters without their accents; what the font has no letter for stays, and becomes a box."""
    plain = "".join(_SIGNS.get(c, c if c.isprintable() else " ") for c in words)
    bare = "".join(c for c in unicodedata.normalize("NFD", plain) if not unicodedata.combining(c))
    return " ".join(unicodedata.normalize("NFC", bare).split())


def wrapped(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: float) -> Iterator[str]:
    """Drawable lines of at most `width_px`; a word that is longer has a line of its own, and is cut off by the picture's edge."""
    row = ""
    for word in drawable(words).split():
        longer = f"{row} {word}".lstrip()
        if row and font.getlength(longer) > width_px:
            yield row
            longer = word
        row = longer
    yield row
