"""Where each sample lies: `index.arrow`, opened memory-mapped, and `dataset.json`, which is written last."""

import json
import mmap
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import fields
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bitgen.disk import sync
from bitgen.record import Sample
from shards.format import FORMAT_VERSION, Entry, ShardError, read_sample, shard_name, shard_number

__all__ = ["DATASET", "INDEX", "SCHEMA", "ShardIndex", "write_index"]

INDEX = "index.arrow"
DATASET = "dataset.json"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("image_offset", pa.int64(), nullable=False),
        pa.field("image_size", pa.int64(), nullable=False),
        pa.field("json_offset", pa.int64(), nullable=False),
        pa.field("json_size", pa.int64(), nullable=False),
        pa.field("extension", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("tokens", pa.list_(pa.field("item", pa.uint16(), nullable=False)), nullable=False),
        pa.field("phrases", pa.list_(pa.field("item", pa.uint16(), nullable=False)), nullable=False),
        pa.field("boxes", pa.int32(), nullable=False),
    ]
)

_NUMBERS = tuple(field.name for field in SCHEMA if pa.types.is_integer(field.type))
_ROWS = 65536
"""Rows of each record batch but the last, so that a row number gives its batch by a shift."""
_OPEN_SHARDS = 64
"""Maps held at once: each holds a file handle, and a process has 1,024 of them; the stream reads 8 shards at a time."""


