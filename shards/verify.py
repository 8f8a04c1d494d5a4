"""Open everything, compare it with the index: slow, and sure."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitgen.pixels import DecodeError, grey, size
from bitgen.record import Sample
from shards.files import check_sha256
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


def verify(folder: str | Path, images: bool = True, seen: Callable[[Sample], object] | None = None) -> Report:
    """Read every shard from its start and hold it against `index.arrow`, `dataset.json` and what webdataset reads.

    Digests of shards and images, every member's place, name and record, and all counts are compared; with `images`,
    every image is decoded too and its size compared. `seen` is handed each record, in order, and what it raises ends
    the reading. Raises `ShardError`, naming shard and member, at the first difference. Memory does not grow with the
    samples but for 32 bytes of each. A shard is read twice, for its digest and for its members: the second time from
    the page cache, where 256 MB find room.
    """
    index = ShardIndex.open(folder)
    index.check()
    _check_keys(index)
    counts = dict.fromkeys(("samples", "texts", "phrases", "boxes"), 0)
    for number in range(len(index.shard_sizes)):
        for entry, sample in _read_shard(index, number, images):
            counts["samples"] += 1
            counts["texts"] += len(entry.tokens)
            counts["phrases"] += sum(entry.phrases)
            counts["boxes"] += entry.boxes
            if seen is not None:
                seen(sample)
    for name, counted in counts.items():
        if index.dataset.get(name, counted) != counted:
            raise ShardError(f"expected {index.dataset[name]} {name}, found {counted}: {index.folder / DATASET}")
    size_bytes = sum(shard["bytes"] for shard in index.dataset["shards"])
    decoded = counts["samples"] if images else 0
    return Report(index.name, len(index.shard_sizes), size_bytes, **counts, decoded=decoded)


def _check_keys(index: ShardIndex) -> None:
    """Raises `ShardError` where two samples have one key. Strings of 4M keys would take 400 MB, their hashes 32."""
    hashes = np.fromiter((hash(index.key(i)) for i in range(len(index))), np.int64, len(index))
    order = np.argsort(hashes, kind="stable")
    again = np.flatnonzero(np.diff(hashes[order]) == 0)
    keys: set[str] = set()
    for i in np.unique(order[np.concatenate([again, again + 1])]).tolist():
        entry = index.entry(i)
        if entry.key in keys:
            path = index.folder / shard_name(entry.shard)
            raise ShardError(f"expected keys that differ, found {entry.key} twice: {path}")
        keys.add(entry.key)


def _read_shard(index: ShardIndex, number: int, images: bool) -> Iterator[tuple[Entry, Sample]]:
    """The samples of a shard as it holds them, each compared with the index."""
    from webdataset.compat import WebDataset  # which imports torch, 1.4 s that whoever verifies nothing does not spend

    path, listed = index.folder / shard_name(number), index.dataset["shards"][number]
    check_sha256(path, listed["sha256"], str(path))
    first, found, theirs = sum(index.shard_sizes[:number]), 0, iter(WebDataset(str(path), shardshuffle=False))
    for entry, sample, image in scan(path):
        if found == listed["samples"]:
            raise ShardError(f"expected {found} samples, found another, {entry.key}: {path}")
        _compare(index.entry(first + found), entry, path)
        read = next(theirs, {})
        if (read.get("__key__"), read.get(entry.extension)) != (entry.key, image):
            raise ShardError(f"expected webdataset to read {entry.key}, found {read.get('__key__')!r}: {path}")
        _check_image(sample, image, images, path)
        found += 1
        yield entry, sample
    if found != listed["samples"]:
        raise ShardError(f"expected {listed['samples']} samples, found {found}: {path}")


def _compare(expected: Entry, found: Entry, path: Path) -> None:
    if expected != found:
        differences = [
            f"{name} {str(value)[:80]}, found {str(other)[:80]}"
            for name, value, other in zip(Entry._fields, expected, found, strict=True)
            if value != other
        ]
        raise ShardError(f"expected of {expected.key} {'; '.join(differences)}: {path}")


def _check_image(sample: Sample, image: bytes, whole: bool, path: Path) -> None:
    digest = hashlib.sha256(image).hexdigest()
    if digest != sample.sha256:
        raise ShardError(f"expected an image with sha256 {sample.sha256}, found {digest}: {sample.key}, {path}")
    if not whole:
        return
    try:
        width, height = size(image)
        grey(image, 1)
    except DecodeError as error:
        raise ShardError(f"{error}: {sample.key}, {path}") from error
    if (width, height) != (sample.width, sample.height):
        expected = f"{sample.width}x{sample.height}"
        raise ShardError(f"expected an image of {expected}, found {width}x{height}: {sample.key}, {path}")
