import json
from pathlib import Path

import pytest

from bitgen.record import Sample, Text
from pipeline.pages.data import PageError, built, data_page
from tests.folders import cells, rows, world
from tests.runs import captions, photo, sample, sentences, write_set, write_world

SCRIPT = "<script>alert(1)</script>"


def test_an_older_dataset_without_fields_is_shown_with_dashes(tmp_path: Path):
    folder = write_set(tmp_path, "coarse/drawn-train", [sample(1, captions(1))])
    dataset = json.loads((folder / "dataset.json").read_text())
    few = {name: dataset[name] for name in ("format_version", "name", "samples", "shards")}
    (folder / "dataset.json").write_text(json.dumps(few))
    page = data_page(folder, 1, 0)
    assert "These do not say what became of their rows: coarse/drawn-train." in page
    assert cells(built(world(folder)))[1][:5] == ["coarse/drawn-train", "–", "–", "as they came", "–"]


def test_hostile_strings_are_shown_as_text_wherever_they_stand(tmp_path: Path):
    odd = Sample("drawn-1", SCRIPT, SCRIPT, (), 48, 32, SCRIPT, SCRIPT, "0" * 64, (Text(SCRIPT), *sentences(1)))
    fields = {"manifest": SCRIPT, "licence": SCRIPT, "code_version": SCRIPT, "check": SCRIPT, "limit": SCRIPT}
    folder = write_set(tmp_path, "fine/bad-train", [odd], images=[photo(1)], **fields, published={SCRIPT: 1})
    rows(folder, [("kept", ""), (SCRIPT, SCRIPT), ("held_out", f"looks like {SCRIPT} x"), ("http_404", SCRIPT)])
    page = data_page(tmp_path, 1, 0)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 10


def test_a_page_of_nothing_finished_is_refused(tmp_path: Path):
    (tmp_path / "shards/coarse/half-train").mkdir(parents=True)
    with pytest.raises(PageError, match="coarse/half-train is not finished"):
        data_page(tmp_path, 1, 0)


def test_a_sample_of_the_records_is_said_to_be_one(tmp_path: Path):
    write_set(tmp_path, "coarse/drawn-train", [sample(n, captions(n)) for n in range(10)])
    page = data_page(tmp_path, 1, 5, records=4)
    assert "a sample of 4 records (seed 5;" in page
    assert "4 of 10" in page


def test_equal_seeds_give_equal_pages_from_a_sample(tmp_path: Path):
    root = write_world(tmp_path)
    assert data_page(root, 2, 3, records=5) == data_page(root, 2, 3, records=5)


def test_totals_tell_photographs_that_two_datasets_hold_once(tmp_path: Path):
    page = data_page(write_world(tmp_path), 1, 0)
    assert "<dt>samples to train on</dt><dd>12</dd>" in page
    assert "<dt>photographs to train on</dt><dd>6</dd>" in page
    assert "<dt>rows kept to train on</dt><dd>66.7% of 18</dd>" in page
