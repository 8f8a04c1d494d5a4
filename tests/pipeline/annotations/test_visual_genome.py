import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgen.record import Box, Phrase, Text
from bitgen.tokens import shared_tokenizer
from pipeline.annotations import visual_genome
from pipeline.annotations.visual_genome import Group, join_phrases, read_visual_genome
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate
from tests import worlds

DOG, BALL = Box(0.1, 0.2, 0.4, 0.7), Box(0.6, 0.5, 0.8, 0.75)
REGIONS = "region_descriptions.json"


def read_changed(
    folder: Path, change: Callable[[list[dict[str, Any]]], object], name: str = REGIONS, **fields: Any
) -> list[Candidate]:
    source = replace(worlds.visual_genome(folder), **fields)
    rows = json.loads((folder / name).read_text())
    change(rows)
    (folder / name).write_text(json.dumps(rows))
    return list(read_visual_genome(source, folder))


def objects(folder: Path) -> Source:
    return replace(worlds.visual_genome(folder), annotations=("image_data.json", "objects.json"))


def test_regions_are_joined_into_a_sentence(tmp_path: Path) -> None:
    first = next(read_visual_genome(worlds.visual_genome(tmp_path), tmp_path))
    assert first.sample.texts == (Text("a dog. A red ball", (Phrase(0, 5, (DOG,)), Phrase(7, 17, (BALL,)))),)


def test_every_region_is_a_row(tmp_path: Path) -> None:
    first = next(read_visual_genome(worlds.visual_genome(tmp_path), tmp_path))
    assert first.rows == ("region_descriptions.json#200", "region_descriptions.json#201")


def test_an_image_has_every_id_that_image_data_knows(tmp_path: Path) -> None:
    ids = [candidate.sample.ids for candidate in read_visual_genome(worlds.visual_genome(tmp_path), tmp_path)]
    assert ids == [("coco:9", "vg:2"), ("flickr:10002456", "vg:5"), ("vg:61",)]


def test_objects_are_joined_by_id_not_by_place(tmp_path: Path) -> None:
    rows = [candidate.rows[0] for candidate in read_visual_genome(objects(tmp_path), tmp_path)]
    assert rows == ["objects.json#2000", "objects.json#5000", "objects.json#61000"]


def test_objects_are_phrases(tmp_path: Path) -> None:
    first = next(read_visual_genome(objects(tmp_path), tmp_path))
    assert first.sample.texts == (Text("dog. ball", (Phrase(0, 3, (DOG,)), Phrase(5, 9, (BALL,)))),)


def test_regions_and_objects_of_an_image_are_one_sample(tmp_path: Path) -> None:
    source = replace(objects(tmp_path), annotations=("image_data.json", REGIONS, "objects.json"))
    assert len(next(read_visual_genome(source, tmp_path)).sample.texts) == 2


