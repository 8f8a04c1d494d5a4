"""What became of every row of a source's annotation files: `ledger.parquet`, and its summary."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import replacing

LEDGER = "ledger.parquet"
SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("row", pa.string(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
NOT_REFUSED = ("kept", "held_out", "duplicate")
"""Outcomes that say nothing of the quality of a source; all others count against its refusal ceiling."""
_ROWS = 65536


@dataclass(frozen=True)
class Line:
    """One row's end. `key`: the sample that holds its text, of `kept` and `duplicate` rows."""

    source: str
    row: str
    key: str | None
    outcome: str
    detail: str


assert [f.name for f in fields(Line)] == SCHEMA.names


def write_ledger(folder: Path, lines: Iterable[Line]) -> Counter[str]:
    """Writes `ledger.parquet` in `folder`, whole or not at all; returns the rows of each outcome."""
    counts: Counter[str] = Counter()
    source = iter(lines)
    with replacing(folder / LEDGER) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        while chunk := list(islice(source, _ROWS)):
            counts.update(line.outcome for line in chunk)
            columns = [pa.array([getattr(line, f.name) for line in chunk], f.type) for f in SCHEMA]
            writer.write_table(pa.table(columns, schema=SCHEMA))
    return counts


def read_ledger(folder: Path) -> Iterator[Line]:
    """Every line of the ledger in `folder`, in order."""
    with pq.ParquetFile(folder / LEDGER) as file:
        for batch in file.iter_batches(_ROWS):
            yield from (Line(**row) for row in batch.to_pylist())


def refused(counts: Counter[str]) -> Counter[str]:
    """The outcomes that count against a refusal ceiling."""
    return Counter({outcome: n for outcome, n in counts.items() if outcome not in NOT_REFUSED})


def summary(counts_by_dataset: dict[str, dict[str, int]]) -> str:
    """A table of rows by outcome, a line per dataset, the most frequent outcome first."""
    table = pd.DataFrame.from_dict(counts_by_dataset, orient="index").fillna(0).astype("int64")
    order = table.sum().sort_values(ascending=False, kind="stable").index
    return table[order].rename_axis("rows of").reset_index().to_string(index=False)
