import json
import math
from pathlib import Path
from typing import Any

import pytest

from bitgen.record import Box, Phrase, Text
from pipeline.annotations import table
from pipeline.annotations.table import read_table
from pipeline.rows import AnnotationError, Candidate
from tests import full_size, worlds

DOG, BALL = Box(0.1, 0.2, 0.4, 0.7), Box(0.6, 0.5, 0.8, 0.75)


def read_rows(folder: Path, *rows: dict[str, Any]) -> list[Candidate]:
    worlds.write_photo(folder / "pictures/dog.jpg", 1)
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_table(worlds.source("table", ["mine.jsonl"], ["pictures"]), folder))


def reasons(candidates: list[Candidate]) -> list[str]:
    return [refusal.reason for candidate in candidates for refusal in candidate.refused]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_form_of_table_gives_the_same_texts(tmp_path: Path, suffix: str) -> None:
    texts = [candidate.sample.texts for candidate in read_table(worlds.table(tmp_path, suffix), tmp_path)]
    grounded = Text(worlds.SENTENCE, (Phrase(0, 5, (DOG,)), Phrase(13, 19, (BALL,))))
    assert texts == [(grounded, Text(worlds.CAPTIONS[1])), (Text(worlds.CAPTIONS[1]),)]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_row_is_in_one_candidate(tmp_path: Path, suffix: str) -> None:
    rows = [candidate.rows for candidate in read_table(worlds.table(tmp_path, suffix), tmp_path)]
    assert rows == [(f"mine{suffix}#1", f"mine{suffix}#3"), (f"mine{suffix}#2",)]


def test_without_phrases_the_boxes_are_the_captions(tmp_path: Path) -> None:
    (only,) = read_rows(tmp_path, {"path": "dog.jpg", "caption": "a dog", "boxes": [worlds.DOG]})
    assert only.sample.texts == (Text("a dog", (Phrase(0, 5, (DOG,)),)),)


def test_a_phrase_may_be_given_in_characters(tmp_path: Path) -> None:
    row = {"path": "dog.jpg", "caption": "dog and dog", "boxes": [worlds.DOG], "phrases": [[8, 11]]}
    assert read_rows(tmp_path, row)[0].sample.texts[0].phrases == (Phrase(8, 11, (DOG,)),)


def test_stated_sizes_are_believed(tmp_path: Path) -> None:
    row = {"path": "dog.jpg", "caption": "a dog", "boxes": [[0, 0, 80, 60]], "width": 160, "height": 60}
    assert read_rows(tmp_path, row)[0].sample.texts[0].phrases[0].boxes == (Box(0, 0, 0.5, 1),)


def test_a_url_is_kept_with_its_flickr_id(tmp_path: Path) -> None:
    url = "http://static.flickr.com/2723/4385058960_b0f291553e.jpg"
    (only,) = read_rows(tmp_path, {"url": url, "caption": "a dog"})
    assert (only.image, only.sample.url, only.sample.ids) == (url, url, ("flickr:4385058960",))


def test_a_url_without_boxes_needs_no_size(tmp_path: Path) -> None:
    assert reasons(read_rows(tmp_path, {"url": "http://a/dog.jpg", "caption": "a dog", "boxes": "[]"})) == []


def test_a_cell_that_pandas_left_empty_is_none(tmp_path: Path) -> None:
    row = {"path": math.nan, "url": "http://a/dog.jpg", "caption": "a dog", "boxes": math.nan, "coco_id": math.nan}
    assert reasons(read_rows(tmp_path, row)) == []


def test_known_ids_are_taken(tmp_path: Path) -> None:
    (only,) = read_rows(tmp_path, {"path": "dog.jpg", "caption": "a dog", "coco_id": 9, "flickr_id": "77"})
    assert only.sample.ids == ("coco:9", "flickr:77")


def test_a_coco_file_name_gives_its_id(tmp_path: Path) -> None:
    (only,) = read_rows(tmp_path, {"path": "x/COCO_val2014_000000000042.jpg", "caption": "a dog"})
    assert only.sample.ids == ("coco:42",)


