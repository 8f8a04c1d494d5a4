"""The ledger: one line a row, whole or not there."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from pipeline.ledger import LEDGER, Line, read_ledger, refused, summary, write_ledger

LINES = [
    Line("coco", "a.json#1", "coco-1", "kept", ""),
    Line("coco", "a.json#2", None, "bad_box", "expected a width above 0, found -3"),
    Line("coco", "a.json#3", "coco-1", "duplicate", "same bytes as coco-1"),
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_ledger(tmp_path / LEDGER, LINES)
    assert list(read_ledger(tmp_path)) == LINES


def test_writing_counts_the_outcomes(tmp_path: Path) -> None:
    assert write_ledger(tmp_path / LEDGER, LINES) == {"kept": 1, "bad_box": 1, "duplicate": 1}


def test_a_ledger_opens_in_pandas(tmp_path: Path) -> None:
    write_ledger(tmp_path / LEDGER, LINES)
    table = pd.read_parquet(tmp_path / "ledger.parquet")
    assert list(table.columns) == ["source", "row", "key", "outcome", "detail"]
    assert table["outcome"].tolist() == ["kept", "bad_box", "duplicate"]


def test_an_error_on_the_way_leaves_the_old_ledger(tmp_path: Path) -> None:
    write_ledger(tmp_path / LEDGER, LINES)
    with pytest.raises(ZeroDivisionError):
        write_ledger(tmp_path / LEDGER, (LINES[1 // n] for n in (1, 0)))
    assert list(read_ledger(tmp_path)) == LINES
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.parquet"]


def test_an_empty_ledger_is_a_ledger(tmp_path: Path) -> None:
    assert write_ledger(tmp_path / LEDGER, []) == {}
    assert list(read_ledger(tmp_path)) == []


def test_held_out_and_duplicate_rows_are_not_refused() -> None:
    assert refused(Counter(kept=5, held_out=4, duplicate=3, no_image=2)) == {"no_image": 2}


def test_the_summary_has_a_line_a_dataset_and_the_commonest_outcome_first() -> None:
    text = summary({"coarse/a": {"no_image": 2, "kept": 10}, "eval/b": {"kept": 3}})
    assert [line.split() for line in text.splitlines()] == [
        ["rows", "of", "kept", "no_image"],
        ["coarse/a", "10", "2"],
        ["eval/b", "3", "0"],
    ]


def test_half_a_character_is_written_with_an_escape(tmp_path: Path) -> None:
    write_ledger(tmp_path / LEDGER, [Line("mine", "a#1", None, "bad_text", "found é\ud800")])
    assert list(read_ledger(tmp_path)) == [Line("mine", "a#1", None, "bad_text", "found é\\ud800")]