def test_regions_that_overlap_by_more_than_half_are_in_different_sentences(tmp_path: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[0]["regions"][1] |= {"x": 10, "y": 12, "width": 24, "height": 30}

    first = read_changed(tmp_path, change)[0]
    assert [text.text for text in first.sample.texts] == ["a dog", "A red ball"]


def test_regions_of_equal_words_are_one_phrase_with_several_boxes(tmp_path: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[0]["regions"][1]["phrase"] = "A dog."

    first = read_changed(tmp_path, change)[0]
    assert (first.sample.texts, len(first.rows)) == ((Text("a dog", (Phrase(0, 5, (DOG, BALL)),)),), 2)


def test_a_sentence_keeps_to_its_tokens(tmp_path: Path) -> None:
    # "a dog" and "A red ball" are 2 and 3 tokens; the full stop between them 1, the two end-of-texts 2.
    first = read_changed(tmp_path, lambda rows: None, options={"max_tokens": 7})[0]
    assert [text.text for text in first.sample.texts] == ["a dog", "A red ball"]


def test_a_region_outside_the_image_is_refused(tmp_path: Path) -> None:
    first = read_changed(tmp_path, lambda rows: rows[0]["regions"][0].update(x=70))[0]
    assert [(r.row, r.reason) for r in first.refused] == [("region_descriptions.json#200", "bad_box")]


def test_a_region_without_words_is_refused(tmp_path: Path) -> None:
    first = read_changed(tmp_path, lambda rows: rows[0]["regions"][0].update(phrase=" . "))[0]
    assert [r.reason for r in first.refused] == ["empty_text"]


def test_an_image_that_image_data_does_not_know_is_refused(tmp_path: Path) -> None:
    candidates = read_changed(tmp_path, lambda rows: rows.pop(0), "image_data.json")
    assert [r.reason for r in candidates[0].refused] == ["unknown_image", "unknown_image"]


def test_without_image_data_nothing_is_read(tmp_path: Path) -> None:
    source = replace(worlds.visual_genome(tmp_path), annotations=(REGIONS,))
    with pytest.raises(AnnotationError, match=r"expected image_data\.json among the annotations"):
        next(read_visual_genome(source, tmp_path))


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    source = worlds.visual_genome(tmp_path)
    (tmp_path / REGIONS).write_bytes((tmp_path / REGIONS).read_bytes()[:-1])
    with pytest.raises(AnnotationError, match="expected whole JSON"):
        next(read_visual_genome(source, tmp_path))


def test_rows_of_another_kind_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="expected rows with regions or objects, found id"):
        read_changed(tmp_path, lambda rows: rows[0].pop("regions"))


def test_a_region_without_a_number_is_refused_alone(tmp_path: Path) -> None:
    first = read_changed(tmp_path, lambda rows: rows[0]["regions"][0].update(x=None))[0]
    assert ([r.reason for r in first.refused], first.rows) == (["bad_box"], ("region_descriptions.json#201",))


@pytest.mark.parametrize("id", [None, "x", 1.5, True, 2**64])
def test_a_region_without_an_id_is_refused_by_its_place(tmp_path: Path, id: object) -> None:
    first = read_changed(tmp_path, lambda rows: rows[0]["regions"][1].update(region_id=id))[0]
    found = [(r.row, r.reason) for r in first.refused]
    assert (found, first.rows) == ([(f"{REGIONS}#image 2/region 1", "bad_id")], (f"{REGIONS}#200",))


def test_an_object_without_an_id_is_refused_by_its_place(tmp_path: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[2]["objects"][0].pop("object_id")

    annotations = ("image_data.json", "objects.json")
    first = read_changed(tmp_path, change, "objects.json", annotations=annotations)[0]
    assert [r.row for r in first.refused] == ["objects.json#image 2/object 0"]


def test_places_go_on_where_an_image_is_listed_again(tmp_path: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[0]["regions"][0].pop("region_id")
        rows.extend([rows[0], rows[0]])

    first = read_changed(tmp_path, change)[0]
    assert [r.row for r in first.refused] == [f"{REGIONS}#image 2/region {place}" for place in (0, 2, 4)]


corners = st.integers(0, 6)
boxes = st.tuples(corners, corners, corners, corners).map(
    lambda c: Box(c[0] / 14, c[1] / 14, (c[0] + c[2] + 1) / 14, (c[1] + c[3] + 1) / 14)
)
groups = st.lists(st.tuples(st.sampled_from(["a dog", "man's hat!", "12"]), st.lists(boxes, min_size=1, max_size=3)))


def overlap(a: Box, b: Box) -> float:
    width = max(0.0, min(a.x1, b.x1) - max(a.x0, b.x0))
    height = max(0.0, min(a.y1, b.y1) - max(a.y0, b.y0))
    areas = [(box.x1 - box.x0) * (box.y1 - box.y0) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def first_fit(words: list[tuple[str, list[Box]]], max_tokens: int) -> list[str]:
    """The slow way: every group into the first sentence that has room and no overlap."""
    sentences: list[list[tuple[str, list[Box]]]] = []
    for text, some in words:
        for sentence in sentences:
            tokens = sum(shared_tokenizer().count(f". {other}") - 2 for other, _ in [*sentence, (text, some)]) + 2
            if tokens <= max_tokens and not any(
                overlap(a, b) > 0.5 for _, others in sentence for a in others for b in some
            ):
                sentence.append((text, some))
                break
        else:
            sentences.append([(text, some)])
    return [". ".join(text for text, _ in sentence) for sentence in sentences]


@pytest.mark.parametrize("block", [1, 2, 256])
@settings(deadline=None, max_examples=40)
@given(words=groups, max_tokens=st.integers(3, 20))
def test_sentences_are_those_of_first_fit(block: int, words: list[tuple[str, list[Box]]], max_tokens: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visual_genome, "_BLOCK", block)
        joined = join_phrases([Group(text, some, [str(n)]) for n, (text, some) in enumerate(words)], max_tokens)
    assert [text for text, _, _ in joined] == first_fit(words, max_tokens)


def test_an_id_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="expected coco_id of type int, found 'abc': image 2"):
        read_changed(tmp_path, lambda rows: rows[0].update(coco_id="abc"), "image_data.json")


def test_an_image_whose_url_has_no_utf8_form_is_refused(tmp_path: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[0]["url"] = "http://a/\ud800.jpg"

    first = read_changed(tmp_path, change, "image_data.json")[0]
    assert ({each.reason for each in first.refused}, first.rows) == ({"bad_url"}, ())
    assert first.sample.url == "http://a/\\ud800.jpg"