def test_an_image_may_have_its_own_licence(tmp_path: Path) -> None:
    assert read_rows(tmp_path, {"path": "a.jpg", "caption": "a", "licence": "CC BY"})[0].sample.licence == "CC BY"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"path": "dog.jpg", "caption": " "}, "empty_text"),
        ({"path": "dog.jpg", "caption": None}, "empty_text"),
        ({"path": "dog.jpg", "caption": "a dog", "boxes": [[70, 0, 20, 20]]}, "bad_box"),
        ({"path": "dog.jpg", "caption": "a dog", "boxes": [[1, 2, 3]]}, "bad_box"),
        ({"path": "dog.jpg", "caption": "a dog", "boxes": "[[1, 2"}, "bad_box"),
        ({"path": "dog.jpg", "caption": "a dog", "boxes": 7}, "bad_box"),
        ({"path": "dog.jpg", "caption": "a dog", "boxes": [7]}, "bad_box"),
        ({"path": "dog.jpg", "caption": "a dog", "boxes": [worlds.DOG], "phrases": ["a cat"]}, "bad_span"),
        ({"path": "dog.jpg", "caption": "a dog, a dog", "boxes": [worlds.DOG], "phrases": ["a dog"]}, "bad_span"),
        ({"path": "dog.jpg", "caption": "a dog", "boxes": [worlds.DOG], "phrases": [[2, 6]]}, "bad_span"),
        ({"path": "dog.jpg", "caption": "a dog", "boxes": [worlds.DOG], "phrases": ["a", "dog"]}, "bad_span"),
        ({"path": "cat.jpg", "caption": "a cat", "boxes": [worlds.DOG]}, "no_image"),
        ({"path": "", "caption": "a dog"}, "bad_path"),
        ({"path": "../dog.jpg", "caption": "a dog"}, "bad_path"),
        ({"path": "/dog.jpg", "caption": "a dog"}, "bad_path"),
        ({"url": "ftp://a/dog.jpg", "caption": "a dog"}, "bad_url"),
        ({"url": "http://a/dog.jpg", "caption": "a dog", "boxes": [worlds.DOG]}, "no_size"),
        ({"path": "dog.jpg", "caption": "a dog", "boxes": [worlds.DOG], "width": -1, "height": 2}, "bad_number"),
        ({"path": "dog.jpg", "caption": "a dog", "coco_id": "nine"}, "bad_number"),
    ],
)
def test_a_bad_row_is_refused(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    assert reasons(read_rows(tmp_path, row)) == [reason]


def test_a_broken_picture_has_no_size(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/broken.jpg").write_bytes(b"no picture")
    candidates = read_rows(tmp_path, {"path": "broken.jpg", "caption": "a dog", "boxes": [worlds.DOG]})
    assert reasons(candidates) == ["decode_error"]


def read_file(folder: Path, name: str, content: bytes) -> list[Candidate]:
    (folder / name).write_bytes(content)
    return list(read_table(worlds.source("table", [name], ["pictures"]), folder))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"image,caption\nx.jpg,a dog\n", "expected columns path or url, and caption, found image, caption"),
        ("a.csv", b"image,caption\n", r"found image, caption: .*a\.csv"),
        ("a.csv", b"", r"expected columns .* found none: .*a\.csv"),
        ("a.csv", b"path,caption\nx.jpg,a dog,too much\n", "expected 2 columns in line 2"),
        ("a.csv", b'path,caption\nx.jpg,"a dog', "expected CSV, found unexpected end of data"),
        ("a.csv", b"path,caption\nx.jpg,\xff\n", "expected UTF-8"),
        ("a.jsonl", b'{"path": "x.jpg", "caption": "a"}\n{"path":\n', r"expected one JSON object a line.* line 2"),
        ("a.jsonl", b"[1]\n", "expected one JSON object a line, found"),
        ("a.parquet", b"no parquet", "expected Parquet, found"),
        ("a.xlsx", b"", r"expected a table of \.csv, \.jsonl, \.parquet, found a\.xlsx"),
    ],
)
def test_a_table_of_another_form_is_an_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        read_file(tmp_path, name, content)


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"expected a table, found No such file or directory: .*mine\.csv"):
        next(read_table(worlds.source("table", ["mine.csv"], ["pictures"]), tmp_path))


