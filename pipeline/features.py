"""Datasets' patch features, made once: image shards become feature shards, in order, a shard at a time.

    data/features/<recipe>/coarse/coco-train/000000.tar   <key>.npy and <key>.json of every sample of the image shard 000000.tar
                                             index.arrow, dataset.json
                                             .parts/000000.arrow, .json   its rows of the index; what it was made of

`<recipe>` is a digest of the tower, its input and the form (`bitgen.training.features.FeatureRecipe`), `dataset.json` the image
dataset's with the digests of what it was made of. So a folder is a dataset like any other: a stream over it has the order of
the stream over the images. Records stay as they are; their sha256 is that of the image.

A shard is renamed when it is whole, and its note written after that, so whoever is killed goes on where it was. Processes and
ranks share the work: a shard that one has locked is left to it. What is written depends on none of that, nor on `workers`.
"""

import errno
import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgen.disk import FullDiskError
from bitgen.image import MAX_PIXELS, DecodeError, Transform
from bitgen.model.vision import VisionTower
from bitgen.progress import Counter, progress
from bitgen.training.features import BATCH, FeatureRecipe, members
from pipeline.building.chunks import read_table, write_table
from pipeline.downloading.room import FREE_BYTES, rooms
from pipeline.files import read_json, sweep, write_json
from shards.format import FORMAT_VERSION, Entry, ShardError, ShardWriter, shard_name
from shards.header import BLOCK, RECORD
from shards.index import DATASET, ShardIndex, write_index_tables
from shards.indexing import table_of
from shards.remote.locks import BusyError, claim, remove

log = logging.getLogger(__name__)

PARTS = ".parts"
_WAIT_S = 0.2
"""Until the shards that others are making are looked at again."""
_AHEAD = 3
"""Batches that are decoded while the tower is at one."""

Row = tuple[Entry, bytes, bool]
"""A sample's entry and record, and whether its image decodes."""


