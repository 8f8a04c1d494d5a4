"""Encoded bytes become pixels, checked to the last byte; without torch, so that what only looks at images starts fast."""

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bitgen.colours import DAMAGE, FORMATS, MAX_PIXELS, to_rgb


class DecodeError(Exception):
    """The bytes are no whole image of a kind that we read, or show more pixels than allowed."""


class PixelsError(DecodeError):
    """More pixels than allowed, as the header says."""


def rgb(image: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """[H, W, 3] from a JPEG, PNG or WebP; EXIF orientation is ignored, as boxes are.

    Greyscale becomes three equal channels; transparent pixels are laid on white. Raises `DecodeError` for damaged and
    truncated bytes, for other kinds, and, as `PixelsError`, for more than `max_pixels` pixels.
    """
    if _is_plain_jpeg(image, max_pixels):
        try:
            # strict: 20 flipped bytes decode to a damaged picture in Pillow and OpenCV, without a word.
            return simplejpeg.decode_jpeg(image, "RGB", strict=True)
        except ValueError as error:
            raise DecodeError(f"expected a whole JPEG, {error}") from error
    return _with_pillow(image, max_pixels)


def grey(image: bytes, least_px: int, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """[h, w]: the image in grey, of a JPEG shrunk as far as both sides keep `least_px` pixels and its blocks allow.

    Every byte is decoded and every damage found that `rgb` finds, at half its cost: what is saved is colour and the
    inverse transforms (1.2 ms against 2.0 for COCO's photographs). Raises as `rgb` does.
    """
    if _is_plain_jpeg(image, max_pixels):
        try:
            small = simplejpeg.decode_jpeg(image, "GRAY", strict=True, min_height=least_px, min_width=least_px)
        except ValueError as error:
            raise DecodeError(f"expected a whole JPEG, {error}") from error
        return small[:, :, 0]
    return np.asarray(Image.fromarray(_with_pillow(image, max_pixels)).convert("L"))


def size(image: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) in pixels as the header says them. Raises `DecodeError` where there is no good header."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(image)
    except ValueError:
        with _opened(image) as found:
            width, height = found.size
    _check_pixels(int(width), int(height), max_pixels)
    return int(width), int(height)


def orientation(image: bytes) -> int:
    """The EXIF orientation, 1..8; 1 where none is stated, or none that can be read. Raises `DecodeError` without a header."""
    with _opened(image) as found:
        return orientation_of(found)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an image opened by Pillow, as `orientation` gives it."""
    try:
        stated = image.getexif().get(0x0112, 1)
    except DAMAGE:
        return 1  # the picture itself may be good
    return stated if stated in range(2, 9) else 1


def from_pillow(image: Image.Image, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """[H, W, 3] of an image opened or made by Pillow, in any mode, as `rgb` gives it of bytes. Raises what that raises."""
    _check_pixels(image.width, image.height, max_pixels)
    try:
        return np.array(to_rgb(image))
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise DecodeError(f"expected a whole image, {error!r}") from error


def _is_plain_jpeg(image: bytes, max_pixels: int) -> bool:
    """Whether libjpeg-turbo's simple interface reads it."""
    if not image.startswith(b"\xff\xd8"):
        return False
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(image)
    except ValueError:
        return False  # no JPEG at all, or sampled in a way that Pillow knows
    if colorspace in ("CMYK", "YCCK"):
        return False  # Adobe's are stored inverted: Pillow looks at the marker that says so
    _check_pixels(int(width), int(height), max_pixels)
    return True


def _opened(image: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(image), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DecodeError(f"expected a readable JPEG, PNG or WebP image, found {image[:12]!r}") from error
    except Image.DecompressionBombError as error:
        raise PixelsError(str(error)) from error
    except DAMAGE as error:
        raise DecodeError(f"expected a whole image, {error!r}") from error


def _with_pillow(image: bytes, max_pixels: int) -> NDArray[np.uint8]:
    with _opened(image) as opened:
        return from_pillow(opened, max_pixels)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if not 1 <= width * height <= max_pixels:
        raise PixelsError(f"expected 1 to {max_pixels} pixels, found {width}x{height}")
