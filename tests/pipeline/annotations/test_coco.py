import json
from dataclasses import replace
from pathlib import Path

import pytest

from bitgen.record import Text
from pipeline.annotations.coco import read_coco
from pipeline.rows import AnnotationError, Refusal
from tests import worlds


def with_captions(folder: Path, images: list[object], annotations: list[object]) -> Path:
    document = {"licenses": [], "images": images, "annotations": annotations}
    return worlds.write_json(folder / "annotations/captions_train2017.json", document)


def image(id: int = 9) -> dict[str, object]:
    return {"id": id, "file_name": f"{id:012d}.jpg", "width": 80, "height": 60}


def test_an_image_has_all_its_captions(tmp_path: Path) -> None:
    first = next(read_coco(worlds.coco(tmp_path), tmp_path))
    assert first.sample.texts == (Text(worlds.CAPTIONS[0]), Text(worlds.CAPTIONS[1]))


def test_every_caption_is_a_row(tmp_path: Path) -> None:
    rows = [candidate.rows for candidate in read_coco(worlds.coco(tmp_path), tmp_path)]
    assert rows == [
        ("captions_train2017.json#100", "captions_train2017.json#101"),
        ("captions_train2017.json#102", "captions_train2017.json#103"),
        ("captions_train2017.json#104",),
    ]


def test_an_image_is_known_by_its_coco_and_its_flickr_id(tmp_path: Path) -> None:
    first = next(read_coco(worlds.coco(tmp_path), tmp_path))
    assert first.sample.ids == ("coco:9", "flickr:1000092795")


def test_an_image_has_its_own_licence(tmp_path: Path) -> None:
    first = next(read_coco(worlds.coco(tmp_path), tmp_path))
    assert first.sample.licence == "http://creativecommons.org/licenses/by/2.0/"


def test_key_size_and_file_are_the_annotations(tmp_path: Path) -> None:
    first = next(read_coco(worlds.coco(tmp_path), tmp_path))
    sample = first.sample
    assert (sample.key, sample.width, sample.height, first.image) == ("coco-000000000009", 80, 60, "000000000009.jpg")


def test_images_come_in_order_of_their_id(tmp_path: Path) -> None:
    source = worlds.coco(tmp_path)
    with_captions(tmp_path, [image(30), image(9)], [])
    assert [c.sample.key for c in read_coco(source, tmp_path)] == ["coco-000000000009", "coco-000000000030"]


def test_equal_captions_of_an_image_become_one_text(tmp_path: Path) -> None:
    with_captions(tmp_path, [image()], [{"id": i, "image_id": 9, "caption": "a dog"} for i in (1, 2)])
    (only,) = read_coco(worlds.source("coco", ["annotations/captions_train2017.json"], ["train2017"]), tmp_path)
    assert (only.sample.texts, len(only.rows)) == ((Text("a dog"),), 2)


def test_an_evaluation_source_keeps_equal_captions(tmp_path: Path) -> None:
    with_captions(tmp_path, [image()], [{"id": i, "image_id": 9, "caption": "a dog"} for i in (1, 2)])
    source = worlds.source("coco", ["annotations/captions_train2017.json"], ["train2017"], role="eval")
    assert len(next(read_coco(source, tmp_path)).sample.texts) == 2


def test_an_empty_caption_is_refused(tmp_path: Path) -> None:
    source = worlds.coco(tmp_path)
    with_captions(tmp_path, [image()], [{"id": 1, "image_id": 9, "caption": " \n"}])
    (only,) = read_coco(source, tmp_path)
    assert only.refused == (Refusal("captions_train2017.json#1", "empty_text", "expected a text, found ' \\n'"),)


def test_a_caption_of_lone_surrogates_is_refused(tmp_path: Path) -> None:
    source = worlds.coco(tmp_path)
    with_captions(tmp_path, [image()], [{"id": 1, "image_id": 9, "caption": "a \ud800"}])
    assert [r.reason for r in next(read_coco(source, tmp_path)).refused] == ["bad_text"]