@dataclass(frozen=True)
class FeatureSet:
    """The features of one dataset."""

    images: ShardIndex
    folder: Path
    recipe: FeatureRecipe

    def inputs(self, number: int) -> str:
        """Digest of all that shard `number` is made of."""
        shard = self.images.dataset["shards"][number]
        said = f"{FORMAT_VERSION} {self.recipe.sha256} {shard['sha256']} {shard['samples']}"
        return hashlib.sha256(said.encode()).hexdigest()

    def is_made(self, number: int) -> bool:
        """Whether shard `number` is there, and of these images by this recipe."""
        note = read_json(self._part(number, ".json")) or {}
        return note.get("inputs") == self.inputs(number) and _has(self.folder / shard_name(number), note["bytes"])

    def missing(self) -> list[int]:
        """The shards that are still to be made."""
        return [] if self.is_whole() else [n for n in range(len(self.images.shard_sizes)) if not self.is_made(n)]

    def is_whole(self) -> bool:
        """Whether the dataset is finished, and of these images by this recipe."""
        said = self.dataset
        is_ours = said.get("features", {}).get("inputs") == self._all_inputs()
        return is_ours and all(_has(self.folder / shard["file"], shard["bytes"]) for shard in said["shards"])

    @property
    def dataset(self) -> dict[str, Any]:
        """What its `dataset.json` says; nothing before it is finished."""
        return read_json(self.folder / DATASET) or {}

    def check(self, index: ShardIndex) -> None:
        """Raises `ShardError` where what was opened is not of these images by this recipe, or was replaced since."""
        found = [said.get("features", {}).get("inputs") for said in (index.dataset, self.dataset)]
        if found != 2 * [self._all_inputs()]:
            raise ShardError(
                f"expected features of {self.images.files.place} as it is now, found others: {self.folder}"
            )

    def shard_bytes(self) -> NDArray[np.int64]:
        """[shards] of all shards, made or not."""
        blocks = 2 - (-self.recipe.form.size_bytes // BLOCK) - (-self.images.record_sizes // BLOCK)
        ends = np.cumsum(self.images.shard_sizes, dtype=np.int64)
        sums = np.concatenate([[0], np.cumsum(blocks)])
        content = (sums[ends] - sums[np.concatenate([[0], ends[:-1]])] + 2) * BLOCK
        return -(-content // RECORD) * RECORD

    def make(self, number: int, tower: VisionTower, pool: Executor, counter: Counter | None = None) -> bool:
        """Makes shard `number`, unless that was done before. False where another process is at it."""
        self._part(number, "").parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = claim(self._part(number, ".lock"))
        except BusyError:
            return False
        try:
            if self.is_made(number):
                if counter is not None:
                    counter.update(self.images.shard_sizes[number])
            else:
                (self.folder / DATASET).unlink(missing_ok=True)  # from here on it is not whole
                self._part(number, ".json").unlink(missing_ok=True)
                self._write(number, tower, pool, counter)
            return True
        finally:
            os.close(handle)

    def _write(self, number: int, tower: VisionTower, pool: Executor, counter: Counter | None) -> None:
        entries: list[Entry] = []
        unreadable = 0
        with ShardWriter(self.folder / shard_name(number)) as shard:
            for rows, images in self._decoded(number, pool):
                made = members(tower, self.recipe, images, [is_readable for *_, is_readable in rows])
                for (entry, record, is_readable), member in zip(rows, made, strict=True):
                    ours = entry._replace(extension="npy", image_size=len(member))
                    entries.append(shard.copy(ours, record, member))
                    unreadable += not is_readable
                if counter is not None:
                    counter.update(len(rows))
        write_table(self._part(number, ".arrow"), table_of(entries))
        note = {"inputs": self.inputs(number), "unreadable": unreadable}
        note |= {"file": shard.path.name, "samples": shard.samples, "bytes": shard.size_bytes, "sha256": shard.sha256}
        write_json(self._part(number, ".json"), note)

    def finish(self) -> None:
        """Removes what does not belong, and writes what stands beside the shards, all of them made; `dataset.json` last."""
        numbers = range(len(self.images.shard_sizes))
        notes = [read_json(self._part(number, ".json")) for number in numbers]
        listed = [{name: note[name] for name in ("file", "samples", "bytes", "sha256")} for note in notes if note]
        names = {shard["file"] for shard in listed}
        for path in (*self.folder.glob("*.tar"), *self.folder.glob("*.partial")):
            if path.name not in names:
                path.unlink(missing_ok=True)
        for path in (self.folder / PARTS).glob("[0-9]*"):
            if shard_name(int(path.stem)) not in names:
                path.unlink(missing_ok=True)
            elif path.suffix == ".lock":
                remove(path)
        for folder in (self.folder, self.folder / PARTS):
            sweep(folder)
        write_index_tables(self.folder, (read_table(self._part(number, ".arrow")) for number in numbers))
        said = self.recipe.said() | {"unreadable": sum(note["unreadable"] for note in notes if note)}
        said |= {"inputs": self._all_inputs(), "images": [s["sha256"] for s in self.images.dataset["shards"]]}
        write_json(self.folder / DATASET, {**self.images.dataset, "features": said, "shards": listed})

    def _decoded(self, number: int, pool: Executor) -> Iterator[tuple[list[Row], Tensor]]:
        """Batches of the shard's samples and their images [B, 3, S, S], in order."""
        first, count = sum(self.images.shard_sizes[:number]), self.images.shard_sizes[number]
        transform = Transform(self.recipe.image_px)
        coming: deque[tuple[list[Future[Row]], Tensor]] = deque()
        for start in range(first, first + count, BATCH):
            stop = min(start + BATCH, first + count)
            memory = torch.empty((stop - start, *transform.shape), dtype=torch.uint8)
            rows = zip(range(start, stop), memory, strict=True)
            coming.append(([pool.submit(_decode, self.images, transform, i, out) for i, out in rows], memory))
            if len(coming) > _AHEAD:
                yield _waited(*coming.popleft())
        while coming:
            yield _waited(*coming.popleft())

    def _all_inputs(self) -> str:
        shards = range(len(self.images.shard_sizes))
        return hashlib.sha256("".join(map(self.inputs, shards)).encode()).hexdigest()

    def _part(self, number: int, ending: str) -> Path:
        return self.folder / PARTS / f"{number:06d}{ending}"


def _decode(images: ShardIndex, transform: Transform, i: int, out: Tensor) -> Row:
    entry, record, image = images.members(i)
    try:
        transform.fill(image, (entry.width, entry.height), out, 0, 0, MAX_PIXELS)
    except DecodeError as error:
        log.warning("no features of %s: %s", entry.key, error)
        out.zero_()
        return entry, record, False
    return entry, record, True


def _waited(rows: list[Future[Row]], memory: Tensor) -> tuple[list[Row], Tensor]:
    return [row.result() for row in rows], memory.permute(0, 3, 1, 2)


def make_features(sets: Mapping[str, FeatureSet], tower: VisionTower, workers: int, *, speaks: bool = True) -> None:
    """Makes what is missing of `sets`, by name, with the tower where its weights are.

    Args:
        workers: threads that read and decode.
        speaks: say what will be made and show how far it is.

    Raises `FullDiskError`, before anything is written where the disk has too little room; `ShardError` and `OSError` where
    images cannot be read.
    """
    missing = {name: each.missing() for name, each in sets.items() if not each.is_whole()}
    sizes = {name: each.shard_bytes() for name, each in sets.items()}
    needed = {name: int(sizes[name][numbers].sum()) for name, numbers in missing.items()}
    if speaks:
        for name, each in sets.items():
            log.info("%s", _described(name, each, int(sizes[name].sum()), needed.get(name, 0)))
    check_room((sets[name].folder, size) for name, size in needed.items())
    images = {name: sum(sets[name].images.shard_sizes[n] for n in numbers) for name, numbers in missing.items()}
    shown = progress("features", sum(images.values()), "images") if speaks else nullcontext()
    with ThreadPoolExecutor(workers, "bitgen-decode") as pool, shown as counter:
        try:
            for name, numbers in missing.items():
                _make(sets[name], numbers, tower, pool, counter)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def check_room(needs: Iterable[tuple[Path, int]]) -> None:
    """Raises `FullDiskError` where a disk has less room than the features, (folder, bytes), that go to it."""
    for room in rooms(needs):
        if room.needed and room.needed + FREE_BYTES > room.free:
            needed, free = (room.needed + FREE_BYTES) / 1e9, room.free / 1e9
            what = f"expected {needed:,.2f} GB free for features, found {free:,.2f} GB"
            raise FullDiskError(errno.ENOSPC, what, str(room.place))


def _make(
    features: FeatureSet, numbers: list[int], tower: VisionTower, pool: Executor, counter: Counter | None
) -> None:
    waiting = numbers
    while waiting:
        waiting = [number for number in waiting if not features.make(number, tower, pool, counter)]
        if waiting:
            time.sleep(_WAIT_S)
    while not features.is_whole():
        features.folder.joinpath(PARTS).mkdir(parents=True, exist_ok=True)
        try:
            handle = claim(features.folder / PARTS / "finish.lock")
        except BusyError:
            time.sleep(_WAIT_S)
            continue
        try:
            if not features.is_whole():
                features.finish()
        finally:
            os.close(handle)


def _described(name: str, features: FeatureSet, whole: int, needed: int) -> str:
    form, count = features.recipe.form, len(features.images)
    [room] = rooms([(features.folder, needed)])
    return (
        f"features of {name}: {count:,} images x {form.size_bytes / 1e3:,.0f} KB = {whole / 1e9:,.2f} GB, "
        f"{needed / 1e9:,.2f} GB of it to come, {room.free / 1e9:,.1f} GB free: {features.folder}"
    )


def feature_sets(indexes: Mapping[str, ShardIndex], place: Path, recipe: FeatureRecipe) -> dict[str, FeatureSet]:
    """The features of datasets below the folder of all features, made or not."""
    return {name: FeatureSet(index, place / recipe.sha256[:16] / name, recipe) for name, index in indexes.items()}


def facts(features: FeatureSet) -> str:
    """What was made, in a few words."""
    said = features.dataset["features"]
    return f"{len(features.images):,} images, {said['unreadable']} of them unreadable, as {said['kind']}"


def _has(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes
