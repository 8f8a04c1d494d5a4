from pathlib import Path

import pytest

from pipeline.ledger import Line, write_ledger
from pipeline.pages.heldout import dropped_image, heldout_section, stored_image
from tests.folders import cells, rows, state, train, world
from tests.runs import captions, photo, sample, write_set


def test_held_out_rows_are_told_by_how_it_was_found(tmp_path: Path):
    ends = [("held_out", "coco:1"), ("held_out", "coco:2"), ("held_out", "same bytes as eval/a b"), ("duplicate", "c")]
    state(rows(train(tmp_path), [*ends, ("kept", "")]), duplicates_across_sources=7)
    assert cells(heldout_section(world(tmp_path)))[1] == ["coarse/drawn-train", "3", "2", "0", "1", "0", "0", "1", "7"]


def test_without_a_ledger_the_ways_are_dashes(tmp_path: Path):
    write_set(tmp_path, "coarse/drawn-train", [sample(1, captions(1))])
    found = cells(heldout_section(world(tmp_path)))[1]
    assert found == ["coarse/drawn-train", "3", "–", "–", "–", "–", "–", "0", "–"]


def test_the_stored_image_that_another_looks_like_is_shown(tmp_path: Path):
    rows(train(tmp_path), [("kept", ""), ("held_out", "looks like eval/drawn-val drawn-2")])
    train(tmp_path, "eval/drawn-val")
    found = heldout_section(world(tmp_path))
    assert found.count('<figure class="thumb"') == 1
    assert "eval/drawn-val drawn-2</figcaption>" in found


def test_the_dropped_image_is_shown_beside_it_where_the_ledger_names_its_file(tmp_path: Path):
    rows(train(tmp_path), [("kept", ""), ("held_out", "looks like eval/drawn-val drawn-2: drawn/train/9.jpg")])
    train(tmp_path, "eval/drawn-val")
    file = tmp_path / "raw/drawn/train/9.jpg"
    file.parent.mkdir(parents=True)
    file.write_bytes(photo(9))
    assert heldout_section(world(tmp_path)).count('<figure class="thumb"') == 2


def test_a_kept_image_is_shown_beside_the_evaluation_image_that_it_looks_like(tmp_path: Path):
    line = Line("drawn", "rows.json#0", "drawn-1", "kept", "looks like eval/drawn-val drawn-2")
    write_ledger(train(tmp_path) / "ledger.parquet", [line])
    train(tmp_path, "eval/drawn-val")
    found = heldout_section(world(tmp_path))
    assert found.count('<figure class="thumb"') == 2
    assert "kept: drawn-1</figcaption>" in found
    assert cells(found)[1][6] == "1"


def test_an_image_is_found_by_its_key(tmp_path: Path):
    train(tmp_path, "eval/drawn-val")
    found = world(tmp_path)
    assert stored_image(found, "eval/drawn-val", "drawn-2") == photo(2)
    assert stored_image(found, "eval/drawn-val", "drawn-3") is None
    assert stored_image(found, "eval/other-val", "drawn-2") is None


@pytest.mark.parametrize("named", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "a\0b", "missing.jpg", "."])
def test_a_dropped_image_is_looked_for_under_raw_alone(tmp_path: Path, named: str):
    train(tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "secret.jpg").write_bytes(photo(1))
    assert dropped_image(world(tmp_path), named) is None


def test_a_link_out_of_raw_is_not_followed(tmp_path: Path):
    train(tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "secret.jpg").write_bytes(photo(1))
    (tmp_path / "raw/a.jpg").symlink_to(tmp_path / "secret.jpg")
    assert dropped_image(world(tmp_path), "a.jpg") is None