def test_a_caption_of_an_image_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    source = worlds.coco(tmp_path)
    with_captions(tmp_path, [image(25)], [{"id": 1, "image_id": 9, "caption": "a dog"}])
    assert [r.reason for c in read_coco(source, tmp_path) for r in c.refused] == ["unknown_image", "no_text"]


def test_karpathys_splits_choose_the_images(tmp_path: Path) -> None:
    keys = [c.sample.key for c in read_coco(worlds.karpathy(tmp_path), tmp_path)]
    assert keys == ["coco-000000000009", "coco-000000000025"]


def test_karpathys_file_alone_gives_its_own_texts(tmp_path: Path) -> None:
    first = next(read_coco(worlds.karpathy(tmp_path), tmp_path))
    assert first.rows == ("dataset_coco.json#90", "dataset_coco.json#91")


def test_with_captions_files_karpathys_is_a_list_of_images(tmp_path: Path) -> None:
    source = worlds.karpathy(tmp_path)
    both = replace(source, annotations=("annotations/captions_train2017.json", "dataset_coco.json"))
    assert next(read_coco(both, tmp_path)).sample.ids == ("coco:9", "flickr:1000092795")


def test_an_image_under_its_2014_name_is_found(tmp_path: Path) -> None:
    source = worlds.karpathy(tmp_path)
    (tmp_path / "train2017/000000000009.jpg").rename(tmp_path / "train2017/COCO_val2014_000000000009.jpg")
    assert next(read_coco(source, tmp_path)).image == "COCO_val2014_000000000009.jpg"


