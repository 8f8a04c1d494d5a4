"""Pictures for a page: images inside the page itself, boxes as vectors over them, heat-maps as tints."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import isqrt

import torch
from PIL import Image
from torch import Tensor

from bitgen.evaluation.page import Html, text

COLOURS = 10
"""Phrase colours; the eleventh phrase has the first colour again."""
WHITE = 9
LONG_SIDE_PX = 520
"""A stored image is shown at most this large: 40 kB instead of 200."""


@dataclass(frozen=True)
class Outline:
    """A box drawn over a picture."""

    corners: tuple[float, float, float, float]
    """Fractions of the picture."""
    colour: int
    """Number of a phrase colour."""
    title: str
    """Said by the browser when the pointer rests on it."""
    dashed: bool = False


def picture(
    uri: str, width: int, height: int, outlines: Sequence[Outline], *, says: str, shown_px: int, heat: str = ""
) -> Html:
    """An image with boxes over it, and a heat-map between them.

    Args:
        uri: of the image, `heat` of the tint, both from this module.
        width: of the picture in pixels, as `height`: the proportions.
        says: what the picture shows, for those who do not see it.
        shown_px: its longer side on the page.
    """
    scale = shown_px / max(width, height)
    across, down = round(width * scale), round(height * scale)
    # Equal boxes of several phrases: the earlier ones wider, so that each shows a rim.
    above = [sum(_equal(outline, later) for later in outlines[n + 1 :]) for n, outline in enumerate(outlines)]
    boxes = "".join(_outline(outline, layers) for outline, layers in zip(outlines, above, strict=True))
    tint = f'<img class="heat" src="{heat}" alt="">' if heat else ""
    grey = ' class="grey"' if heat else ""  # so that the tint is the only red
    return Html(
        f'<div class="picture" style="width:{across}px;height:{down}px"><img{grey} src="{uri}" alt="{text(says)}">{tint}'
        f'<svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">{boxes}</svg></div>'
    )


def framed(inner: Html, caption: str) -> Html:
    """A picture with a line under it."""
    return Html(f'<figure>{inner}<figcaption class="muted">{text(caption)}</figcaption></figure>')


def tensor_uri(image: Tensor) -> str:
    """A tensor [3, H, W] uint8 exactly as it is, as PNG."""
    return _uri(Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()), "PNG")


def photo_uri(image: Tensor) -> str:
    """A decoded photograph [3, H, W] uint8, shrunk to `LONG_SIDE_PX`, as JPEG."""
    shown = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    shown.thumbnail((LONG_SIDE_PX, LONG_SIDE_PX))
    return _uri(shown, "JPEG", quality=85)


def heat_uri(logits: Tensor) -> str:
    """A heat-map [Q] of a square grid as a tint: red where the patch is likeliest to belong, clear where it is not.

    The opacity is a patch's probability over the greatest one, one pixel a patch; the browser interpolates.
    """
    side = isqrt(len(logits))
    belongs = logits.float().nan_to_num(-torch.inf).sigmoid()
    opacity = (185 * belongs / belongs.max().clamp(min=1e-12)).reshape(side, side).round().to(torch.uint8)
    pixels = torch.zeros(side, side, 4, dtype=torch.uint8)
    pixels[..., 0], pixels[..., 1] = 255, 40
    pixels[..., 3] = opacity.cpu()
    return _uri(Image.fromarray(pixels.numpy(), "RGBA"), "PNG")


def _equal(a: Outline, b: Outline) -> bool:
    return a.dashed == b.dashed and all(abs(p - q) < 5e-3 for p, q in zip(a.corners, b.corners, strict=True))


def _outline(outline: Outline, layers: int) -> str:
    """A box under `layers` equal ones."""
    x0, y0, x1, y1 = outline.corners
    place = f'x="{x0:.5f}" y="{y0:.5f}" width="{max(x1 - x0, 0):.5f}" height="{max(y1 - y0, 0):.5f}"'
    halo, edge = (f"stroke-width:{width + 4 * layers}px" for width in (4.5, 2.5))
    dashes = " dashed" if outline.dashed else ""
    return (
        f'<g class="p{outline.colour % COLOURS}"><title>{text(outline.title)}</title>'
        f'<rect class="halo" style="{halo}" {place}/><rect class="edge{dashes}" style="{edge}" {place}/></g>'
    )


def _uri(image: Image.Image, kind: str, **options: int) -> str:
    file = BytesIO()
    image.save(file, kind, optimize=True, **options)
    return f"data:image/{kind.lower()};base64,{b64encode(file.getvalue()).decode()}"
