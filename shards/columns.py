"""`index.arrow`: its columns, written in record batches and read in blocks of rows.

An Arrow file that any Arrow reader opens. Here Arrow tells where the columns of each record batch lie, and rows are
then read from the file: a map of 5M samples that is touched at random brings half a gigabyte of pages into each
process, and a file that is cut short under a map kills it.
"""

import mmap
import os
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bitgen.disk import room_for, sync
from shards.format import Entry, ShardError

INDEX = "index.arrow"
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
assert list(Entry._fields) == SCHEMA.names

_ROWS = 65536
"""Rows of each record batch but the last."""
BLOCK_ROWS = 512
"""Rows that are read at once: 60 kB. Divides `_ROWS`."""
_OFFSET = np.dtype("<i4")
_KINDS = {
    f.name: np.dtype(f.type.to_pandas_dtype()).newbyteorder("<") for f in SCHEMA if pa.types.is_integer(f.type)
} | {"key": np.dtype("u1"), "extension": np.dtype("u1"), "tokens": np.dtype("<u2"), "phrases": np.dtype("<u2")}
"""Of the numbers of each column, of a text its bytes."""
RAGGED = ("key", "extension", "tokens", "phrases")
"""Columns of which a row has several numbers."""


def write_index(folder: Path, entries: Iterable[Entry]) -> int:
    """Write `index.arrow` from the entries of all shards, in shard order; returns how many there were.

    Equal entries give equal bytes. At most 65,536 entries are held at once. Raises as `write_index_tables` does.
    """
    source = iter(entries)
    chunks = iter(lambda: list(islice(source, _ROWS)), [])
    columns = ([pa.array([getattr(e, f.name) for e in chunk], f.type) for f in SCHEMA] for chunk in chunks)
    return write_index_tables(folder, (pa.table(each, schema=SCHEMA) for each in columns))


def write_index_tables(folder: Path, tables: Iterable[pa.Table]) -> int:
    """Write `index.arrow` from tables of `SCHEMA`, in shard order; returns how many rows there were.

    Equal rows give equal bytes, however the tables cut them. One table and 65,536 rows are held at once. Raises
    `ShardError` where the rows are not in shard order or a table has other columns, `FullDiskError` where there is no
    room. Nothing is left behind on failure.
    """
    path, partial = folder / INDEX, folder / (INDEX + ".partial")
    rows, shard = 0, 0
    with room_for(path):
        try:
            with partial.open("wb") as file:
                with pa.ipc.new_file(file, SCHEMA) as writer:
                    for batch in _batches(tables, path):
                        shard = _check_order(batch, shard, path)
                        writer.write_batch(batch)
                        rows += batch.num_rows
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            sync(folder)
        finally:
            partial.unlink(missing_ok=True)
    return rows


def array_of(numbers: NDArray[np.generic], kind: pa.DataType) -> pa.Array:
    """`numbers`, which are of this kind, as they are; `pa.array` imports pandas when first called: 0.2 s of a build's start."""
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(np.ascontiguousarray(numbers))])


def _batches(tables: Iterable[pa.Table], path: Path) -> Iterator[pa.RecordBatch]:
    waiting = pa.Table.from_batches([], SCHEMA)
    for table in tables:
        if not table.schema.equals(SCHEMA):
            raise ShardError(f"expected columns {SCHEMA.names} of our types, found {table.schema.names}: {path}")
        waiting = pa.concat_tables([waiting, table])
        while waiting.num_rows >= _ROWS:
            yield _batch(waiting.slice(0, _ROWS))
            waiting = waiting.slice(_ROWS)
    if waiting.num_rows:
        yield _batch(waiting)


def _batch(table: pa.Table) -> pa.RecordBatch:
    # Taken row by row: a slice would be written with the bytes that follow it, up to the next multiple of 64.
    batch = table.combine_chunks().to_batches()[0]
    return batch.take(array_of(np.arange(batch.num_rows), pa.int64()))


def _check_order(batch: pa.RecordBatch, shard: int, path: Path) -> int:
    """The last shard of the batch. Raises `ShardError` where a row's shard is before that of the row before it."""
    shards = np.array(batch.column("shard").to_pylist(), np.int64)
    before = np.concatenate([[shard], shards[:-1]])
    if (wrong := shards < before).any():
        row = int(np.argmax(wrong))
        key = batch.column("key")[row].as_py()
        raise ShardError(f"expected shard {before[row]} or later, found {shards[row]}: {key}, {path}")
    return int(shards[-1])