def test_karpathys_file_needs_a_choice_of_splits(tmp_path: Path) -> None:
    source = replace(worlds.karpathy(tmp_path), options={"karpathy_splits": "valid"})
    with pytest.raises(AnnotationError, match=r"expected options\.karpathy_splits of train, restval, val, test"):
        next(read_coco(source, tmp_path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    source = worlds.source("coco", ["captions.json"], ["train2017"])
    with pytest.raises(AnnotationError, match=r"No such file or directory: .*captions\.json"):
        next(read_coco(source, tmp_path))


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    source = worlds.coco(tmp_path)
    path = tmp_path / "annotations/captions_train2017.json"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AnnotationError, match="expected whole JSON"):
        next(read_coco(source, tmp_path))


def test_instances_are_no_captions(tmp_path: Path) -> None:
    source = replace(worlds.coco(tmp_path), annotations=("annotations/instances_train2017.json",))
    with pytest.raises(AnnotationError, match="expected annotations with a caption, found area, bbox, category_id"):
        next(read_coco(source, tmp_path))


def test_a_list_is_no_captions_file(tmp_path: Path) -> None:
    source = worlds.coco(tmp_path)
    worlds.write_json(tmp_path / "annotations/captions_train2017.json", [1])
    with pytest.raises(AnnotationError, match="expected a list of objects under 'licenses'"):
        next(read_coco(source, tmp_path))


def test_a_width_in_words_is_an_error(tmp_path: Path) -> None:
    source = worlds.coco(tmp_path)
    with_captions(tmp_path, [image() | {"width": "wide"}], [])
    with pytest.raises(AnnotationError, match="expected width of type int, found 'wide': image 9"):
        next(read_coco(source, tmp_path))


def test_an_image_that_karpathys_file_lists_twice_keeps_all_its_rows(tmp_path: Path) -> None:
    images = [{"cocoid": 9, "split": "train", "sentences": [{"sentid": id, "raw": "a dog"}]} for id in (1, 2)]
    path = worlds.write_json(tmp_path / "k.json", {"dataset": "coco", "images": images})
    source = worlds.source("coco", [path.name], ["."], options={"karpathy_splits": "train"})
    assert next(read_coco(source, tmp_path)).rows == ("k.json#1", "k.json#2")


def test_the_lists_may_stand_in_any_order(tmp_path: Path) -> None:
    source = worlds.coco(tmp_path)
    expected = list(read_coco(source, tmp_path))
    path = tmp_path / "annotations/captions_train2017.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({key: document[key] for key in ("annotations", "images", "licenses", "info")}))
    assert list(read_coco(source, tmp_path)) == expected


def test_karpathys_dataset_may_be_named_before_its_images(tmp_path: Path) -> None:
    source = worlds.karpathy(tmp_path)
    expected = list(read_coco(source, tmp_path))
    path = tmp_path / "dataset_coco.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({"images": document["images"], "dataset": "coco"}))
    assert list(read_coco(source, tmp_path)) == expected


def test_karpathys_images_of_another_dataset_are_an_error(tmp_path: Path) -> None:
    source = worlds.karpathy(tmp_path)
    worlds.write_json(tmp_path / "dataset_coco.json", {"images": [{"cocoid": 9, "split": "train", "sentences": []}]})
    with pytest.raises(
        AnnotationError, match="expected a list of objects under 'licenses', found an object with images"
    ):
        next(read_coco(source, tmp_path))


def test_karpathys_images_in_a_captions_file_are_an_error(tmp_path: Path) -> None:
    source = worlds.karpathy(tmp_path)
    images = [{"cocoid": 9, "split": "train", "sentences": []}]
    worlds.write_json(tmp_path / "dataset_coco.json", {"images": images, "annotations": [], "licenses": []})
    with pytest.raises(AnnotationError, match="expected the dataset coco beside Karpathy's images, found None"):
        next(read_coco(source, tmp_path))


def test_an_image_of_karpathys_without_sentences_is_refused(tmp_path: Path) -> None:
    source = worlds.karpathy(tmp_path)
    images = [{"cocoid": 9, "split": "train", "sentences": []}]
    worlds.write_json(tmp_path / "dataset_coco.json", {"dataset": "coco", "images": images})
    assert [(r.row, r.reason) for c in read_coco(source, tmp_path) for r in c.refused] == [("image/9", "no_text")]


def test_the_later_row_of_an_image_counts(tmp_path: Path) -> None:
    source = worlds.coco(tmp_path)
    with_captions(tmp_path, [image(), image(25), image() | {"width": 81}], [])
    assert next(read_coco(source, tmp_path)).sample.width == 81


def test_a_licence_is_that_of_the_images_own_file(tmp_path: Path) -> None:
    source = replace(worlds.coco(tmp_path), annotations=("annotations/captions_train2017.json", "more.json"))
    licences = [{"id": 4, "url": "http://other/"}]
    document = {"annotations": [], "images": [image(25) | {"license": 4}], "licenses": licences}
    worlds.write_json(tmp_path / "more.json", document)
    found = [candidate.sample.licence for candidate in read_coco(source, tmp_path)]
    assert found == ["http://creativecommons.org/licenses/by/2.0/", "http://other/", found[0]]


@pytest.mark.parametrize(("name", "reason"), [("file_name", "bad_text"), ("coco_url", "bad_url")])
def test_an_image_whose_name_or_url_has_no_utf8_form_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    row = {"id": 1, "image_id": 9, "caption": "a dog"}
    with_captions(tmp_path, [image() | {name: "\ud800.jpg"}], [row])
    (only,) = read_coco(worlds.source("coco", ["annotations/captions_train2017.json"], ["train2017"]), tmp_path)
    assert [(each.row, each.reason) for each in only.refused] == [("captions_train2017.json#1", reason)]
    assert b"\\ud800.jpg" in f"{only.image} {only.sample.url}".encode()


def test_an_image_whose_licence_has_no_utf8_form_is_refused(tmp_path: Path) -> None:
    path = with_captions(tmp_path, [image() | {"license": 1}], [{"id": 1, "image_id": 9, "caption": "a dog"}])
    worlds.write_json(path, json.loads(path.read_text()) | {"licenses": [{"id": 1, "url": "\ud800"}]})
    (only,) = read_coco(worlds.source("coco", ["annotations/captions_train2017.json"], ["train2017"]), tmp_path)
    assert ([each.reason for each in only.refused], only.rows) == (["bad_text"], ())
    assert only.sample.licence == "\\ud800"
