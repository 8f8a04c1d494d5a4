"""What became of every row of a source's annotation files: `ledger.parquet`, and its summary."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

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

End = tuple[str | None, str, str]
"""(key, outcome, detail) of a row."""


class Line(NamedTuple):
    """One row's end. `key`: the sample that holds its text, of `kept` and `duplicate` rows."""

    source: str
    row: str
    key: str | None
    outcome: str
    detail: str


assert list(Line._fields) == SCHEMA.names


def write_ledger(path: Path, lines: Iterable[Line]) -> Counter[str]:
    """Writes a ledger, whole or not at all; returns the rows of each outcome."""
    source = iter(lines)
    chunks = iter(lambda: list(islice(source, _ROWS)), [])
    columns = ([_column(list(column)) for column in zip(*some, strict=True)] for some in chunks)
    return _write(path, (pa.table(each, schema=SCHEMA) for each in columns))


def join_ledgers(path: Path, parts: Iterable[tuple[Path, Mapping[str, End]]]) -> Counter[str]:
    """Writes the ledgers of `parts` as one, whole or not at all; returns the rows of each outcome.

    With each goes what has been decided since of the samples in it: by key, the new end of all the sample's rows.
    """
    return _write(path, (_changed(_table(part), changes) for part, changes in parts))


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
    totals = Counter[str]()
    for counts in counts_by_dataset.values():
        totals.update(counts)
    outcomes = [outcome for outcome, _ in totals.most_common()]
    rows = [("rows of", *outcomes)]
    rows += [(name, *(str(n.get(outcome, 0)) for outcome in outcomes)) for name, n in counts_by_dataset.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def _column(texts: list[str | None]) -> pa.Array:
    """What has no UTF-8 form, as half a character in an error's words, is written with escapes."""
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        return pa.array([text and text.encode("utf-8", "backslashreplace").decode() for text in texts], pa.string())


def _write(path: Path, tables: Iterable[pa.Table]) -> Counter[str]:
    counts: Counter[str] = Counter()
    with replacing(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for table in tables:
            for each in table.column("outcome").value_counts().to_pylist():
                counts[each["values"]] += each["counts"]
            writer.write_table(table)
    return counts


def _table(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:  # pq.read_table would import pyarrow.dataset and pandas: 0.15 s
        return file.read()


def _changed(table: pa.Table, changes: Mapping[str, End]) -> pa.Table:
    if not changes:
        return table
    keys = table.column("key").to_pylist()
    old = zip(keys, table.column("outcome").to_pylist(), table.column("detail").to_pylist(), strict=True)
    new = [changes.get(end[0], end) if end[0] is not None else end for end in old]
    for name, values in zip(("key", "outcome", "detail"), zip(*new, strict=True), strict=True):
        place = SCHEMA.get_field_index(name)
        table = table.set_column(place, SCHEMA.field(place), pa.array(values, pa.string()))
    return table
