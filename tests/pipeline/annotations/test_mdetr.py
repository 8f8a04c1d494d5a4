import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitgen.record import Box, Phrase, Text
from pipeline.annotations.mdetr import mdetr_ids, read_mdetr
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate
from tests import worlds

DOG, BALL = Box(0.1, 0.2, 0.4, 0.7), Box(0.6, 0.5, 0.8, 0.75)


def read_changed(folder: Path, source: Source, change: Callable[[dict[str, Any]], object]) -> list[Candidate]:
    path = folder / source.annotations[0]
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return list(read_mdetr(source, folder))


def test_expressions_of_one_photograph_are_one_sample(tmp_path: Path) -> None:
    texts = [candidate.sample.texts for candidate in read_mdetr(worlds.refexp(tmp_path), tmp_path)]
    assert texts == [
        (Text("the dog", (Phrase(0, 7, (DOG,)),)), Text("ball on the right", (Phrase(0, 17, (BALL,)),))),
        (Text("dog", (Phrase(0, 3, (DOG,)),)),),
    ]


def test_every_expression_is_a_row(tmp_path: Path) -> None:
    rows = [row for candidate in read_mdetr(worlds.refexp(tmp_path), tmp_path) for row in candidate.rows]
    assert rows == [f"finetune_refcoco_train.json#{i}" for i in range(3)]


def test_a_2014_name_finds_the_2017_file(tmp_path: Path) -> None:
    first = next(read_mdetr(worlds.refexp(tmp_path), tmp_path))
    assert (first.image, first.sample.ids) == ("000000000009.jpg", ("coco:9",))


def test_a_2014_name_finds_the_2014_file(tmp_path: Path) -> None:
    source = worlds.refexp(tmp_path)
    (tmp_path / "train2014").mkdir()
    (tmp_path / "train2017/000000000009.jpg").rename(tmp_path / "train2014/COCO_train2014_000000000009.jpg")
    assert next(read_mdetr(source, tmp_path)).image == "COCO_train2014_000000000009.jpg"


def test_mixed_rows_stand_under_coco_or_visual_genome(tmp_path: Path) -> None:
    ids = [candidate.sample.ids for candidate in read_mdetr(worlds.mixed(tmp_path), tmp_path)]
    assert ids == [("coco:9",), ("vg:5",)]


def test_a_sentence_has_several_phrases(tmp_path: Path) -> None:
    first = next(read_mdetr(worlds.mixed(tmp_path), tmp_path))
    assert first.sample.texts[0].phrases == (Phrase(0, 5, (DOG,)), Phrase(13, 19, (BALL,)))


def test_a_phrase_has_several_boxes(tmp_path: Path) -> None:
    first = next(read_mdetr(worlds.mixed(tmp_path), tmp_path))
    assert first.sample.texts[1] == Text("two things", (Phrase(0, 10, (DOG, BALL)),))