def test_the_url_beside_a_path_tells_its_ids_and_is_kept(tmp_path: Path) -> None:
    url = "http://images.cocodataset.org/val2017/000000000139.jpg"
    sample = read_rows(tmp_path, {"path": "dog.jpg", "url": url, "caption": "a dog"})[0].sample
    assert (sample.ids, sample.url) == (("coco:139",), url)


def test_the_size_comes_from_the_first_row_that_gives_it(tmp_path: Path) -> None:
    rows = [{"url": "http://a/dog.jpg", "caption": "a dog", "boxes": [[0, 0, 80, 60]]}]
    rows.append(rows[0] | {"width": 160, "height": 60})
    assert read_rows(tmp_path, *rows)[0].sample.texts[0].phrases[0].boxes == (Box(0, 0, 0.5, 1),)


def test_a_first_row_without_a_caption_refuses_that_row_alone(tmp_path: Path) -> None:
    candidates = read_rows(tmp_path, {"path": "dog.jpg"}, {"path": "dog.jpg", "caption": "a dog"})
    assert (reasons(candidates), candidates[0].rows) == (["empty_text"], ("mine.jsonl#2",))


def test_boxes_of_too_many_levels_are_refused(tmp_path: Path) -> None:
    row = {"path": "dog.jpg", "caption": "a dog", "boxes": "[" * 200_000}
    assert reasons(read_rows(tmp_path, row)) == ["bad_box"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_of_an_image_are_gathered_from_afar(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_ROWS", 3)
    full_size.table(tmp_path / f"mine{suffix}", 0.0001)
    found = [(c.image, c.rows) for c in read_table(worlds.source("table", [f"mine{suffix}"], ["."]), tmp_path)]
    assert found == [
        (f"pictures/{image:08d}.jpg", tuple(f"mine{suffix}#{image + 1 + n}" for n in range(0, 100, 20)))
        for image in range(20)
    ]


def test_rows_of_an_image_may_be_in_two_files(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"path": "a.jpg", "caption": "one"}\n')
    (tmp_path / "two.csv").write_text("path,caption\nb.jpg,two\na.jpg,three\n")
    found = [c.rows for c in read_table(worlds.source("table", ["one.jsonl", "two.csv"], ["."]), tmp_path)]
    assert found == [("one.jsonl#1", "two.csv#2"), ("two.csv#1",)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"path": "\ud800.jpg", "caption": "a dog"}, "bad_text"),
        ({"path": "\ud800.jpg", "caption": "a dog", "boxes": [worlds.DOG]}, "bad_text"),
        ({"path": "dog.jpg", "caption": "a dog", "licence": "\ud800"}, "bad_text"),
        ({"path": "dog.jpg", "caption": "a dog", "url": "http://a/\ud800.jpg"}, "bad_url"),
        ({"url": "http://a/\ud800.jpg", "caption": "a dog"}, "bad_url"),
    ],
)
def test_what_has_no_utf8_form_is_refused_and_can_be_written(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    (only,) = read_rows(tmp_path, row)
    assert ([each.reason for each in only.refused], only.rows, only.sample.texts) == ([reason], (), ())
    assert b"\\ud800" in f"{only.image} {only.sample.url} {only.sample.licence}".encode()


def test_a_name_that_no_file_system_has_is_no_image(tmp_path: Path) -> None:
    row = {"path": "a" * 300 + ".jpg", "caption": "a dog", "boxes": [worlds.DOG]}
    assert reasons(read_rows(tmp_path, row)) == ["no_image"]
