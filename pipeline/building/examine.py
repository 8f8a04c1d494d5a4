"""One image's bytes: are they an image, whole, of what size, what does it look like, and what of it is stored."""

import hashlib
import io
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from bitgen.pixels import DecodeError, PixelsError, grey, orientation, rgb
from bitgen.pixels import size as header_size
from pipeline.holdout import LOOK_PX, look_of
from shards.format import ShardError, image_extension

Check = Literal["whole", "header"]
"""`whole`: every byte of an image is decoded. `header`: only its header is read, so damage stays unseen and nothing is
known of its look."""
MAX_IMAGE_BYTES = 64 << 20
MIN_SIDE_PX = 16
JPEG_QUALITY = 95


class ImageError(ValueError):
    """These bytes are not an image that can be kept; `reason` is the outcome of its rows."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Seen:
    """What is known of an image that can be kept."""

    width: int
    """Pixels, upright where the orientation applies."""
    height: int
    sha256: str
    """Of the bytes as they came."""
    look: int
    """`pipeline.holdout.look_of`; 0, which matches nothing, where only the header was read."""
    is_turned: bool
    """Whether it has to be turned to be upright."""


def examine(data: bytes, apply_orientation: bool, check: Check) -> Seen:
    """What there is to know of `data`. Raises `ImageError` for what is no JPEG, PNG or WebP, is damaged in any way, or
    is too large or too small."""
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError("too_large", f"expected at most {MAX_IMAGE_BYTES} bytes, found {len(data)}")
    try:
        image_extension(data)
        width, height = header_size(data)
        if min(width, height) < MIN_SIDE_PX:
            raise ImageError("too_small", f"expected sides of {MIN_SIDE_PX} pixels or more, found {(width, height)}")
        turn = orientation(data) if apply_orientation else 1
        look = 0
        if check == "whole":
            look = look_of(_turned(Image.fromarray(grey(data, LOOK_PX)), turn))
    except ShardError as error:
        raise ImageError("unknown_format", str(error)) from error
    except PixelsError as error:
        raise ImageError("too_large", str(error)) from error
    except DecodeError as error:
        raise ImageError("decode_error", str(error)) from error
    if turn >= 5:
        width, height = height, width
    return Seen(width, height, hashlib.sha256(data).hexdigest(), look, turn > 1)


def stored_bytes(data: bytes, seen: Seen, shorter_side_px: int | None) -> tuple[bytes, tuple[int, int]]:
    """What goes into a shard, and its size there: `data`, unless turned or shrunk.

    What is re-encoded is so once: shrunk by Lanczos' filter over whole pixels, as a JPEG of quality `JPEG_QUALITY`.
    Raises `ImageError` where damage shows that a look at the header did not.
    """
    size = (seen.width, seen.height)
    is_large = min(size) > (side_px := shorter_side_px or min(size))
    if not is_large and not seen.is_turned:
        return data, size
    try:
        image = _turned(Image.fromarray(rgb(data)), orientation(data) if seen.is_turned else 1)
    except DecodeError as error:
        raise ImageError("decode_error", str(error)) from error
    if is_large:
        scale = side_px / min(size)
        size = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=JPEG_QUALITY)
    return encoded.getvalue(), size


def _turned(image: Image.Image, turn: int) -> Image.Image:
    """The image upright, by its EXIF orientation; 1 leaves it as it is."""
    transpose = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(turn)
    return image if transpose is None else image.transpose(transpose)