@dataclass(frozen=True)
class Ragged:
    """Several numbers a row."""

    values: NDArray[Any]
    offsets: NDArray[np.int32]
    """[rows + 1]: where the numbers of each row begin."""

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def lengths(self) -> NDArray[np.int32]:
        """[rows]: numbers of each."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Block:
    """Some rows, in memory."""

    first: int
    """Number of its first row."""
    numbers: dict[str, NDArray[Any]]
    """[rows], by column."""
    ragged: dict[str, Ragged]
    """Of `RAGGED`."""

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """[rows, columns of one number a row], in their order: a row is asked for at once."""
        return np.stack([column.astype(np.int64) for column in self.numbers.values()], axis=1)

    def text(self, column: str, row: int) -> str:
        """Of `key` or `extension`. Raises `UnicodeDecodeError` where it is none."""
        return self.ragged[column][row].tobytes().decode()


@dataclass(frozen=True)
class _Place:
    """Where a column of a record batch lies in the file, in bytes."""

    start: int
    """Of the numbers; of a ragged column, of all rows together."""
    size: int
    offsets: int = 0
    """Where the offsets of a ragged column begin."""


class Columns:
    """`index.arrow`, open for reading. Safe to use from several threads; every row is checked as it is read."""

    def __init__(self, path: Path) -> None:
        """Raises `ShardError` where there is no index, or it is not ours; looks at no row."""
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ShardError(f"expected an index, found none: {path}") from error
        weakref.finalize(self, os.close, self._handle)
        self._batches, self.rows = _layout(self._handle, path)

    def blocks(self) -> int:
        """How many there are."""
        return -(-self.rows // BLOCK_ROWS)

    def block(self, number: int) -> Block:
        """Rows from `number * BLOCK_ROWS` on. Raises `ShardError` where the file does not hold them any more, or where
        a row of a ragged column would lie outside its column; `OSError` where it cannot be read."""
        first = number * BLOCK_ROWS
        rows = min(BLOCK_ROWS, self.rows - first)
        places, row = self._batches[first // _ROWS], first % _ROWS
        numbers = {name: self._numbers(places[name].start, name, row, rows) for name in places if name not in RAGGED}
        return Block(first, numbers, {name: self._ragged(places[name], name, row, rows) for name in RAGGED})

    def column(self, name: str) -> NDArray[Any]:
        """[rows] of a column of one number a row. Raises as `block` does."""
        counts = [min(_ROWS, self.rows - start) for start in range(0, self.rows, _ROWS)]
        parts = zip(self._batches, counts, strict=True)
        found = [self._numbers(places[name].start, name, 0, rows) for places, rows in parts]
        return np.concatenate([np.empty(0, _KINDS[name]), *found])

    def validate(self) -> None:
        """Arrow's own full validation, of every row. Raises `ShardError`."""
        try:
            with pa.memory_map(str(self.path)) as file:
                pa.ipc.open_file(file).read_all().validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"expected an Arrow file, {error}: {self.path}") from error

    def _numbers(self, start: int, name: str, row: int, rows: int) -> NDArray[Any]:
        return self._read(start, _KINDS[name], row, rows)

    def _ragged(self, place: _Place, name: str, row: int, rows: int) -> Ragged:
        offsets, kind = self._read(place.offsets, _OFFSET, row, rows + 1), _KINDS[name]
        first, last = int(offsets[0]), int(offsets[-1])
        if first < 0 or (offsets[1:] < offsets[:-1]).any() or last * kind.itemsize > place.size:
            raise ShardError(f"expected rising offsets of {name} up to {place.size // kind.itemsize}: {self.path}")
        return Ragged(self._read(place.start, kind, first, last - first), offsets - first)

    def _read(self, start: int, kind: np.dtype[Any], first: int, count: int) -> NDArray[Any]:
        offset, size = start + first * kind.itemsize, count * kind.itemsize
        data = os.pread(self._handle, size, offset)
        if len(data) != size:
            raise ShardError(f"expected {size} bytes at byte {offset}, found {len(data)}: {self.path}")
        return np.frombuffer(data, kind)


def _layout(handle: int, path: Path) -> tuple[list[dict[str, _Place]], int]:
    """Where each column of each record batch lies, and the rows of all."""
    found: list[dict[str, _Place]] = []
    rows = 0
    try:
        whole = pa.py_buffer(mmap.mmap(handle, 0, access=mmap.ACCESS_READ))  # until this returns
        reader = pa.ipc.open_file(whole)
        if not reader.schema.equals(SCHEMA):
            raise ShardError(f"expected columns {SCHEMA.names} of our types, found {reader.schema.names}: {path}")
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            if rows != number * _ROWS or not 0 < batch.num_rows <= _ROWS:
                lengths = f"{batch.num_rows} after {rows} in {number}"
                raise ShardError(f"expected batches of {_ROWS} rows, found {lengths}: {path}")
            rows += batch.num_rows
            found.append({f.name: _place(batch, f.name, whole, path) for f in SCHEMA})
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: nothing to map, or names that are no text
        raise ShardError(f"expected an Arrow file, {error}: {path}") from error
    return found, rows


def _place(batch: pa.RecordBatch, name: str, whole: pa.Buffer, path: Path) -> _Place:
    """Raises `ShardError` where a column has gaps or is too short for its rows, or where it is not in the file, `whole`,
    as one that was compressed."""
    # What is there of each number, the offsets, what is there of each item, the numbers; the middle two of lists alone.
    buffers = batch.column(name).buffers()
    if any(buffer is not None for buffer in (buffers[0], *buffers[2:-1])):
        raise ShardError(f"expected a number in every row of {name}, found gaps: {path}")
    wanted = {-1: 0 if name in RAGGED else batch.num_rows * _KINDS[name].itemsize}
    if name in RAGGED:
        wanted[1] = (batch.num_rows + 1) * _OFFSET.itemsize
    places = {}
    for i, least in wanted.items():
        buffer = buffers[i]
        start, size = (0, 0) if buffer is None or not buffer.size else (buffer.address - whole.address, buffer.size)
        if size < least or not 0 <= start <= whole.size - size:
            raise ShardError(f"expected {least} bytes of {name} in the file, found {size} at byte {start}: {path}")
        places[i] = start, size
    return _Place(*places[-1], offsets=places.get(1, (0, 0))[0])
