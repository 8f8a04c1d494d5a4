"""Images that do harm, or look as if they did, made on the spot: what a crawl meets among four million.

`CASES` says of each what becomes of it: `crawled` where a crawl brings it, `built` where its bytes are found on disk.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.noise import noise

WIDE_PX = 30_000


@dataclass(frozen=True)
class Case:
    """An image, and its outcome as a crawled one and as one on disk."""

    make: Callable[[], bytes]
    crawled: str
    built: str


def bomb_png(side_px: int = 30_000) -> bytes:
    """A whole, valid PNG of 110 KB that unpacks to `side_px` squared black pixels."""
    packer, row = zlib.compressobj(9), bytes(1 + (side_px + 7) // 8)
    body = b"".join(packer.compress(row * 100) for _ in range(side_px // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def bomb_jpeg(side_px: int = 60_000) -> bytes:
    """A small JPEG whose header claims `side_px` squared pixels."""
    photo = noise(1)
    place = photo.index(b"\xff\xc0") + 5  # marker, length, precision
    return photo[:place] + struct.pack(">HH", side_px, side_px) + photo[place + 4 :]


def truncated(kind: str) -> bytes:
    """The first half of an image."""
    whole = _saved(_picture(), kind)
    return whole[: len(whole) // 2]


def animated(kind: str) -> bytes:
    """Three frames."""
    frames = [_picture(seed) for seed in range(3)]
    return _saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def cmyk() -> bytes:
    """A JPEG in four colours of print."""
    return _saved(_picture().convert("CMYK"), "JPEG")


def grey_16_bit() -> bytes:
    """A PNG of 65,536 shades."""
    return _saved(Image.fromarray(np.arange(96 * 72, dtype=np.uint16).reshape(72, 96) * 9), "PNG")


def colour_16_bit() -> bytes:
    """A PNG of three colours with 65,536 shades each, which Pillow does not write."""
    rows = b"".join(b"\0" + noise(row, (96, 72))[:576].ljust(576, b"\x80") for row in range(72))
    header = struct.pack(">IIBBBBB", 96, 72, 16, 2, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def wide() -> bytes:
    """A JPEG of `WIDE_PX` by 32 pixels: odd, and whole."""
    return _saved(_picture().resize((WIDE_PX, 32)), "JPEG")


CASES: dict[str, Case] = {
    "bomb.png": Case(bomb_png, "too_large", "too_large"),
    "bomb.jpg": Case(bomb_jpeg, "too_large", "too_large"),
    "cut.jpg": Case(lambda: truncated("JPEG"), "decode_error", "decode_error"),
    "cut.png": Case(lambda: truncated("PNG"), "decode_error", "decode_error"),
    "cut.webp": Case(lambda: truncated("WEBP"), "decode_error", "decode_error"),
    "moving.gif": Case(lambda: animated("GIF"), "unknown_format", "unknown_format"),
    "moving.webp": Case(lambda: animated("WEBP"), "kept", "kept"),
    "moving.png": Case(lambda: animated("PNG"), "kept", "kept"),
    "print.jpg": Case(cmyk, "kept", "kept"),
    "grey16.png": Case(grey_16_bit, "kept", "kept"),
    "colour16.png": Case(colour_16_bit, "kept", "kept"),
    "wide.jpg": Case(wide, "kept", "kept"),
    "page.jpg": Case(
        lambda: b"<!DOCTYPE html><html>this photograph is gone</html>", "unknown_format", "unknown_format"
    ),
    "empty.jpg": Case(lambda: b"", "no_bytes", "unknown_format"),
}
"""By the name that the image is served and stored under."""


def _picture(seed: int = 0) -> Image.Image:
    return Image.open(io.BytesIO(noise(1000 + seed)))


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