def test_a_box_of_two_spans_is_of_two_phrases(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["annotations"][0]["tokens_positive"] = [[0, 5], [6, 12]]

    first = read_changed(tmp_path, worlds.mixed(tmp_path), change)[0]
    assert first.sample.texts[0].phrases[:2] == (Phrase(0, 5, (DOG,)), Phrase(6, 12, (DOG,)))


def test_flickrs_sizes_in_words_are_numbers(tmp_path: Path) -> None:
    first = next(read_mdetr(worlds.flickr_grounded(tmp_path), tmp_path))
    assert (first.sample.width, first.sample.height, first.sample.ids) == (80, 60, ("flickr:1000092795",))


def test_a_sentence_that_came_without_boxes_is_a_caption(tmp_path: Path) -> None:
    first = next(read_mdetr(worlds.flickr_grounded(tmp_path), tmp_path))
    assert first.sample.texts[1] == Text(worlds.CAPTIONS[1])


def test_an_expression_without_a_box_is_refused(tmp_path: Path) -> None:
    candidates = read_changed(tmp_path, worlds.refexp(tmp_path), lambda document: document["annotations"].pop())
    assert [(r.row, r.reason) for c in candidates for r in c.refused] == [("finetune_refcoco_train.json#2", "no_box")]


def test_an_expression_with_a_box_outside_the_image_is_refused(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["annotations"][2]["bbox"] = [70, 10, 40, 20]

    candidates = read_changed(tmp_path, worlds.refexp(tmp_path), change)
    assert [(r.row, r.reason) for c in candidates for r in c.refused] == [("finetune_refcoco_train.json#2", "bad_box")]


def test_one_bad_box_leaves_the_sentence_its_other_phrases(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["annotations"][0]["bbox"] = [0, 0, 0, 0]

    first = read_changed(tmp_path, worlds.mixed(tmp_path), change)[0]
    assert first.sample.texts[0].phrases == (Phrase(13, 19, (BALL,)),)


def test_one_bad_box_is_refused_under_its_own_id(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["annotations"][0]["bbox"] = [0, 0, 0, 0]

    first = read_changed(tmp_path, worlds.mixed(tmp_path), change)[0]
    assert [(r.row, r.reason) for r in first.refused] == [("final_mixed_train.json#0/0", "bad_box")]


@pytest.mark.parametrize("spans", [[[13, 20]], [[-1, 5]], [[5, 5]], [[0]], [], None, "0-5", [[0, 2.5]]])
def test_a_span_that_is_none_of_the_text_is_refused(tmp_path: Path, spans: object) -> None:
    def change(document: dict[str, Any]) -> None:
        document["annotations"][1]["tokens_positive"] = spans

    first = read_changed(tmp_path, worlds.mixed(tmp_path), change)[0]
    assert [(r.row, r.reason) for r in first.refused] == [("final_mixed_train.json#0/1", "bad_span")]


def test_an_empty_caption_is_refused(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["images"][1]["caption"] = ""
        del document["annotations"][1]

    first = read_changed(tmp_path, worlds.flickr_grounded(tmp_path), change)[0]
    assert [r.reason for r in first.refused] == ["empty_text"]


def test_equal_expressions_of_one_box_become_one_text(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["images"].append(document["images"][0] | {"id": 7})
        document["annotations"].append(document["annotations"][0] | {"id": 70, "image_id": 7})

    first = read_changed(tmp_path, worlds.refexp(tmp_path), change)[0]
    assert (len(first.sample.texts), len(first.rows)) == (2, 3)


def test_an_evaluation_source_keeps_every_expression(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["images"].append(document["images"][0] | {"id": 7})
        document["annotations"].append(document["annotations"][0] | {"id": 70, "image_id": 7})

    first = read_changed(tmp_path, replace(worlds.refexp(tmp_path), role="eval"), change)[0]
    assert len(first.sample.texts) == 3


def test_gqas_own_photographs_are_known_as_gqas(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["images"][1] |= {"file_name": "n161313.jpg", "original_id": "n161313"}

    assert read_changed(tmp_path, worlds.mixed(tmp_path), change)[1].sample.ids == ("gqa:161313",)


def test_an_annotation_of_no_row_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="expected an images row for every annotation, found none for"):
        read_changed(tmp_path, worlds.refexp(tmp_path), lambda document: document["images"].pop())


def test_a_file_name_and_an_original_id_must_agree(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["images"][0]["original_id"] = 25

    with pytest.raises(AnnotationError, match="expected original_id 9 for COCO_train2014_000000000009"):
        read_changed(tmp_path, worlds.refexp(tmp_path), change)


def test_an_unknown_dataset_is_an_error(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["images"][0] |= {"dataset_name": "phrasecut", "file_name": "x.jpg"}

    with pytest.raises(AnnotationError, match=r"expected a dataset_name of refcoco, .* found 'phrasecut'"):
        read_changed(tmp_path, worlds.refexp(tmp_path), change)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    source = worlds.source("mdetr", ["final_refcoco_train.json"], ["train2014"])
    with pytest.raises(AnnotationError, match=r"final_refcoco_train\.json"):
        next(read_mdetr(source, tmp_path))


def test_the_lists_may_stand_in_any_order(tmp_path: Path) -> None:
    source = worlds.mixed(tmp_path)
    expected = list(read_mdetr(source, tmp_path))

    def change(document: dict[str, Any]) -> None:
        images = document.pop("images")
        document["images"] = images

    assert read_changed(tmp_path, source, change) == expected


def test_ids_are_all_there_where_the_boxes_come_first(tmp_path: Path) -> None:
    source = worlds.mixed(tmp_path)
    path = tmp_path / source.annotations[0]
    document = json.loads(path.read_text())
    path.write_text(json.dumps({key: document[key] for key in ("annotations", "images")}))
    assert list(mdetr_ids(source, tmp_path)) == [("coco:9",), ("vg:5",)]


def test_annotations_of_a_row_need_not_be_neighbours(tmp_path: Path) -> None:
    source = worlds.mixed(tmp_path)
    expected = list(read_mdetr(source, tmp_path))

    def change(document: dict[str, Any]) -> None:
        document["annotations"] = [document["annotations"][id] for id in (0, 3, 1, 4, 2)]

    assert read_changed(tmp_path, source, change) == expected


def test_two_rows_of_one_id_are_an_error(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["images"][1]["id"] = 0

    with pytest.raises(
        AnnotationError, match=r"expected an id of its own for every images row, found 0 again: .*\.json"
    ):
        read_changed(tmp_path, worlds.mixed(tmp_path), change)


def test_rows_of_two_files_keep_to_their_own_boxes(tmp_path: Path) -> None:
    source = worlds.refexp(tmp_path)
    second = tmp_path / "OpenSource/second.json"
    document = json.loads((tmp_path / source.annotations[0]).read_text())
    for annotation in document["annotations"]:
        annotation["bbox"] = list(worlds.BALL)
    second.write_text(json.dumps(document))
    both = replace(source, annotations=(*source.annotations, "OpenSource/second.json"))
    boxes = [text.phrases[0].boxes for text in next(read_mdetr(both, tmp_path)).sample.texts]
    assert boxes == [(DOG,), (BALL,), (BALL,)]


def test_a_file_without_annotations_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="expected a list of objects under 'annotations'"):
        read_changed(tmp_path, worlds.mixed(tmp_path), lambda document: document.pop("annotations"))


def test_two_names_of_one_number_are_an_error(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["images"] += [
            {"id": 90 + n, "file_name": name, "width": 80, "height": 60, "caption": "a", "dataset_name": "mixed"}
            for n, name in enumerate(("7.jpg", "07.jpg"))
        ]

    with pytest.raises(AnnotationError, match=r"expected one name of a photo, found 07\.jpg and 7\.jpg: source"):
        read_changed(tmp_path, worlds.mixed(tmp_path), change)


def test_the_id_of_a_refused_box_can_be_written(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["annotations"][0] |= {"id": "\ud800", "bbox": [0, 0, 0, 0]}

    refused = read_changed(tmp_path, worlds.mixed(tmp_path), change)[0].refused
    assert [each.row.encode()[-7:] for each in refused] == [b"/\\ud800"]
