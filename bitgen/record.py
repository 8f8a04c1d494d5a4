"""What BitGen knows of one image: `Box`, `Phrase`, `Text`, `Sample`; plain values that travel as JSON."""

import hashlib
import math
from dataclasses import dataclass

import msgspec
import numpy as np


class RecordError(ValueError):
    """A record breaks its own rules: a box outside its image, a span outside its text, a missing field."""


class Box(msgspec.Struct, frozen=True, gc=False):
    """Corners in fractions of the image: 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1."""

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        if 0 <= self.x0 < self.x1 <= 1 and 0 <= self.y0 < self.y1 <= 1:  # which NaN never passes
            return
        corners = (self.x0, self.y0, self.x1, self.y1)
        if not all(math.isfinite(c) for c in corners):
            raise RecordError(f"expected four finite corners, found {corners}")
        raise RecordError(f"expected 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, found {corners}")


class Phrase(msgspec.Struct, frozen=True, gc=False):
    """Characters [start, stop) of a text, and the one or more boxes that they name."""

    start: int
    stop: int
    boxes: tuple[Box, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise RecordError(f"expected 0 <= start < stop, found [{self.start}, {self.stop})")
        if not self.boxes:
            raise RecordError(f"expected one or more boxes for characters [{self.start}, {self.stop}), found none")


class Text(msgspec.Struct, frozen=True, gc=False):
    """A string and its phrases: none for a caption, one for a referring expression, several for a grounded sentence."""

    text: str
    phrases: tuple[Phrase, ...] = ()

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise RecordError("expected a text, found only white space")
        for phrase in self.phrases:
            if phrase.stop > len(self.text):
                found = f"[{phrase.start}, {phrase.stop})"
                raise RecordError(f"expected a span within {len(self.text)} characters, found {found}")


@dataclass(frozen=True)
class Sample:
    """One image with all its texts.

    Until the image has been read (`pipeline/build.py`), `width`, `height` may be 0 and `sha256` is empty.
    """

    key: str
    """Unique within a source, and a safe member name: `coco-000000391895`."""
    source: str
    split: str
    ids: tuple[str, ...]
    """Every id the image is known under, as `coco:391895`, `vg:2317`, `flickr:7866247804`, sorted."""
    width: int
    """Pixels, after orientation."""
    height: int
    licence: str
    url: str
    sha256: str
    """Hexadecimal digest of the stored image bytes."""
    texts: tuple[Text, ...]

    def to_json(self) -> str:
        """One line, keys sorted, so that equal samples give equal bytes."""
        return _encoder.encode(self).decode()

    @staticmethod
    def from_json(line: str | bytes) -> "Sample":
        """The inverse of `to_json`. Raises `RecordError` where a field is missing or of another type, or where a box, a
        phrase or a text breaks its rules; fields of later versions are passed over."""
        try:
            return _decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise RecordError(f"expected a Sample as JSON, found {line[:80]!r}: {error}") from error


def _plain(value: np.generic) -> float | int | str:
    """Python's number of numpy's."""
    return value.item()


_encoder, _decoder = msgspec.json.Encoder(order="sorted", enc_hook=_plain), msgspec.json.Decoder(Sample)


def image_id(sample: Sample) -> int:
    """One number per photograph, whatever its source: the first 8 bytes of the SHA-256 of its preferred id, signed.

    Preferred is the first `coco:` id, else `flickr:`, else `vg:`, else `sha256:` and the digest of the stored bytes.
    Two sources agree only if both know the preferred id. Raises `RecordError` where there is
    neither an id nor a digest.
    """
    for space in ("coco:", "flickr:", "vg:"):
        known = sorted(i for i in sample.ids if i.startswith(space))
        if known:
            return _hash64(known[0])
    if not sample.sha256:
        raise RecordError(f"expected an id or a digest of the image, found neither: {sample.key}")
    return _hash64(f"sha256:{sample.sha256}")


def _hash64(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
