"""A decided part becomes a shard: as it is, or, where something of it is left out or joined, written again."""

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bitgen.disk import room_for, sync
from bitgen.record import Sample
from pipeline.building.chunks import PART_SCHEMA, ending, note_of, read_table, write_table
from pipeline.building.decide import Plan
from pipeline.files import read_json, write_json
from shards.format import Entry, ShardWriter, read_members, read_sample, shard_name, shard_number
from shards.index import SCHEMA
from shards.indexing import array_of, table_of

_TABLE, _NOTE = ".shard.arrow", ".shard.json"
"""Endings of what a shard that was written again leaves beside its part."""


@dataclass(frozen=True)
class ShardTask:
    """One shard to make of a part."""

    part: Path
    path: Path
    """Of the shard."""
    dropped: frozenset[int]
    """Rows of the part that do not go in."""
    joined: tuple[tuple[int, tuple[tuple[Path, int], ...]], ...]
    """(row, (part, row) of the later samples whose texts and ids it takes in)."""
    keeps_all: bool
    """Of an evaluation set: a text that two samples have stays twice, as it is counted."""

    @property
    def sha256(self) -> str:
        """Of all that the shard depends on."""
        joined = [[row, [[note_of(part)["inputs"], other] for part, other in others]] for row, others in self.joined]
        said = [note_of(self.part)["inputs"], sorted(self.dropped), joined, self.keeps_all]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True)
class ShardDone:
    """A shard on disk."""

    listed: dict[str, Any]
    """As `dataset.json` lists it: file, samples, bytes, sha256."""
    table: Path
    """Its samples in order, with the columns of `pipeline.building.chunks.PART_SCHEMA`."""

    def index(self) -> pa.Table:
        """Its rows of the index."""
        table, column = read_table(self.table).select(SCHEMA.names), SCHEMA.get_field_index("shard")
        field = SCHEMA.field(column)
        numbers = np.full(table.num_rows, shard_number(self.listed["file"]), field.type.to_pandas_dtype())
        return table.set_column(column, field, array_of(numbers, field.type))


def shard_tasks(folder: Path, parts: Sequence[Path], plan: Plan, keeps_all: bool) -> Iterator[ShardTask]:
    """A task for every part that has samples left, in order."""
    with_samples = [number for number, samples in enumerate(plan.samples) if samples]
    for shard, number in enumerate(with_samples):
        dropped, joined = frozenset[int](), {}
        if change := plan.changes.get(number):
            dropped, joined = frozenset(change.dropped), change.joined
        others = tuple((row, tuple((parts[n], r) for n, r in joined[row])) for row in sorted(joined))
        yield ShardTask(parts[number], folder / shard_name(shard), dropped, others, keeps_all)


def write_shard(task: ShardTask) -> ShardDone:
    """Makes the shard of `task`, unless that was done before. Raises `OSError` as it comes from the disk."""
    return _written_again(task) if task.dropped or task.joined else _linked(task)


def _written_again(task: ShardTask) -> ShardDone:
    note, table, inputs = ending(task.part, _NOTE), ending(task.part, _TABLE), task.sha256
    known = read_json(note)
    if known is None or known["task"] != inputs or known["file"] != _identity(task.path):
        known = {"task": inputs, "listed": _copy(task, table), "file": _identity(task.path)}
        write_json(note, known)
    return ShardDone(known["listed"], table)


def _identity(path: Path) -> list[str | int]:
    """What tells a file from another that has come to its place."""
    status = path.stat() if path.exists() else None
    return [path.name, status.st_ino, status.st_mtime_ns, status.st_size] if status else []


def _copy(task: ShardTask, table: Path) -> dict[str, Any]:
    """Writes the shard from the part's and, as `table`, its samples; returns how `dataset.json` lists it."""
    joined, rows = dict(task.joined), read_table(ending(task.part, ".arrow")).to_pylist()
    entries: list[Entry] = []
    kept = [row for row in range(len(rows)) if row not in task.dropped]
    with ShardWriter(task.path) as shard, _opened(task.part) as tar:
        for row in kept:
            entry, where = _entry(rows[row]), str(task.part)
            if row not in joined:
                entries.append(shard.copy(entry, *read_members(tar, entry, where)))
                continue
            sample, image = read_sample(tar, entry, where)
            others = [_sample(*place) for place in joined[row]]
            entries.append(shard.add(join(sample, others, task.keeps_all), image))
    looks = [rows[row] for row in kept]
    columns = table_of(entries).columns
    columns += [pa.array([each[f.name] for each in looks], f.type) for f in list(PART_SCHEMA)[len(SCHEMA) :]]
    write_table(table, pa.table(columns, schema=PART_SCHEMA))
    return {"file": task.path.name, "samples": len(entries), "bytes": shard.size_bytes, "sha256": shard.sha256}


def join(sample: Sample, others: list[Sample], keeps_all: bool) -> Sample:
    """`sample` with the texts and ids of `others`, which show the same image; without `keeps_all`, a text that is there
    is not repeated."""
    texts = [*sample.texts, *(text for other in others for text in other.texts)]
    ids = {*sample.ids, *(id for other in others for id in other.ids)}
    return replace(sample, texts=tuple(texts if keeps_all else dict.fromkeys(texts)), ids=tuple(sorted(ids)))


def _sample(part: Path, row: int) -> Sample:
    entry = _entry(read_table(ending(part, ".arrow")).slice(row, 1).to_pylist()[0])
    with _opened(part) as tar:
        return read_sample(tar, entry, str(part))[0]


def _entry(row: dict[str, Any]) -> Entry:
    values: dict[str, Any] = {name: row[name] for name in SCHEMA.names}
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Entry(**values)


@contextmanager
def _opened(part: Path) -> Iterator[mmap.mmap]:
    with ending(part, ".tar").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
        yield tar


def _linked(task: ShardTask) -> ShardDone:
    """The part's own shard under its final name, sharing its bytes where the file system can."""
    tar, note = ending(task.part, ".tar"), note_of(task.part)
    table = ending(task.part, ".arrow")
    listed = {"file": task.path.name, "samples": read_table(table).num_rows, "bytes": note["bytes"]}
    done = ShardDone(listed | {"sha256": note["sha256"]}, table)
    if task.path.exists() and task.path.samefile(tar):
        return done
    temporary = task.path.with_name(f".{task.path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    with room_for(task.path):
        try:
            try:
                os.link(tar, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(tar, temporary)
                sync(temporary)
            os.replace(temporary, task.path)
            sync(task.path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return done
