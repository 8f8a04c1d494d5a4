from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitgen.record import Text
from pipeline.annotations.flickr30k import read_flickr30k
from pipeline.rows import AnnotationError, Candidate
from tests import worlds


def read(folder: Path, *annotations: str, **fields: Any) -> list[Candidate]:
    return list(read_flickr30k(replace(worlds.flickr30k(folder), annotations=annotations, **fields), folder))


def keys(candidates: list[Candidate]) -> list[str]:
    return [candidate.sample.key for candidate in candidates]


def test_a_photograph_has_its_captions(tmp_path: Path) -> None:
    first = read(tmp_path, "results_20130124.token")[0]
    assert first.sample.texts == (Text(worlds.CAPTIONS[0]), Text(worlds.CAPTIONS[1]))


def test_every_caption_is_a_row(tmp_path: Path) -> None:
    first = read(tmp_path, "results_20130124.token")[0]
    assert first.rows == ("results_20130124.token#10002456#0", "results_20130124.token#10002456#1")


def test_photographs_come_in_order_of_their_id(tmp_path: Path) -> None:
    found = keys(read(tmp_path, "results_20130124.token"))
    assert found == ["flickr-10002456", "flickr-1000092795", "flickr-1000268201"]


def test_a_photograph_is_known_by_its_flickr_id(tmp_path: Path) -> None:
    first = read(tmp_path, "results_20130124.token")[0]
    assert (first.sample.ids, first.image) == (("flickr:10002456",), "10002456.jpg")


def test_an_entities_list_chooses_the_photographs(tmp_path: Path) -> None:
    assert keys(read(tmp_path, "results_20130124.token", "test.txt")) == ["flickr-1000268201"]


def test_karpathys_splits_choose_the_photographs(tmp_path: Path) -> None:
    assert keys(read(tmp_path, "dataset_flickr30k.json", options={"splits": "test"})) == ["flickr-1000268201"]


def test_the_table_of_the_mirror_gives_the_same(tmp_path: Path) -> None:
    table = read(tmp_path, "flickr_annotations_30k.csv", options={"splits": "train"})
    karpathy = read(tmp_path, "dataset_flickr30k.json", options={"splits": "train"})
    assert [c.sample for c in table] == [c.sample for c in karpathy]


def test_an_entities_list_chooses_from_karpathys_captions(tmp_path: Path) -> None:
    assert keys(read(tmp_path, "dataset_flickr30k.json", "test.txt")) == ["flickr-1000268201"]


def test_a_listed_photograph_without_captions_is_refused(tmp_path: Path) -> None:
    source = worlds.flickr30k(tmp_path)
    (tmp_path / "train.txt").write_text("77\n")
    (only,) = read_flickr30k(source, tmp_path)
    assert [(r.row, r.reason) for r in only.refused] == [("image/77", "no_text")]


def test_an_empty_caption_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.token").write_text("77.jpg#0\t\n")
    (only,) = read_flickr30k(worlds.source("flickr30k", ["results.token"], ["."]), tmp_path)
    assert [(r.row, r.reason) for r in only.refused] == [("results.token#77#0", "empty_text")]


def test_a_line_of_another_form_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "results.token").write_text("77.jpg#0\ta dog\n78.jpg a cat\n")
    with pytest.raises(AnnotationError, match=r"expected 1000092795.jpg#0<TAB>caption, found '78.jpg a cat'.* line 2"):
        next(read_flickr30k(worlds.source("flickr30k", ["results.token"], ["."]), tmp_path))


def test_a_list_of_names_is_an_error(tmp_path: Path) -> None:
    source = worlds.flickr30k(tmp_path)
    (tmp_path / "train.txt").write_text("77.jpg\n")
    with pytest.raises(AnnotationError, match=r"expected a photo id, found '77.jpg'.* line 1"):
        next(read_flickr30k(source, tmp_path))


def test_an_unknown_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"expected options\.splits of train, val, test, found \['dev'\]"):
        read(tmp_path, "dataset_flickr30k.json", options={"splits": "dev"})


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        AnnotationError, match=r"expected \.token, \.json, \.csv or \.txt annotations, found train\.xml"
    ):
        read(tmp_path, "train.xml")


def test_a_table_without_its_columns_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("image,caption\n77.jpg,a dog\n")
    with pytest.raises(AnnotationError, match="expected columns raw, filename, split, found"):
        next(read_flickr30k(worlds.source("flickr30k", ["x.csv"], ["."]), tmp_path))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"No such file or directory: .*results\.token"):
        next(read_flickr30k(worlds.source("flickr30k", ["results.token"], ["."]), tmp_path))


def test_a_photograph_that_is_listed_twice_keeps_all_its_rows(tmp_path: Path) -> None:
    images = [{"filename": "77.jpg", "split": "train", "sentences": [{"sentid": id, "raw": "a dog"}]} for id in (1, 2)]
    path = worlds.write_json(tmp_path / "k.json", {"dataset": "flickr30k", "images": images})
    (only,) = read_flickr30k(worlds.source("flickr30k", [path.name], ["."]), tmp_path)
    assert only.rows == ("k.json#1", "k.json#2")
