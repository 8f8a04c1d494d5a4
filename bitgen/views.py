"""A picture of any kind becomes the square that the model sees, and what the model finds goes back to the picture.

    picture -> pixels [3, H, W] uint8, RGB -> the whole of it as [3, S, S], aspect not kept -> upright, by its EXIF orientation
    box in fractions of that square -> pixels of the picture as it was given, before it was turned

Axes: H and W rows and columns as given, S side of the square, P boxes, g patches of a side.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bitgen.colours import MAX_PIXELS
from bitgen.image import DecodeError, Transform, decode
from bitgen.pixels import from_pillow, orientation, orientation_of

Picture: TypeAlias = Image.Image | NDArray[np.uint8] | Tensor | str | os.PathLike[str] | bytes
"""An image of Pillow's in any mode but F; an array [H, W, 3] or [H, W]; a tensor [3, H, W]; a path; an encoded file's bytes."""

_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""What makes a stored image upright, by EXIF orientation: rows and columns exchanged, then rows, then columns in reverse
order. Source: Exif 2.32, tag 0x0112."""


class InputError(ValueError):
    """An image, a text or a name is of a kind that the model does not take; the message says what it takes."""


@dataclass(frozen=True)
class View:
    """A picture as the model sees it, and the way back."""

    pixels: Tensor
    """[3, S, S] uint8, upright."""
    size: tuple[int, int]
    """Width and height of the picture as given, in pixels."""
    orientation: int
    """EXIF's, 1..8; 1 where it was upright."""

    def boxes_as_given(self, boxes: Tensor) -> Tensor:
        """[P, 4] corners in pixels of the picture as given, float64, of corners [P, 4] in fractions of what is seen."""
        exchanged, down, across = _TURNS[self.orientation]
        x0, y0, x1, y1 = boxes.double().unbind(dim=1)
        if across:
            x0, x1 = 1 - x1, 1 - x0
        if down:
            y0, y1 = 1 - y1, 1 - y0
        corners = (y0, x0, y1, x1) if exchanged else (x0, y0, x1, y1)
        return torch.stack(corners, dim=1) * torch.tensor(self.size * 2, dtype=torch.float64)

    def heat_as_given(self, heat: Tensor) -> Tensor:
        """[P, g, g], rows before columns, of the picture as given, of the same of what is seen."""
        exchanged, down, across = _TURNS[self.orientation]
        heat = heat.flip(_axes(down, across))
        return heat.transpose(1, 2).contiguous() if exchanged else heat


def view(picture: Picture, side_px: int, max_pixels: int = MAX_PIXELS) -> View:
    """What the model sees of a picture.

    The EXIF orientation of files, bytes and Pillow's images is applied, as to crawled images; transparent pixels are
    laid on white. Raises `InputError` for what is no picture, `DecodeError` for damaged files and for more than
    `max_pixels` pixels, and `OSError` for a path that cannot be read.
    """
    pixels, turn = _pixels(picture, max_pixels)
    height, width = pixels.shape[1:]
    if turn > 1:
        exchanged, down, across = _TURNS[turn]
        upright = (pixels.transpose(1, 2) if exchanged else pixels).flip(_axes(down, across))
        pixels = _by_rows(upright)
    return View(Transform(side_px).resize(pixels, (0, 0, pixels.shape[2], pixels.shape[1])), (width, height), turn)


def _axes(down: bool, across: bool) -> list[int]:
    """Of [*, rows, columns], those in reverse order."""
    return [axis for axis, is_reversed in ((1, down), (2, across)) if is_reversed]


def _by_rows(pixels: Tensor) -> Tensor:
    """[3, H, W] as rows of pixels in memory, as `decode` gives them: so that equal pixels take the same way."""
    return pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def _pixels(picture: Any, max_pixels: int) -> tuple[Tensor, int]:
    """[3, H, W] uint8, a view of rows of pixels as `decode` gives them, and the EXIF orientation."""
    if isinstance(picture, Image.Image):
        if picture.mode == "F":
            raise InputError("expected an image of whole numbers 0 to 255, found one of floats (Pillow's mode F)")
        return torch.from_numpy(from_pillow(picture, max_pixels)).permute(2, 0, 1), orientation_of(picture)
    if isinstance(picture, bytes):
        return decode(picture, max_pixels), orientation(picture)
    if isinstance(picture, str | os.PathLike):
        try:
            return _pixels(Path(picture).read_bytes(), max_pixels)
        except DecodeError as error:
            raise DecodeError(f"{error}: {picture}") from error
    if isinstance(picture, np.ndarray):
        array = _checked(np.stack([picture] * 3, axis=-1) if picture.ndim == 2 else picture, 2, "[H, W, 3] or [H, W]")
        return torch.from_numpy(np.array(array, order="C")).permute(2, 0, 1), 1
    if isinstance(picture, Tensor):
        return _by_rows(_checked(picture, 0, "[3, H, W]").detach().cpu()), 1
    raise InputError(
        "expected an image: of Pillow, an array [H, W, 3] or [H, W], a tensor [3, H, W], a path or the bytes of a file; "
        f"found {type(picture).__name__}"
    )


def _checked(array: Any, channel_axis: int, expected: str) -> Any:
    """The array or tensor, where it is of the `expected` shape. Raises `InputError`."""
    found = f"{array.dtype} {list(array.shape)}"
    if str(array.dtype).removeprefix("torch.") != "uint8":
        raise InputError(f"expected an image of whole numbers 0 to 255 as uint8, found {found}")
    if array.ndim != 3 or array.shape[channel_axis] != 3 or 0 in array.shape:
        several = "; several images go into a list" if array.ndim == 4 else ""
        raise InputError(f"expected one image {expected}{several}, found {found}")
    return array
