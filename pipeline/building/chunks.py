"""A chunk of a source's candidates becomes a shard, in a worker process, with notes for what is decided later.

It is written as if none of its images showed an evaluation image or had a double in another chunk; `decide.py` then
says which do, and `write.py` writes the few shards again that this changes. What a chunk leaves in `.parts/`:

    000012.tar              the shard
    000012.arrow            a row per sample: the index's columns, `came` and `look`
    000012.ledger.parquet   a line per annotation row
    000012.stamps.arrow     every image that was looked for, and the stamp of its file
    000012.json             counts, and the digest of all that the chunk was made from; written last
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from pipeline.building.examine import Check, ImageError, Seen, examine, stored_bytes
from pipeline.files import read_json, replacing, write_json
from pipeline.holdout import BlockList, is_val2017, open_kinds
from pipeline.ledger import Line, write_ledger
from pipeline.locate import Locate
from pipeline.manifest import Source
from pipeline.rows import Candidate
from shards.format import FORMAT_VERSION, Entry, ShardWriter
from shards.index import SCHEMA
from shards.indexing import table_of

BUILD_VERSION = 5
"""Raised when the same files give other shards."""
PARTS = ".parts"
"""Folder in a dataset's: what an unfinished build has made so far."""
PART_SCHEMA = pa.schema(
    [*SCHEMA, pa.field("came", pa.binary(32), nullable=False), pa.field("look", pa.uint64(), nullable=False)]
)
"""`came`: sha256 of the image as it came, which is not the stored one's where it was turned or shrunk; `look`:
`pipeline.holdout.look_of` it."""
STAMPS_SCHEMA = pa.schema([("image", pa.string()), ("stamp", pa.string())])


@dataclass(frozen=True)
class Fate:
    """A candidate, and what is known of what becomes of it before its image is opened."""

    candidate: Candidate
    outcome: str = "kept"
    detail: str = ""
    file: bytes = b""
    """Where its image lies: a path as the system has it."""
    stamp: str = ""
    """Size and time of change of that file."""


_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Fate).decode


@dataclass(frozen=True)
class Chunk:
    """A shard to fill."""

    part: Path
    """What it leaves is called so, but for the ending."""
    fates: tuple[bytes, ...]
    """Packed: a chunk waits for its worker in a tenth of what the objects take."""
    source: str
    apply_orientation: bool
    shorter_side_px: int | None
    check: Check

    @property
    def sha256(self) -> str:
        """Of all that the shard depends on, the images' contents by their stamps."""
        how = repr(
            (BUILD_VERSION, FORMAT_VERSION, self.source, self.apply_orientation, self.shorter_side_px, self.check)
        )
        return hashlib.sha256(b"\n".join((how.encode(), *self.fates))).hexdigest()


def chunks(
    source: Source,
    candidates: Iterable[Candidate],
    folder: Path,
    blocked: BlockList,
    locate: Locate,
    shorter_side_px: int | None,
    check: Check,
) -> Iterator[Chunk]:
    """Shards to fill with `candidates`, `samples_per_shard` of them to a chunk.

    A candidate to train on is held out by its ids, and where its URL or path says COCO val2017.
    """
    left, is_turning = iter(candidates), source.orientation == "apply"
    for number in itertools.count():
        some = itertools.islice(left, source.samples_per_shard)
        fates = tuple(_pack(_fate(candidate, source, blocked, locate)) for candidate in some)
        if not fates:
            return
        yield Chunk(part_path(folder, number), fates, source.name, is_turning, shorter_side_px, check)


def part_path(folder: Path, number: int) -> Path:
    """What chunk `number` leaves, but for the ending."""
    return folder / PARTS / f"{number:06d}"


def ending(part: Path, ending: str) -> Path:
    """One of the files that a chunk leaves: `ending(part, ".tar")`."""
    return part.with_name(part.name + ending)


