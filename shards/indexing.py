"""Entries become `index.arrow`, whole or not at all."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bitgen.disk import room_for, sync
from shards.columns import BATCH_ROWS, INDEX, SCHEMA
from shards.format import Entry, ShardError


def write_index(folder: Path, entries: Iterable[Entry]) -> int:
    """Write `index.arrow` from the entries of all shards, in shard order; returns how many there were.

    Equal entries give equal bytes. At most 65,536 entries are held at once. Raises as `write_index_tables` does.
    """
    source = iter(entries)
    chunks = iter(lambda: list(islice(source, BATCH_ROWS)), [])
    return write_index_tables(folder, (table_of(chunk) for chunk in chunks))


def table_of(entries: Sequence[Entry]) -> pa.Table:
    """The entries as rows of `SCHEMA`."""
    columns = zip(*entries, strict=True) if entries else repeat((), len(SCHEMA))
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


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
        while waiting.num_rows >= BATCH_ROWS:
            yield _batch(waiting.slice(0, BATCH_ROWS))
            waiting = waiting.slice(BATCH_ROWS)
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
