"""Pixels into fractions: the one place where x y w h in pixels becomes a `Box`."""

from collections.abc import Sequence

from bitgen.record import Box

OVERHANG_PX = 2.0
"""Boxes may stick out of the image by this much, from rounding or from rescaling; they are cut at its edge."""
_MOST = 1e9
"""Pixels: no image has more to a side; an int without a bound does not fit into a float."""


class RowError(ValueError):
    """A row that cannot be used: `reason` is the word it is counted under, the message says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def fraction_box(bbox: Sequence[float], width: int, height: int) -> Box:
    """The `Box` of x y w h in pixels, in an image of `width` by `height` pixels.

    Raises `RowError` as `bad_box`: not four finite numbers, without area, with its centre outside the image, or
    sticking out by more than `OVERHANG_PX`.
    """
    if width <= 0 or height <= 0:
        raise RowError("bad_box", f"expected an image with a size, found {width}x{height}")
    if len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise RowError("bad_box", f"expected x y w h, found {list(bbox)!r:.200}")
    x, y, w, h = bbox
    if w <= 0 or h <= 0:
        raise RowError("bad_box", f"expected a box with an area, found w {w} h {h}")
    overhang = max(-x, -y, x + w - width, y + h - height)
    centre_inside = 0 <= x + w / 2 <= width and 0 <= y + h / 2 <= height
    if overhang > OVERHANG_PX or not centre_inside:
        raise RowError("bad_box", f"expected a box inside {width}x{height}, found x {x} y {y} w {w} h {h}")
    corners = (max(x / width, 0.0), max(y / height, 0.0), min((x + w) / width, 1.0), min((y + h) / height, 1.0))
    if corners[0] >= corners[2] or corners[1] >= corners[3]:
        raise RowError("bad_box", f"expected a box with an area inside {width}x{height}, found {list(bbox)!r}")
    return Box(*corners)


def _is_number(found: object) -> bool:
    return isinstance(found, int | float) and -_MOST <= found <= _MOST  # also False of NaN
