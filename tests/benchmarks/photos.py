"""Photographs to measure with: copies of a folder's JPEGs, made distinct without touching a pixel, and captions."""

import io
import json
import random
from pathlib import Path
from typing import Any

import simplejpeg
from PIL import Image

_WORDS = (
    "a a a the of on in with and two man woman dog cat street red white small large sitting standing riding holding "
    "table plate bench bicycle train baseball player field water snow grass building kitchen next to front"
)
CAPTIONS = 5
"""Of each photograph, as COCO has them."""
FIRST_ID = 10_000_000
"""Beyond COCO's own, so that no hold-out list names them."""


def find(images: Path) -> list[Path]:
    """The JPEGs under a folder, in order of their paths. Raises `FileNotFoundError` where there is none."""
    found = sorted(p for p in images.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg") and p.is_file())
    if not found:
        raise FileNotFoundError(f"expected JPEG photographs, found none: {images}")
    return found


def distinct(photo: bytes, number: int) -> bytes:
    """The same picture in other bytes: a comment segment after the start marker holds `number`."""
    comment = b"copy %08d" % number
    return photo[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + photo[2:]


def shrink(photo: bytes, longer_px: int) -> bytes:
    """The same picture, its longer side `longer_px`, as a JPEG of quality 90; as it is where it is no larger."""
    with Image.open(io.BytesIO(photo)) as image:
        if max(image.size) <= longer_px:
            return photo
        small = image.convert("RGB")
        small.thumbnail((longer_px, longer_px), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90)
    return file.getvalue()


def caption(dice: random.Random, fewest: int = 7, most: int = 13) -> str:
    """Drawn words."""
    return " ".join(dice.choices(_WORDS.split(), k=dice.randint(fewest, most)))


def write_coco(photos: list[Path], folder: Path, count: int) -> int:
    """Fills `folder` as COCO lays out a split: `photos/`, `captions.json`. Returns the bytes of all photographs.

    Photograph i of `count` is a distinct copy of photo i modulo their number; its captions are drawn words, 10 of them
    on average.
    """
    (folder / "photos").mkdir(parents=True)
    dice = random.Random(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    size_bytes = 0
    for number in range(count):
        photo = distinct(photos[number % len(photos)].read_bytes(), number)
        height, width, *_ = simplejpeg.decode_jpeg_header(photo)
        id, name = FIRST_ID + number, f"{FIRST_ID + number:012d}.jpg"
        (folder / "photos" / name).write_bytes(photo)
        size_bytes += len(photo)
        images.append({"id": id, "file_name": name, "width": width, "height": height, "license": 4})
        for _ in range(CAPTIONS):
            annotations.append({"id": len(annotations), "image_id": id, "caption": caption(dice)})
    document = {"licenses": [{"id": 4, "name": "CC BY", "url": ""}], "images": images, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(document))
    return size_bytes


def warm(folder: Path) -> None:
    """Reads every file once, so that the page cache holds it."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()
