"""A ledger of millions of rows, read once from beginning to end: how many of each outcome, and examples of each."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

EXAMPLES = 3
"""Rows shown of each outcome."""
LOOKS = 6
"""Rows shown that look like an evaluation image."""
BYTES, LOOK, PLACE, ID = "same bytes", "same look", "path or url", "id"
"""How an image was found to be of an evaluation set."""
_SAYS = {BYTES: "same bytes as ", LOOK: "looks like ", PLACE: "of COCO val2017"}
"""By how, what the detail begins with; with anything else it is the id."""
_COLUMNS = ["row", "key", "outcome", "detail"]
_ROWS = 65536


class LedgerError(Exception):
    """There is no ledger, or it cannot be read."""


@dataclass(frozen=True)
class Example:
    """A row of the ledger."""

    row: str
    detail: str
    key: str = ""
    """Of the sample that holds its text, where there is one."""


@dataclass
class Scan:
    """What a ledger says."""

    counts: Counter[str] = field(default_factory=Counter)
    """Rows of each outcome."""
    examples: dict[str, list[Example]] = field(default_factory=dict)
    """Of each outcome but `kept`: the first rows whose details differ, then the first of the rest."""
    held_out: Counter[str] = field(default_factory=Counter)
    """Rows held out, by how it was found: `ID`, `BYTES`, `LOOK`, `PLACE`."""
    looks: list[Example] = field(default_factory=list)
    """The first rows that look like an evaluation image, their details different; dropped, and, where a build was asked
    to keep such, kept."""
    kept_looks: int = 0
    """Rows that were kept although their image looks like an evaluation image."""


def scan(path: Path) -> Scan:
    """Reads a ledger in batches of 65,536 rows. Raises `LedgerError`."""
    found = Scan()
    firsts: dict[str, list[Example]] = {}
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20, read_dictionary=["outcome"]) as file:
            if not set(_COLUMNS) <= set(file.schema_arrow.names):
                raise LedgerError(f"expected columns {_COLUMNS}, found {file.schema_arrow.names}: {path}")
            for batch in file.iter_batches(_ROWS, columns=_COLUMNS):
                _add(found, firsts, batch)
    except FileNotFoundError as error:
        raise LedgerError(f"expected a ledger, found none: {path}") from error
    except (OSError, pa.ArrowException) as error:
        raise LedgerError(f"expected a ledger, {error}: {path}") from error
    for outcome, some in firsts.items():
        shown = found.examples[outcome]
        shown += [each for each in some if each not in shown][: EXAMPLES - len(shown)]
    return found


def _add(found: Scan, firsts: dict[str, list[Example]], batch: pa.RecordBatch) -> None:
    column = batch.column("outcome").dictionary_encode()
    codes = column.indices.to_numpy(zero_copy_only=False)
    for code, outcome in enumerate(column.dictionary.to_pylist()):
        places = np.flatnonzero(codes == code)
        if not len(places):
            continue
        found.counts[outcome] += len(places)
        if outcome == "kept":
            _add_kept(found, batch.take(pa.array(places)))
            continue
        shown = found.examples.setdefault(outcome, [])
        is_open = len(shown) < EXAMPLES
        if not is_open and outcome != "held_out":
            continue
        rows = batch.take(pa.array(places))
        if is_open:
            some = firsts.setdefault(outcome, [])
            some += _examples(rows.slice(0, EXAMPLES - len(some)))
            _add_different(shown, rows, EXAMPLES)
        if outcome == "held_out":
            _add_held_out(found, rows)


def _add_kept(found: Scan, rows: pa.RecordBatch) -> None:
    details = rows.column("detail").dictionary_encode()
    alike = [n for n, detail in enumerate(details.dictionary.to_pylist()) if detail.startswith(_SAYS[LOOK])]
    if not alike:
        return
    places = np.flatnonzero(np.isin(details.indices.to_numpy(zero_copy_only=False), alike))
    found.kept_looks += len(places)
    _add_different(found.looks, rows.take(pa.array(places)), LOOKS)


def _add_held_out(found: Scan, rows: pa.RecordBatch) -> None:
    details = rows.column("detail").to_pylist()
    ways = [next((way for way, beginning in _SAYS.items() if detail.startswith(beginning)), ID) for detail in details]
    found.held_out.update(ways)
    if LOOK in ways and len(found.looks) < LOOKS:
        _add_different(found.looks, rows.take(pa.array([n for n, way in enumerate(ways) if way == LOOK])), LOOKS)


def _add_different(shown: list[Example], rows: pa.RecordBatch, most: int) -> None:
    """Appends the first rows whose details are not shown yet and differ, up to `most` in all."""
    known = {each.detail for each in shown}
    codes = rows.column("detail").dictionary_encode().indices.to_numpy(zero_copy_only=False)
    firsts = np.sort(np.unique(codes, return_index=True)[1])[: most + len(known)]
    for each in _examples(rows.take(pa.array(firsts))):
        if each.detail not in known and len(shown) < most:
            shown.append(each)
            known.add(each.detail)


def _examples(rows: pa.RecordBatch) -> list[Example]:
    columns = (rows.column(name).to_pylist() for name in ("row", "detail", "key"))
    return [Example(row, detail, key or "") for row, detail, key in zip(*columns, strict=True)]
