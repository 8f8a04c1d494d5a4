"""Looking at images: is it one, whole, of what size, and what does it look like. In chunks, by worker processes."""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from bitgen.image import MAX_PIXELS, DecodeError, decode
from bitgen.record import Sample
from pipeline.files import replacing
from pipeline.holdout import look_of
from pipeline.rows import Candidate, Refusal
from shards.format import ShardError, image_extension

MAX_IMAGE_BYTES = 64 << 20
MIN_SIDE_PX = 16
FORMATS = ("JPEG", "PNG", "WEBP")
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Fate:
    """A candidate, and what is known so far of what becomes of it."""

    candidate: Candidate
    outcome: str = "kept"
    detail: str = ""
    file: str = ""
    """Where its image lies."""
    stamp: str = ""
    """Size and time of change of that file."""
    sha256: str = ""
    """Of that file: of the image as it came."""
    look: int = 0
    """`pipeline.holdout.look_of`."""

    def to_line(self) -> str:
        """As one line of JSON."""
        candidate = self.candidate
        refused = [[r.row, r.reason, r.detail] for r in candidate.refused]
        own = {
            "sample": candidate.sample.to_json(),
            "image": candidate.image,
            "rows": candidate.rows,
            "refused": refused,
        }
        rest = [self.outcome, self.detail, self.file, self.stamp, self.sha256, self.look]
        return json.dumps([own, rest])

    @staticmethod
    def from_line(line: str) -> "Fate":
        """The inverse of `to_line`."""
        own, rest = json.loads(line)
        refused = tuple(Refusal(*r) for r in own["refused"])
        return Fate(Candidate(Sample.from_json(own["sample"]), own["image"], tuple(own["rows"]), refused), *rest)


class ImageError(ValueError):
    """These bytes are not an image that can be kept; `reason` is the outcome of its rows."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Chunk:
    """A survey to make: fates that are decided so far, as lines, and the file for the answer."""

    part: Path
    lines: tuple[str, ...]
    apply_orientation: bool

    @property
    def sha256(self) -> str:
        """Of all that the answer depends on, the images' contents by their stamps."""
        return hashlib.sha256("\n".join((str(self.apply_orientation), *self.lines)).encode()).hexdigest()


def stamp_of(path: Path) -> str:
    """Size and time of change of a file, by which a later build knows it again."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def survey(chunk: Chunk) -> int:
    """Looks at every image of the chunk that is still `kept`; answers in `chunk.part`, unless that was done before.

    Returns the number of candidates.
    """
    if chunk.part.exists() and inputs_of(chunk.part) == chunk.sha256:
        return len(chunk.lines)
    with replacing(chunk.part) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(chunk.sha256 + "\n")
        for line in chunk.lines:
            fate = Fate.from_line(line)
            if fate.file:
                fate = _seen(fate, chunk.apply_orientation)
            file.write(fate.to_line() + "\n")
    return len(chunk.lines)


def inputs_of(part: Path) -> str:
    """`Chunk.sha256` of what a part was made from."""
    with part.open(encoding="utf-8") as file:
        return file.readline().strip()


def read_part(part: Path) -> Iterator[Fate]:
    """The fates in a surveyed part, in order."""
    with part.open(encoding="utf-8") as file:
        file.readline()
        yield from map(Fate.from_line, file)


def _seen(fate: Fate, apply_orientation: bool) -> Fate:
    sample, path = fate.candidate.sample, Path(fate.file)
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise ImageError("too_large", f"expected at most {MAX_IMAGE_BYTES} bytes, found {path.stat().st_size}")
        data = path.read_bytes()
        image = open_image(data, apply_orientation)
        stated = (sample.width, sample.height)
        if 0 not in stated and stated != image.size:
            raise ImageError("size_mismatch", f"expected {stated} pixels as annotated, found {image.size}")
    except ImageError as error:
        return replace(fate, outcome=error.reason, detail=f"{error}: {path.name}")
    sample = replace(sample, width=image.width, height=image.height)
    candidate = replace(fate.candidate, sample=sample)
    return replace(fate, candidate=candidate, sha256=hashlib.sha256(data).hexdigest(), look=look_of(image))


def open_image(data: bytes, apply_orientation: bool) -> Image.Image:
    """The image as the loader will decode it, to its last pixel; RGB, turned as its EXIF says where that applies.

    Raises `ImageError` for what is no JPEG, PNG or WebP, is damaged in any way, or is too large or too small.
    """
    try:
        image_extension(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as header:
            size, orientation = header.size, header.getexif().get(_EXIF_ORIENTATION, 1)
        if size[0] * size[1] > MAX_PIXELS:
            raise ImageError("too_large", f"expected at most {MAX_PIXELS} pixels, found {size}")
        if min(size) < MIN_SIDE_PX:
            raise ImageError("too_small", f"expected sides of {MIN_SIDE_PX} pixels or more, found {size}")
        image = Image.fromarray(decode(data).permute(1, 2, 0).numpy())
    except ShardError as error:
        raise ImageError("unknown_format", str(error)) from error
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except (DecodeError, OSError, SyntaxError, EOFError) as error:
        raise ImageError("decode_error", str(error)) from error
    return _turned(image, orientation) if apply_orientation else image


def is_turned(data: bytes) -> bool:
    """Whether the EXIF orientation of an image that `open_image` takes says other than upright."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as header:
        return header.getexif().get(_EXIF_ORIENTATION, 1) in range(2, 9)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image upright, by its EXIF orientation; 1 and what is none of 2..8 leave it as it is."""
    transpose = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return image if transpose is None else image.transpose(transpose)
