"""`index.arrow`: its columns, written in record batches (`shards/indexing.py`) and read in blocks of rows.

An Arrow file that any Arrow reader opens. Here Arrow tells where the columns of each record batch lie, and rows are
then read from the file: a map of 5M samples that is touched at random brings half a gigabyte of pages into each
process, and a file that is cut short under a map kills it.
"""

import mmap
import os
import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
        pa.field("token_ids", pa.list_(pa.field("item", pa.uint16(), nullable=False)), nullable=False),
        pa.field("spans", pa.list_(pa.field("item", pa.uint16(), nullable=False)), nullable=False),
        pa.field("phrase_boxes", pa.list_(pa.field("item", pa.uint16(), nullable=False)), nullable=False),
        pa.field("corners", pa.list_(pa.field("item", pa.float64(), nullable=False)), nullable=False),
    ]
)
assert list(Entry._fields) == SCHEMA.names

BATCH_ROWS = 65536
"""Rows of each record batch but the last."""
BLOCK_ROWS = 512
"""Rows that are read at once: 68 kB. Divides `BATCH_ROWS`."""
_OFFSET = np.dtype("<i4")
_KINDS = {
    f.name: np.dtype(f.type.to_pandas_dtype()).newbyteorder("<") for f in SCHEMA if pa.types.is_integer(f.type)
} | {
    f.name: np.dtype(f.type.value_type.to_pandas_dtype()).newbyteorder("<")
    if pa.types.is_list(f.type)
    else np.dtype("u1")
    for f in SCHEMA
    if not pa.types.is_integer(f.type)
}
"""Of the numbers of each column, of a text its bytes."""
RAGGED = ("key", "extension", "tokens", "phrases")
"""Columns of which a row has several numbers."""
FAR = ("token_ids", "spans", "phrase_boxes", "corners")
"""Likewise, and read a row at a time: most of the file."""


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
    far: dict[str, NDArray[np.int64]]
    """Of `FAR` [rows + 1]: the byte of the file at which the numbers of each row begin."""

    def far_lengths(self, column: str) -> NDArray[np.int64]:
        """[rows]: numbers of each."""
        return np.diff(self.far[column]) // _KINDS[column].itemsize

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
        places, row = self._batches[first // BATCH_ROWS], first % BATCH_ROWS
        single = (name for name in places if name not in (*RAGGED, *FAR))
        return Block(
            first,
            {name: self._numbers(places[name].start, name, row, rows) for name in single},
            {name: self._ragged(places[name], name, row, rows) for name in RAGGED},
            {name: self._ends(places[name], name, row, rows) for name in FAR},
        )

    def far(self, block: Block, name: str, row: int) -> bytes:
        """The numbers of a row of a block in a column of `FAR`. Raises as `block` does."""
        start, stop = block.far[name][row : row + 2].tolist()
        return self._bytes(start, stop - start)

    def far_of_all(self, block: Block, name: str) -> NDArray[Any]:
        """The numbers of all rows of a block in a column of `FAR`. Raises as `block` does."""
        start, stop = block.far[name][[0, -1]].tolist()
        return np.frombuffer(self._bytes(start, stop - start), _KINDS[name])

    def column(self, name: str) -> NDArray[Any]:
        """[rows] of a column of one number a row. Raises as `block` does."""
        counts = [min(BATCH_ROWS, self.rows - start) for start in range(0, self.rows, BATCH_ROWS)]
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

    def _offsets(self, place: _Place, name: str, row: int, rows: int) -> NDArray[np.int32]:
        offsets, size = self._read(place.offsets, _OFFSET, row, rows + 1), _KINDS[name].itemsize
        if offsets[0] < 0 or (offsets[1:] < offsets[:-1]).any() or int(offsets[-1]) * size > place.size:
            raise ShardError(f"expected rising offsets of {name} up to {place.size // size}: {self.path}")
        return offsets

    def _ragged(self, place: _Place, name: str, row: int, rows: int) -> Ragged:
        offsets = self._offsets(place, name, row, rows)
        first, last = int(offsets[0]), int(offsets[-1])
        return Ragged(self._read(place.start, _KINDS[name], first, last - first), offsets - first)

    def _ends(self, place: _Place, name: str, row: int, rows: int) -> NDArray[np.int64]:
        return place.start + self._offsets(place, name, row, rows).astype(np.int64) * _KINDS[name].itemsize

    def _read(self, start: int, kind: np.dtype[Any], first: int, count: int) -> NDArray[Any]:
        return np.frombuffer(self._bytes(start + first * kind.itemsize, count * kind.itemsize), kind)

    def _bytes(self, offset: int, size: int) -> bytes:
        data = os.pread(self._handle, size, offset)
        if len(data) != size:
            raise ShardError(f"expected {size} bytes at byte {offset}, found {len(data)}: {self.path}")
        return data


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
            if rows != number * BATCH_ROWS or not 0 < batch.num_rows <= BATCH_ROWS:
                lengths = f"{batch.num_rows} after {rows} in {number}"
                raise ShardError(f"expected batches of {BATCH_ROWS} rows, found {lengths}: {path}")
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
    is_ragged = name in RAGGED or name in FAR
    wanted = {-1: 0 if is_ragged else batch.num_rows * _KINDS[name].itemsize}
    if is_ragged:
        wanted[1] = (batch.num_rows + 1) * _OFFSET.itemsize
    places = {}
    for i, least in wanted.items():
        buffer = buffers[i]
        start, size = (0, 0) if buffer is None or not buffer.size else (buffer.address - whole.address, buffer.size)
        if size < least or not 0 <= start <= whole.size - size:
            raise ShardError(f"expected {least} bytes of {name} in the file, found {size} at byte {start}: {path}")
        places[i] = start, size
    return _Place(*places[-1], offsets=places.get(1, (0, 0))[0])
