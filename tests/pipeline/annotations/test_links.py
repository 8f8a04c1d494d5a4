import json
from pathlib import Path

import pytest

from bitgen.record import Text
from pipeline.annotations.cc3m import read_cc3m
from pipeline.annotations.sbu import read_sbu
from pipeline.rows import AnnotationError
from tests import worlds

FLICKR = "http://static.flickr.com/2723"


def test_sbus_rows_of_one_url_are_one_image(tmp_path: Path) -> None:
    first = next(read_sbu(worlds.sbu(tmp_path, FLICKR), tmp_path))
    assert first.sample.texts == (Text(worlds.CAPTIONS[0]), Text(worlds.CAPTIONS[1]))


def test_sbus_images_come_in_order_of_their_first_row(tmp_path: Path) -> None:
    keys = [candidate.sample.key for candidate in read_sbu(worlds.sbu(tmp_path, FLICKR), tmp_path)]
    assert keys == ["sbu-000000000", "sbu-000000001", "sbu-000000003"]


def test_every_sbu_row_is_in_one_candidate(tmp_path: Path) -> None:
    rows = [row for candidate in read_sbu(worlds.sbu(tmp_path, FLICKR), tmp_path) for row in candidate.rows]
    assert sorted(rows) == [f"sbu-captions-all.json#{i}" for i in range(4)]


def test_sbus_images_are_known_by_their_flickr_id(tmp_path: Path) -> None:
    first = next(read_sbu(worlds.sbu(tmp_path, FLICKR), tmp_path))
    assert (first.sample.ids, first.image) == (("flickr:1000092795",), f"{FLICKR}/1000092795_8f6b5d9be6.jpg")


def test_sbus_lists_must_be_of_one_length(tmp_path: Path) -> None:
    worlds.write_json(tmp_path / "sbu.json", {"image_urls": ["http://a/b.jpg"], "captions": []})
    with pytest.raises(AnnotationError, match="expected as many captions as image_urls, 1, found 0"):
        next(read_sbu(worlds.source("sbu", ["sbu.json"], ["crawl"]), tmp_path))


def test_a_list_is_no_sbu_file(tmp_path: Path) -> None:
    worlds.write_json(tmp_path / "sbu.json", ["a"])
    with pytest.raises(AnnotationError, match="expected an object with lists image_urls and captions"):
        next(read_sbu(worlds.source("sbu", ["sbu.json"], ["crawl"]), tmp_path))


def test_a_cc3m_line_is_a_caption_and_a_url(tmp_path: Path) -> None:
    first = next(read_cc3m(worlds.cc3m(tmp_path, "http://example.org"), tmp_path))
    assert (first.sample.texts, first.image) == ((Text(worlds.CAPTIONS[0]),), "http://example.org/0.jpg")


def test_a_cc3m_row_is_named_by_its_line(tmp_path: Path) -> None:
    candidates = list(read_cc3m(worlds.cc3m(tmp_path, "http://example.org"), tmp_path))
    assert [(c.sample.key, c.rows) for c in candidates][2] == ("cc3m-000000002", ("GCC-training.tsv#2",))


@pytest.mark.parametrize(
    "address", ["", "ftp://a/b.jpg", "file:///etc/passwd", "http://", "http://a b/c", "http://[/c"]
)
def test_what_is_no_web_address_is_refused(tmp_path: Path, address: str) -> None:
    (tmp_path / "list.tsv").write_text(f"a dog\t{address}\n")
    (only,) = read_cc3m(worlds.source("cc3m", ["list.tsv"], ["crawl"]), tmp_path)
    assert [r.reason for r in only.refused] == ["bad_url"]


def test_an_empty_caption_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text(" \thttp://a/b.jpg\n")
    (only,) = read_cc3m(worlds.source("cc3m", ["list.tsv"], ["crawl"]), tmp_path)
    assert [r.reason for r in only.refused] == ["empty_text"]


def test_a_line_without_a_tab_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("a dog\thttp://a/b.jpg\nhttp://a/c.jpg\n")
    with pytest.raises(AnnotationError, match=r"expected caption<TAB>url, found .* line 2"):
        list(read_cc3m(worlds.source("cc3m", ["list.tsv"], ["crawl"]), tmp_path))


def test_a_missing_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"expected a TSV, found No such file or directory"):
        next(read_cc3m(worlds.source("cc3m", ["list.tsv"], ["crawl"]), tmp_path))


def test_sbus_lists_may_stand_in_any_order(tmp_path: Path) -> None:
    source = worlds.sbu(tmp_path, FLICKR)
    expected = list(read_sbu(source, tmp_path))
    path = tmp_path / "sbu-captions-all.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({key: document[key] for key in ("captions", "user_ids", "image_urls")}))
    assert list(read_sbu(source, tmp_path)) == expected


def test_an_sbu_file_without_captions_is_an_error(tmp_path: Path) -> None:
    worlds.write_json(tmp_path / "sbu.json", {"image_urls": []})
    with pytest.raises(AnnotationError, match="lists image_urls and captions, found an object with image_urls"):
        next(read_sbu(worlds.source("sbu", ["sbu.json"], ["crawl"]), tmp_path))


def test_an_sbu_row_without_a_url_is_refused(tmp_path: Path) -> None:
    worlds.write_json(tmp_path / "sbu.json", {"image_urls": [None, 7], "captions": ["a", "b"]})
    (only,) = read_sbu(worlds.source("sbu", ["sbu.json"], ["crawl"]), tmp_path)
    assert [(r.row, r.reason) for r in only.refused] == [("sbu.json#0", "bad_url"), ("sbu.json#1", "bad_url")]


def test_a_url_without_a_utf8_form_is_refused(tmp_path: Path) -> None:
    worlds.write_json(tmp_path / "sbu.json", {"image_urls": ["http://a/\ud800.jpg"] * 2, "captions": ["a", "b"]})
    (only,) = read_sbu(worlds.source("sbu", ["sbu.json"], ["crawl"]), tmp_path)
    assert [each.reason for each in only.refused] == ["bad_url", "bad_url"]
    assert (only.image, only.sample.url) == ("http://a/\\ud800.jpg", "http://a/\\ud800.jpg")