def fill(chunk: Chunk) -> int:
    """Makes the files of a chunk, unless that was done before; returns the number of its candidates.

    Raises `OSError` as it comes from the disk: a full one as `FullDiskError`.
    """
    note, tar, inputs = ending(chunk.part, ".json"), ending(chunk.part, ".tar"), chunk.sha256
    known = read_json(note)
    if known is not None and known["inputs"] == inputs and tar.exists() and tar.stat().st_size == known["bytes"]:
        return len(chunk.fates)
    note.unlink(missing_ok=True)
    chunk.part.parent.mkdir(parents=True, exist_ok=True)
    made = _Made()
    with ShardWriter(tar) as shard:
        for fate in map(_unpack, chunk.fates):
            made.add(fate, *_kept(fate, chunk, shard), chunk.source)
    write_table(ending(chunk.part, ".arrow"), made.table())
    write_table(ending(chunk.part, ".stamps.arrow"), pa.Table.from_pylist(made.stamps, STAMPS_SCHEMA))
    counts = write_ledger(ending(chunk.part, ".ledger.parquet"), made.ledger)
    said = {
        "inputs": inputs,
        "candidates": len(chunk.fates),
        "counts": dict(sorted(counts.items())),
        "kinds": sorted(made.kinds),
        "bytes": shard.size_bytes,
        "sha256": shard.sha256,
    }
    write_json(note, said)
    return len(chunk.fates)


def _kept(fate: Fate, chunk: Chunk, shard: ShardWriter) -> tuple[str, str, tuple[Entry, Seen] | None]:
    """(outcome, detail, where the sample lies and what its image is)."""
    if not fate.file:
        return fate.outcome, fate.detail, None
    sample = fate.candidate.sample
    with open(fate.file, "rb", buffering=0) as file:
        data = file.readall()
    try:
        seen = examine(data, chunk.apply_orientation, chunk.check)
        stated = (sample.width, sample.height)
        if 0 not in stated and stated != (seen.width, seen.height):
            raise ImageError("size_mismatch", f"expected {stated} pixels as annotated, found {seen.width, seen.height}")
        image, size = stored_bytes(data, seen, chunk.shorter_side_px)
    except ImageError as error:
        return error.reason, f"{error}: {fate.candidate.image}", None
    digest = seen.sha256 if image is data else hashlib.sha256(image).hexdigest()
    entry = shard.add(replace(sample, width=size[0], height=size[1], sha256=digest), image)
    return "kept", "", (entry, seen)


class _Made:
    """What a chunk has given so far."""

    def __init__(self) -> None:
        self.entries: list[tuple[Entry, Seen]] = []
        self.ledger: list[Line] = []
        self.stamps: list[dict[str, str]] = []
        self.kinds: set[str] = set()
        """Of ids that may belong to an evaluation set whose list is not on disk."""

    def add(self, fate: Fate, outcome: str, detail: str, kept: tuple[Entry, Seen] | None, source: str) -> None:
        candidate, sample = fate.candidate, fate.candidate.sample
        key = sample.key if kept else None
        self.ledger += [Line(source, row, key, outcome, detail) for row in candidate.rows]
        self.ledger += [Line(source, each.row, None, each.reason, each.detail) for each in candidate.refused]
        if fate.file or fate.outcome not in ("no_text", "held_out"):
            self.stamps.append({"image": candidate.image, "stamp": fate.stamp})
        if kept:
            self.entries.append(kept)
            self.kinds |= open_kinds(sample.ids, (sample.url, candidate.image, os.fsdecode(fate.file)))

    def table(self) -> pa.Table:
        entries, seen = [entry for entry, _ in self.entries], [seen for _, seen in self.entries]
        columns = table_of(entries).columns
        columns.append(pa.array([bytes.fromhex(each.sha256) for each in seen], pa.binary(32)))
        columns.append(pa.array([each.look for each in seen], pa.uint64()))
        return pa.table(columns, schema=PART_SCHEMA)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes an Arrow file, whole or not at all."""
    with (
        replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)


def read_table(path: Path) -> pa.Table:
    """An Arrow file of a part, memory-mapped."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def note_of(part: Path) -> dict[str, Any]:
    """What is said of a part that was made."""
    note = read_json(ending(part, ".json"))
    assert note is not None, part
    return note


def _fate(candidate: Candidate, source: Source, blocked: BlockList, locate: Locate) -> Fate:
    if not candidate.sample.texts:
        return Fate(candidate, "no_text")
    if source.role == "train" and (id := blocked.blocking(candidate.sample.ids)):
        return Fate(candidate, "held_out", id)
    found = locate(candidate.image)
    path = found if isinstance(found, str) else found.path
    if source.role == "train" and is_val2017((candidate.sample.url, candidate.image, path)):
        return Fate(candidate, "held_out", "of COCO val2017, by its url or path")
    if isinstance(found, str):
        return Fate(candidate, found, candidate.image)
    return Fate(candidate, file=os.fsencode(path), stamp=found.stamp)
