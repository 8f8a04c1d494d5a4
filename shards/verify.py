"""Open everything, compare it with the index: slow, and sure."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from bitgen.disk import file_sha256
from bitgen.image import DecodeError, decode
from bitgen.record import Sample
from shards.format import Entry, ShardError, scan, shard_name
from shards.index import DATASET, ShardIndex


@dataclass(frozen=True)
class Report:
    """What a dataset holds, counted from its shards."""

    name: str
    shards: int
    size_bytes: int
    """Of the shards."""
    samples: int
    texts: int
    phrases: int
    boxes: int
    decoded: int
    """Images that were decoded, all of them or none."""


def verify(folder: str | Path, images: bool = True) -> Report:
    """Read every shard from its start and hold it against `index.arrow` and `dataset.json`.

    Digests of shards and images, every member's place, name and record, and all counts are compared; with `images`,
    every image is decoded too and its size compared. Raises `ShardError`, naming shard and member, at the first
    difference.
    """
    index = ShardIndex.open(folder)
    keys: set[str] = set()
    texts = phrases = boxes = 0
    for number, listed in enumerate(index.dataset["shards"]):
        path = index.folder / shard_name(number)
        digest = file_sha256(path)
        if digest != listed["sha256"]:
            raise ShardError(f"expected sha256 {listed['sha256']}, found {digest}: {path}")
        first, found = len(keys), 0
        for entry, sample, image in scan(path):
            if found == listed["samples"]:
                raise ShardError(f"expected {found} samples, found another, {entry.key}: {path}")
            _compare(index.entry(first + found), entry, path)
            if entry.key in keys:
                raise ShardError(f"expected keys that differ, found {entry.key} twice: {path}")
            _check_image(sample, image, images, path)
            keys.add(entry.key)
            found += 1
            texts, phrases, boxes = texts + len(entry.tokens), phrases + sum(entry.phrases), boxes + entry.boxes
        if found != listed["samples"]:
            raise ShardError(f"expected {listed['samples']} samples, found {found}: {path}")
    size = sum(shard["bytes"] for shard in index.dataset["shards"])
    decoded = len(keys) if images else 0
    report = Report(index.name, len(index.shard_sizes), size, len(keys), texts, phrases, boxes, decoded)
    for name in ("texts", "phrases", "boxes"):
        counted = asdict(report)[name]
        if index.dataset.get(name, counted) != counted:
            raise ShardError(f"expected {index.dataset[name]} {name}, found {counted}: {index.folder / DATASET}")
    return report


def _compare(expected: Entry, found: Entry, path: Path) -> None:
    if expected != found:
        differences = [
            f"{name} {value!r}, found {asdict(found)[name]!r}"
            for name, value in asdict(expected).items()
            if value != asdict(found)[name]
        ]
        raise ShardError(f"expected of {expected.key} {'; '.join(differences)}: {path}")


def _check_image(sample: Sample, image: bytes, whole: bool, path: Path) -> None:
    digest = hashlib.sha256(image).hexdigest()
    if digest != sample.sha256:
        raise ShardError(f"expected an image with sha256 {sample.sha256}, found {digest}: {sample.key}, {path}")
    if not whole:
        return
    try:
        _, height, width = decode(image).shape
    except DecodeError as error:
        raise ShardError(f"{error}: {sample.key}, {path}") from error
    if (width, height) != (sample.width, sample.height):
        size = f"{sample.width}x{sample.height}"
        raise ShardError(f"expected an image of {size}, found {width}x{height}: {sample.key}, {path}")
