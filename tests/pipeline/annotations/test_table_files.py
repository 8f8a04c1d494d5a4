import csv
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotations import table_files
from pipeline.annotations.table_files import TABLE_FILES

cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6) | st.sampled_from(
    ["a\nb", 'say "x"', "a,b", "ä\r\n", "\u2028", "\r"]
)
tables = st.lists(st.tuples(cells, cells), min_size=1, max_size=12)
forms = st.tuples(st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\ufeff"]), st.booleans())


def write_csv(path: Path, rows: list[tuple[str, str]], form: tuple[str, str, bool]) -> None:
    end, start, has_blank_lines = form
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end * (1 + has_blank_lines), quoting=csv.QUOTE_ALL)
    writer.writerow(["path", "caption"])
    writer.writerows(rows)
    path.write_bytes((start + text.getvalue()).encode())


def write_jsonl(path: Path, rows: list[tuple[str, str]], form: tuple[str, str, bool]) -> None:
    end, start, has_blank_lines = form
    texts = [json.dumps({"path": a, "caption": b}, ensure_ascii=has_blank_lines) for a, b in rows]
    path.write_bytes((start + "".join(text + end * (1 + has_blank_lines) for text in texts)).encode())


def write_parquet(path: Path, rows: list[tuple[str, str]], form: Any) -> None:
    table = pa.table({"path": [a for a, _ in rows], "other": [1] * len(rows), "caption": [b for _, b in rows]})
    pq.write_table(table, path, row_group_size=3)


WRITERS = {".csv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}


@pytest.mark.parametrize("suffix", TABLE_FILES)
@settings(deadline=None, max_examples=60)
@given(rows=tables, form=forms, order=st.randoms(use_true_random=False), asked=st.integers(0, 12))
def test_rows_are_read_again_where_they_stood(
    suffix: str, rows: list[tuple[str, str]], form: Any, order: Any, asked: int
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_files, "_BATCH", 2)
        path = Path(folder, f"mine{suffix}")
        WRITERS[suffix](path, rows, form)
        file = TABLE_FILES[suffix](path)
        found = list(file.rows())
        order.shuffle(found)
        places = [(start, stop) for start, stop, _ in found[:asked]]
        assert list(file.fetch(places)) == [[row] for _, _, row in found[:asked]]


@pytest.mark.parametrize("suffix", TABLE_FILES)
@settings(deadline=None, max_examples=60)
@given(rows=tables, form=forms)
def test_neighbours_are_read_together(suffix: str, rows: list[tuple[str, str]], form: Any) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, f"mine{suffix}")
        WRITERS[suffix](path, rows, form)
        file = TABLE_FILES[suffix](path)
        found = list(file.rows())
        assert list(file.fetch([(found[0][0], found[-1][1])])) == [[row for _, _, row in found]]


@pytest.mark.parametrize("suffix", TABLE_FILES)
@settings(deadline=None, max_examples=60)
@given(rows=tables, form=forms)
def test_a_table_gives_its_rows(suffix: str, rows: list[tuple[str, str]], form: Any) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, f"mine{suffix}")
        WRITERS[suffix](path, rows, form)
        assert [(row["path"], row["caption"]) for _, _, row in TABLE_FILES[suffix](path).rows()] == rows


def test_other_columns_of_parquet_are_passed_over(tmp_path: Path) -> None:
    write_parquet(tmp_path / "mine.parquet", [("a", "b")], None)
    ((_, _, row),) = TABLE_FILES[".parquet"](tmp_path / "mine.parquet").rows()
    assert row == {"path": "a", "caption": "b"}
