from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ledger import Line, write_ledger
from pipeline.pages.ledger import BYTES, ID, LOOK, PLACE, Example, LedgerError, scan


def ledger(folder: Path, ends: Iterable[tuple[str, str]]) -> Path:
    """A ledger of rows 0, 1, ... with these outcomes and details."""
    path = folder / "ledger.parquet"
    write_ledger(path, (Line("world", f"rows#{n}", None, *end) for n, end in enumerate(ends)))
    return path


def test_rows_are_counted_by_outcome(tmp_path: Path):
    ends = [("kept", ""), ("http_404", "a"), ("kept", ""), ("bad_box", "b")]
    assert scan(ledger(tmp_path, ends)).counts == {"kept": 2, "http_404": 1, "bad_box": 1}


def test_examples_are_the_first_rows_whose_details_differ(tmp_path: Path):
    ends = [("no_image", detail) for detail in ("a", "a", "b", "b", "c", "d")]
    found = scan(ledger(tmp_path, ends)).examples["no_image"]
    assert found == [Example("rows#0", "a"), Example("rows#2", "b"), Example("rows#4", "c")]


def test_where_details_are_equal_the_first_rows_fill_up_the_examples(tmp_path: Path):
    found = scan(ledger(tmp_path, [("empty_text", "")] * 5)).examples["empty_text"]
    assert [each.row for each in found] == ["rows#0", "rows#1", "rows#2"]


def test_a_kept_row_is_no_example(tmp_path: Path):
    assert scan(ledger(tmp_path, [("kept", "")])).examples == {}


def test_examples_are_found_however_late_they_come(tmp_path: Path):
    ends = [("kept", "")] * 70_000 + [("bad_span", "x")] + [("kept", "")] * 70_000 + [("bad_span", "y")]
    found = scan(ledger(tmp_path, ends))
    assert found.examples["bad_span"] == [Example("rows#70000", "x"), Example("rows#140001", "y")]
    assert found.counts == {"kept": 140_000, "bad_span": 2}


def test_a_detail_that_comes_again_later_gives_way_to_a_new_one(tmp_path: Path):
    ends = [("bad_box", "x")] + [("kept", "")] * 70_000 + [("bad_box", "x"), ("bad_box", "y")]
    found = scan(ledger(tmp_path, ends)).examples["bad_box"]
    assert found == [Example("rows#0", "x"), Example("rows#70002", "y"), Example("rows#70001", "x")]


def test_rows_held_out_are_counted_by_how_it_was_found(tmp_path: Path):
    details = [
        "coco:9",
        "coco:9",
        "same bytes as eval/a b",
        "looks like eval/a c",
        "of COCO val2017, by its url or path",
    ]
    found = scan(ledger(tmp_path, [("held_out", detail) for detail in details]))
    assert found.held_out == {ID: 2, BYTES: 1, LOOK: 1, PLACE: 1}
    assert found.looks == [Example("rows#3", "looks like eval/a c")]


def test_kept_rows_that_look_like_an_evaluation_image_are_counted(tmp_path: Path):
    found = scan(ledger(tmp_path, [("kept", ""), ("kept", "looks like eval/a b"), ("kept", "looks like eval/a b")]))
    assert (found.kept_looks, found.looks) == (2, [Example("rows#1", "looks like eval/a b")])
    assert found.examples == {}


def test_held_out_rows_are_counted_after_their_examples_are_found(tmp_path: Path):
    ends = [("held_out", f"coco:{n}") for n in range(70_000)]
    assert scan(ledger(tmp_path, ends)).held_out == {ID: 70_000}


def test_a_ledger_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(LedgerError, match="expected a ledger, found none"):
        scan(tmp_path / "ledger.parquet")


def test_a_ledger_that_is_no_parquet_is_refused(tmp_path: Path):
    (tmp_path / "ledger.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(LedgerError, match="expected a ledger"):
        scan(tmp_path / "ledger.parquet")


def test_a_ledger_with_other_columns_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"outcome": ["kept"]}), tmp_path / "ledger.parquet")
    with pytest.raises(LedgerError, match="expected columns"):
        scan(tmp_path / "ledger.parquet")


def test_a_cut_ledger_is_refused(tmp_path: Path):
    path = ledger(tmp_path, [("kept", "")] * 1000)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LedgerError, match="expected a ledger"):
        scan(path)
