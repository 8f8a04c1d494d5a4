"""The embedded sample as it ships."""

import csv
import hashlib
from pathlib import Path

import pytest

from pipeline.annotations import READERS
from pipeline.holdout import SHIPPED, read_ids
from pipeline.manifest import Manifest, read_manifest
from pipeline.rows import Candidate
from pipeline.sample import VAL_PHOTOS, SampleError, choose_val, read_photos, write_sample
from tests import worlds

FOLDER = SHIPPED.parent / "sample"


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_manifest(FOLDER.with_suffix(".toml"))


@pytest.fixture(scope="module")
def read(manifest: Manifest) -> dict[str, list[Candidate]]:
    return {source.dataset: list(READERS[source.reader](source, FOLDER)) for source in manifest.sources}


def test_it_holds_this_many_photographs(read: dict[str, list[Candidate]]) -> None:
    assert {name: len(candidates) for name, candidates in read.items()} == {
        "coarse/sample-train": 29,
        "fine/sample-grounded-train": 43,
        "eval/sample-val": 30,
        "eval/sample-grounded-val": 30,
    }


def test_none_of_its_rows_is_refused(read: dict[str, list[Candidate]]) -> None:
    assert [c.refused for candidates in read.values() for c in candidates if c.refused] == []


def test_every_photograph_has_a_phrase(read: dict[str, list[Candidate]]) -> None:
    grounded = read["fine/sample-grounded-train"] + read["eval/sample-grounded-val"]
    assert all(text.phrases for candidate in grounded for text in candidate.sample.texts)


def test_no_training_photograph_is_an_evaluation_image(read: dict[str, list[Candidate]]) -> None:
    blocked = {id for path in SHIPPED.glob("*.txt") for id in read_ids(path)}
    blocked |= {id for name in read if name.startswith("eval/") for c in read[name] for id in c.sample.ids}
    training = {id for name in read if not name.startswith("eval/") for c in read[name] for id in c.sample.ids}
    assert training & blocked == set()


def test_its_files_are_those_of_the_manifest(manifest: Manifest) -> None:
    named = {(file.path, file.sha256) for file in manifest.files}
    found = {
        (path.relative_to(FOLDER).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in FOLDER.rglob("*")
        if path.is_file()
    }
    assert found == named


def test_every_photograph_is_credited() -> None:
    with (FOLDER / "CREDITS.csv").open(newline="") as file:
        credited = {row["file"] for row in csv.DictReader(file)}
    assert credited == {f"{path.parent.name}/{path.name}" for path in FOLDER.glob("*2017/*.jpg")}


def test_every_photograph_is_free_to_pass_on() -> None:
    with (FOLDER / "CREDITS.csv").open(newline="") as file:
        assert {row["licence"] for row in csv.DictReader(file)} == {"CC BY 2.0", "CC BY-SA 2.0"}


def test_a_photograph_under_another_licence_is_left_out(tmp_path: Path) -> None:
    worlds.coco(tmp_path)
    path = tmp_path / "annotations/captions_train2017.json"
    path.write_text(path.read_text().replace('"license": 4', '"license": 6', 1))
    photos, _ = read_photos(tmp_path, "train2017")
    assert [photo.image["id"] for photo in photos] == [25, 30]


def test_too_few_photographs_to_evaluate_on_are_an_error(tmp_path: Path) -> None:
    worlds.coco(tmp_path)
    photos, _ = read_photos(tmp_path, "train2017")
    with pytest.raises(SampleError, match="expected 30 photographs with captions and boxes, found 3"):
        choose_val(photos, VAL_PHOTOS)


def test_a_folder_without_annotations_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"found no such file: .*instances_train2017\.json"):
        write_sample(tmp_path, tmp_path / "out", frozenset())
