"""A picture with what a model said of it: boxes with their phrases, the caption below, or a heat-map over it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bitgen.deploy.runtime import Grounding

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080")
MOST_LETTERS_PX = 200
"""A picture may be 64 million pixels long and one high."""
HEAT, MOST_OPAQUE = "#ff2800", 185
"""Of a heat-map: its colour, and how opaque of 255 it is where it is hottest."""


def annotated(
    picture: Image.Image, groundings: Sequence[Grounding], caption: str | None = None, letters_px: int = 0
) -> Image.Image:
    """A new image of the same width; a caption adds a strip at the bottom.

    Args:
        letters_px: size of what is written; 0: by the picture's width, within reason.
    """
    size = letters_px or min(max(12, picture.width // 40), MOST_LETTERS_PX)
    font = ImageFont.load_default(size)
    lines = _lines(caption, font, picture.width - size) if caption else []
    strip = (len(lines) * 3 + 1) * size // 2 if lines else 0
    out = Image.new("RGB", (picture.width, picture.height + strip), "white")
    out.paste(picture)
    draw = ImageDraw.Draw(out)
    for i, found in enumerate(groundings):
        colour = COLOURS[i % len(COLOURS)]
        x0, y0, x1, y1 = found.box
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=max(2, size // 6))
        left, top, right, bottom = draw.textbbox((x0, y0), found.phrase, font=font)
        # Above the box where there is room, and within the picture in any case.
        dx = min(0, picture.width - 1 - right)
        dy = -(bottom - y0) if bottom - y0 <= y0 else 0
        draw.rectangle((left + dx, top + dy, right + dx, bottom + dy), fill=colour)
        draw.text((x0 + dx, y0 + dy), found.phrase, fill="white", font=font)
    for i, line in enumerate(lines):
        draw.text((size // 2, picture.height + size // 2 + i * 3 * size // 2), line, fill="black", font=font)
    return out


def heated(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """A new image of the same size, in grey under red: the redder, the likelier that its part shows the phrase.

    Args:
        heat: [g, g], 0..1, as of `Grounding`. Its hottest part is as red as any, so faint ones are seen, too: what the
            likeliest is worth, `Grounding.score` says.
    """
    opacity = Image.fromarray((MOST_OPAQUE * heat / max(float(heat.max()), 1e-12)).round().astype(np.uint8))
    grey = picture.convert("L").convert("RGB")  # so that nothing else is red
    tint = Image.new("RGB", picture.size, HEAT)
    return Image.composite(tint, grey, opacity.resize(picture.size, Image.Resampling.BILINEAR))


def _lines(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Of words, each line as long as fits."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