def write_index(folder: Path, entries: Iterable[Entry]) -> int:
    """Write `index.arrow` from the entries of all shards, in shard order; returns how many there were.

    Equal entries give equal bytes. At most 65,536 entries are held at once. Raises `ShardError` where the entries are
    not in shard order. Nothing is left behind on failure.
    """
    path, partial = folder / INDEX, folder / (INDEX + ".partial")
    rows, shard, source = 0, 0, iter(entries)
    try:
        with partial.open("wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
            while chunk := list(islice(source, _ROWS)):
                for entry in chunk:
                    if entry.shard < shard:
                        raise ShardError(f"expected shard {shard} or later, found {entry.shard}: {entry.key}, {path}")
                    shard = entry.shard
                columns = [pa.array([getattr(e, f.name) for e in chunk], f.type) for f in SCHEMA]
                writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
                rows += len(chunk)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync(folder)
    finally:
        partial.unlink(missing_ok=True)
    return rows


class _Ragged:
    """A list column of one record batch: values and offsets, in place."""

    def __init__(self, column: pa.ListArray) -> None:
        self.values: NDArray[np.uint16] = column.values.to_numpy()
        self.offsets: NDArray[np.int32] = column.offsets.to_numpy()

    def row(self, i: int) -> NDArray[np.uint16]:
        return self.values[self.offsets[i] : self.offsets[i + 1]]


class ShardIndex:
    """A dataset's folder of shards, open for reading. Safe to use from several threads.

    Nothing per sample lives in this process: columns and shards are memory-mapped.
    """

    def __init__(self, folder: Path, dataset: Mapping[str, Any], table: pa.Table) -> None:
        """Use `ShardIndex.open`, which checks what it hands over here."""
        self.folder = folder
        self.dataset = dataset
        self.name: str = dataset["name"]
        self._batches = table.to_batches()
        self._tokens = [_Ragged(b.column("tokens")) for b in self._batches]
        self._phrases = [_Ragged(b.column("phrases")) for b in self._batches]
        self._numbers = {name: [b.column(name).to_numpy() for b in self._batches] for name in _NUMBERS}
        self._rows = table.num_rows
        shards = _column(self._numbers["shard"])
        self.shard_sizes: tuple[int, ...] = tuple(np.bincount(shards, minlength=len(dataset["shards"])).tolist())
        """Samples of each shard."""
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._lock = Lock()

    @staticmethod
    def open(folder: str | Path) -> "ShardIndex":
        """Open a built dataset and check it against its files, without reading the shards.

        Raises `ShardError` where the folder is unfinished, of another format version, or incomplete, where
        `index.arrow` is not ours or not of these shards, and where an offset leaves its file.
        """
        folder = Path(folder)
        dataset = _read_dataset(folder / DATASET)
        table = _read_table(folder / INDEX)
        _check_numbers(table, len(dataset["shards"]), folder / INDEX)
        index = ShardIndex(folder, dataset, table)
        index._check()
        return index

    def __len__(self) -> int:
        return self._rows

    def key(self, i: int) -> str:
        """Of sample `i`."""
        return self._batches[i // _ROWS].column("key")[i % _ROWS].as_py()

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """[samples]: equal where two samples show one photograph."""
        return _column(self._numbers["image_id"])

    def tokens(self, i: int) -> NDArray[np.uint16]:
        """Tokens of each text of sample `i`, both end-of-texts included, at most 256."""
        return self._tokens[i // _ROWS].row(i % _ROWS)

    def phrases(self, i: int) -> NDArray[np.uint16]:
        """Phrases of each text of sample `i`."""
        return self._phrases[i // _ROWS].row(i % _ROWS)

    def entry(self, i: int) -> Entry:
        """Row `i` as a value. Raises `IndexError` for a row that is not there."""
        if not 0 <= i < self._rows:
            raise IndexError(f"expected a sample within {self._rows}, found {i}: {self.folder}")
        batch, row = divmod(i, _ROWS)
        numbers = {name: int(column[batch][row]) for name, column in self._numbers.items()}
        return Entry(
            key=self.key(i),
            extension=self._batches[batch].column("extension")[row].as_py(),
            tokens=tuple(self.tokens(i).tolist()),
            phrases=tuple(self.phrases(i).tolist()),
            **numbers,
        )

    def read(self, i: int) -> tuple[Sample, bytes]:
        """Sample `i` and its encoded image.

        Raises `ShardError`, naming shard and member, where the shard does not hold what the index says; `OSError`
        where it cannot be opened.
        """
        entry = self.entry(i)
        return read_sample(self._map(entry.shard), entry, str(self.folder / shard_name(entry.shard)))

    def _map(self, shard: int) -> mmap.mmap:
        with self._lock:
            found = self._maps.get(shard)
            if found is None:
                with (self.folder / self.dataset["shards"][shard]["file"]).open("rb") as file:
                    found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._maps[shard] = found
                if len(self._maps) > _OPEN_SHARDS:
                    # Not closed here: another thread may be copying from it. The last reader's reference closes it.
                    self._maps.popitem(last=False)
            self._maps.move_to_end(shard)
            return found

    def _check(self) -> None:
        where = self.folder / INDEX
        if len(self) != self.dataset["samples"]:
            raise ShardError(f"expected {self.dataset['samples']} samples, found {len(self)}: {where}")
        for shard, found in zip(self.dataset["shards"], self.shard_sizes, strict=True):
            if found != shard["samples"]:
                raise ShardError(f"expected {shard['samples']} samples in {shard['file']}, found {found}: {where}")
        sizes = np.array([self._shard_bytes(shard) for shard in self.dataset["shards"]], dtype=np.int64)
        for batch, shards in enumerate(self._numbers["shard"]):
            for member in ("image", "json"):
                offset, size = self._numbers[f"{member}_offset"][batch], self._numbers[f"{member}_size"][batch]
                wrong = (offset < 0) | (size <= 0) | (offset > sizes[shards] - size)
                if wrong.any():
                    row = int(np.argmax(wrong))
                    name = f"{self.key(batch * _ROWS + row)}, {member} member"
                    where = self.folder / shard_name(int(shards[row]))
                    raise ShardError(
                        f"expected {name} within {sizes[shards[row]]} bytes, found offset {offset[row]},"
                        f" size {size[row]}: {where}"
                    )

    def _shard_bytes(self, shard: Mapping[str, Any]) -> int:
        path = self.folder / shard["file"]
        if not path.is_file():
            raise ShardError(f"expected a shard of {shard['bytes']} bytes, found none: {path}")
        found = path.stat().st_size
        if found != shard["bytes"]:
            raise ShardError(f"expected a shard of {shard['bytes']} bytes, found {found}: {path}")
        return found


def _check_numbers(table: pa.Table, shards: int, path: Path) -> None:
    # Before they are counted: counting makes an array as long as the largest number.
    for batch in table.column("shard").chunks:
        numbers = batch.to_numpy()
        wrong = (numbers < 0) | (numbers >= shards)
        if wrong.any():
            raise ShardError(f"expected numbers of {shards} shards, found {numbers[np.argmax(wrong)]}: {path}")


def _column(batches: list[NDArray[Any]]) -> NDArray[Any]:
    return batches[0] if len(batches) == 1 else np.concatenate([np.empty(0, np.int64), *batches]).astype(np.int64)


def _read_dataset(path: Path) -> dict[str, Any]:
    try:
        dataset = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ShardError(f"expected a finished dataset, found no {path.name}: {path.parent}") from error
    except (ValueError, RecursionError) as error:
        raise ShardError(f"expected JSON, {error}: {path}") from error
    version = dataset.get("format_version") if isinstance(dataset, dict) else None
    if version != FORMAT_VERSION:
        raise ShardError(f"expected format_version {FORMAT_VERSION}, found {version!r}: {path}")
    shards = dataset.get("shards")
    if not isinstance(dataset.get("name"), str) or not isinstance(dataset.get("samples"), int):
        raise ShardError(f"expected a name and a number of samples, found {dataset.get('name')!r}: {path}")
    if not isinstance(shards, list) or not all(_is_shard(shard) for shard in shards):
        raise ShardError(f"expected shards with file, samples, bytes and sha256, found {str(shards)[:80]}: {path}")
    for number, shard in enumerate(shards):
        if shard_number(shard["file"]) != number:
            raise ShardError(f"expected {shard_name(number)}, found {shard['file']!r}: {path}")
    return dataset


def _is_shard(shard: object) -> bool:
    kinds = {"file": str, "samples": int, "bytes": int, "sha256": str}
    return isinstance(shard, dict) and all(isinstance(shard.get(name), kind) for name, kind in kinds.items())


def _read_table(path: Path) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)
    except FileNotFoundError as error:
        raise ShardError(f"expected an index, found none: {path}") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ShardError(f"expected an Arrow file, {error}: {path}") from error
    if not table.schema.equals(SCHEMA):
        raise ShardError(f"expected columns {SCHEMA.names} of our types, found {table.schema.names}: {path}")
    lengths = [batch.num_rows for batch in table.to_batches()]
    if any(length != _ROWS for length in lengths[:-1]):
        raise ShardError(f"expected batches of {_ROWS} rows, found {lengths[:8]}: {path}")
    return table


assert [f.name for f in fields(Entry)] == SCHEMA.names
