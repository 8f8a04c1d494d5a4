"""A user's table as rows: CSV, JSONL or Parquet, gone through once, and then read again at the places that are asked for."""

import csv
import io
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.annotations.fields import Row
from pipeline.rows import AnnotationError

COLUMNS = (
    *("path", "url", "caption", "boxes", "phrases", "width", "height", "licence"),
    *("coco_id", "flickr_id", "vg_id"),
)
"""What a table may say of an image; other columns are passed over."""
_BATCH = 4096
"""Rows of Parquet that become Python objects at a time."""


class TableFile(Protocol):
    """One file of rows."""

    def rows(self) -> Iterator[tuple[int, int, Row]]:
        """(start, stop, row) of every row: two numbers that lead to it. Those of neighbours join. `AnnotationError`."""
        ...

    def fetch(self, places: Sequence[tuple[int, int]]) -> Iterator[list[Row]]:
        """The rows of each of `places`: `start` of a row, and `stop` of the same or of one that follows it."""
        ...


class Csv:
    """Places are bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: Sequence[str] = ()

    def rows(self) -> Iterator[tuple[int, int, Row]]:
        path = self._path
        with _errors(path), path.open(encoding="utf-8", newline="") as file:
            lines = _Lines(file)
            reader = csv.DictReader(lines, strict=True)
            try:
                self._columns = reader.fieldnames or ()
                _check_columns(self._columns, path)
                start = lines.stop
                for row in reader:
                    if None in row or None in row.values():
                        columns, number = len(self._columns), reader.line_num
                        raise AnnotationError(f"expected {columns} columns in line {number}, found others: {path}")
                    yield start, lines.stop, row
                    start = lines.stop
            except csv.Error as error:
                raise AnnotationError(f"expected CSV, found {error} in line {reader.line_num}: {path}") from error

    def fetch(self, places: Sequence[tuple[int, int]]) -> Iterator[list[Row]]:
        for text in _texts(self._path, places):
            yield list(csv.DictReader(io.StringIO(text, newline=""), self._columns, strict=True))


class Jsonl:
    """Places are bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self) -> Iterator[tuple[int, int, Row]]:
        path = self._path
        with _errors(path), path.open(encoding="utf-8", newline="") as file:
            lines = _Lines(file)
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    message = f"expected one JSON object a line, found {error}: {path}: line {number}"
                    raise AnnotationError(message) from error
                if not isinstance(row, dict):
                    raise AnnotationError(f"expected one JSON object a line, found {row!r:.80}: {path}: line {number}")
                yield lines.start, lines.stop, row

    def fetch(self, places: Sequence[tuple[int, int]]) -> Iterator[list[Row]]:
        for text in _texts(self._path, places):
            yield [json.loads(line) for line in io.StringIO(text, newline="") if line.strip()]


class Parquet:
    """Places are numbers of rows."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self) -> Iterator[tuple[int, int, Row]]:
        number = 0
        with _errors(self._path), pq.ParquetFile(self._path) as file:
            _check_columns(file.schema_arrow.names, self._path)
            for batch in file.iter_batches(_BATCH, columns=_known(file)):
                for row in batch.to_pylist():
                    yield number, number + 1, row
                    number += 1

    def fetch(self, places: Sequence[tuple[int, int]]) -> Iterator[list[Row]]:
        """Goes through the row groups that hold some of `places` once: ask for many at a time."""
        wanted = sorted({number for start, stop in places for number in range(start, stop)})
        found: dict[int, Row] = {}
        with _errors(self._path), pq.ParquetFile(self._path) as file:
            first = at = 0
            for group in range(file.num_row_groups):
                stop = first + file.metadata.row_group(group).num_rows
                if at < len(wanted) and wanted[at] < stop:
                    for batch in file.iter_batches(_BATCH, row_groups=[group], columns=_known(file)):
                        to = bisect_left(wanted, first + batch.num_rows, at)
                        some = wanted[at:to]
                        found.update(
                            zip(
                                some,
                                batch.take(pa.array([n - first for n in some], pa.int64())).to_pylist(),
                                strict=True,
                            )
                        )
                        first, at = first + batch.num_rows, to
                first = stop
        for start, stop in places:
            yield [found[number] for number in range(start, stop)]


TABLE_FILES: Mapping[str, type[Csv] | type[Jsonl] | type[Parquet]] = {".csv": Csv, ".jsonl": Jsonl, ".parquet": Parquet}
"""By the end of a file's name."""


class _Lines:
    """The lines of a text file, and where in the file the last one stood."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.start = self.stop = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.start = self.stop
        self.stop += len(line) if line.isascii() else len(line.encode())
        return line.removeprefix("\ufeff") if self.start == 0 else line


def _texts(path: Path, places: Sequence[tuple[int, int]]) -> Iterator[str]:
    """What stands at each of `places`."""
    with _errors(path), path.open("rb") as file:
        for start, stop in places:
            file.seek(start)
            yield file.read(stop - start).decode("utf-8-sig" if start == 0 else "utf-8")


def _check_columns(columns: Sequence[str], path: Path) -> None:
    if not {"path", "url"} & set(columns) or "caption" not in columns:
        found = ", ".join(columns) or "none"
        raise AnnotationError(f"expected columns path or url, and caption, found {found}: {path}")


def _known(file: pq.ParquetFile) -> list[str]:
    return [name for name in file.schema_arrow.names if name in COLUMNS]


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AnnotationError(f"expected a table, found {error.strerror or error}: {path}") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"expected UTF-8, found {error}: {path}") from error
    except pa.ArrowInvalid as error:
        raise AnnotationError(f"expected Parquet, found {error}: {path}") from error
