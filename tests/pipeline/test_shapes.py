"""A drawn world as it lies on disk."""

import json
import re
from pathlib import Path

import pytest

from pipeline.annotations import READERS
from pipeline.drawing.scene import HELD_OUT
from pipeline.files import sha256_of
from pipeline.holdout import SHIPPED, read_ids
from pipeline.manifest import Manifest, read_manifest
from pipeline.rows import Candidate
from pipeline.shapes import MANIFEST, ShapesError, World, draw, pairs, scenes, write_world
from pipeline.shapes import Task as Scenes

WORLD = World(train=6, val=3, test=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "shapes"
    assert write_world(folder, WORLD)
    return folder


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_manifest(folder / MANIFEST)


@pytest.fixture(scope="module")
def read(manifest: Manifest, folder: Path) -> dict[str, list[Candidate]]:
    return {source.dataset: list(READERS[source.reader](source, folder)) for source in manifest.sources}


def ids_of(read: dict[str, list[Candidate]], kind: str) -> set[str]:
    return {id for name, found in read.items() if name.startswith(kind) for each in found for id in each.sample.ids}


def test_it_makes_these_datasets_of_so_many_images(read: dict[str, list[Candidate]]) -> None:
    assert {name: len(found) for name, found in read.items()} == {
        "coarse/shapes-train": 6,
        "fine/shapes-grounded-train": 6,
        "fine/shapes-described-train": 6,
        "eval/shapes-val": 3,
        "eval/shapes-grounded-val": 3,
        "eval/shapes-test": 4,
        "eval/shapes-grounded-test": 4,
        "eval/shapes-seen-grounded-test": 4,
        "eval/shapes-unseen-test": 4,
        "eval/shapes-unseen-grounded-test": 4,
    }


def test_no_row_is_refused(read: dict[str, list[Candidate]]) -> None:
    assert [each.refused for found in read.values() for each in found if each.refused] == []


def test_every_image_has_five_captions_and_a_phrase(read: dict[str, list[Candidate]]) -> None:
    coarse = [each for name, found in read.items() if "grounded" not in name for each in found]
    captions, described = (read[name] for name in ("coarse/shapes-train", "fine/shapes-described-train"))
    assert [[t.text for t in each.sample.texts] for each in captions] == [
        [t.text for t in each.sample.texts] for each in described
    ]
    assert {len(text.phrases) for each in described for text in each.sample.texts} <= {4, 5}
    fine = [each for name, found in read.items() if "grounded" in name for each in found]
    assert {len(each.sample.texts) for each in coarse} == {5}
    assert all(text.phrases for each in fine for text in each.sample.texts)


def test_no_training_image_is_known_under_the_id_of_an_evaluation_image(read: dict[str, list[Candidate]]) -> None:
    assert len(ids_of(read, "coarse")) == 6
    assert ids_of(read, "coarse") == ids_of(read, "fine")
    assert ids_of(read, "coarse") & ids_of(read, "eval") == set()


def test_no_id_is_one_of_cocos(read: dict[str, list[Candidate]]) -> None:
    blocked = {id for path in SHIPPED.glob("*.txt") for id in read_ids(path)}
    assert (ids_of(read, "coarse") | ids_of(read, "eval")) & blocked == set()
    assert min(len(id) for id in ids_of(read, "coarse") | ids_of(read, "eval")) > len("coco:581929")


def test_captions_to_train_on_name_no_pair_that_is_held_out(read: dict[str, list[Candidate]]) -> None:
    said = {pair for each in read["coarse/shapes-train"] for text in each.sample.texts for pair in pairs(text.text)}
    assert len(said) > 1
    assert said & HELD_OUT == set()


def test_every_unseen_caption_names_a_pair_that_is_held_out(read: dict[str, list[Candidate]]) -> None:
    texts = [text.text for each in read["eval/shapes-unseen-test"] for text in each.sample.texts]
    assert [text for text in texts if not pairs(text).keys() & HELD_OUT] == []


def phrases_of(candidate: Candidate) -> set[str]:
    return {text.text[p.start : p.stop] for text in candidate.sample.texts for p in text.phrases}


def test_the_boxes_of_unseen_sentences_are_of_pairs_held_out(read: dict[str, list[Candidate]]) -> None:
    said = {pair for each in read["eval/shapes-unseen-grounded-test"] for p in phrases_of(each) for pair in said_of(p)}
    assert len(said) > 1
    assert said <= HELD_OUT


def said_of(phrase: str) -> set[tuple[str, str]]:
    """The pairs that a phrase says of what it names, not those of what it stands by."""
    return set(pairs(re.split(r" (?:left|right) of | above | below | inside ", phrase)[0]))


def test_what_they_are_compared_with_asks_for_one_pair_a_scene(read: dict[str, list[Candidate]]) -> None:
    said = [{pair for p in phrases_of(each) for pair in said_of(p)} for each in read["eval/shapes-seen-grounded-test"]]
    assert max(map(len, said)) == 1
    assert set.union(*said) & HELD_OUT == set()


def test_the_files_are_those_of_the_manifest(manifest: Manifest, folder: Path) -> None:
    named = {(file.path, file.bytes, file.sha256) for file in manifest.files}
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in (MANIFEST, ".lock")]
    assert {(p.relative_to(folder).as_posix(), p.stat().st_size, sha256_of(p)) for p in paths} == named
    assert len(named) == 14


def test_two_processes_write_the_same_bytes_as_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.shapes._SCENES_PER_TASK", 2)
    write_world(tmp_path / "shapes", WORLD, workers=2)
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert [name for name in names if sha256_of(folder / name) != sha256_of(tmp_path / "shapes" / name)] == []


@pytest.mark.parametrize("split", ["train", "unseen"])
def test_a_larger_world_holds_a_smaller_one(split: str) -> None:
    small, large = World(train=4, test=4), World(train=400, test=400)
    assert draw(Scenes(small, split, 0, 4)) == draw(Scenes(large, split, 0, 6))[:4]
    assert draw(Scenes(large, split, 2, 4)) == draw(Scenes(large, split, 0, 6))[2:4]


def test_another_seed_gives_another_world() -> None:
    one, other = (draw(Scenes(World(seed=seed), "train", 0, 20)) for seed in (0, 1))
    assert {each.image for each in one} & {each.image for each in other} == set()


def test_twins_stand_on_the_same_ground() -> None:
    (_, one), (_, other), (_, third) = scenes(World(), "test", 0, 3)
    assert one.getstate() == other.getstate() != third.getstate()


def test_a_whole_world_is_not_drawn_again(folder: Path) -> None:
    before = (folder / MANIFEST).stat().st_mtime_ns
    assert not write_world(folder, WORLD)
    assert (folder / MANIFEST).stat().st_mtime_ns == before


def test_another_world_is_not_written_over(folder: Path) -> None:
    with pytest.raises(
        ShapesError, match="expected no other world, found one: bitgen-shapes --train 6 --val 3 --test 4 "
    ):
        write_world(folder, World(train=7, val=3, test=4))


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all that I have")
    with pytest.raises(ShapesError, match=r"expected an empty folder, .* found .*thesis\.tex"):
        write_world(tmp_path, WORLD)


def test_a_drawing_that_was_stopped_leaves_no_manifest_and_is_drawn_again(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(task: Scenes) -> list[object]:
        if task.split == "val":
            raise KeyboardInterrupt
        return [*draw(task)]

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.shapes.draw", stop)
        with pytest.raises(KeyboardInterrupt):
            write_world(tmp_path, WORLD)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    kinds = ("captions", "grounded", "described")
    assert left == {".lock", "images/train.tar", *(f"annotations/{kind}_train.json" for kind in kinds)}
    assert write_world(tmp_path, WORLD)
    assert (tmp_path / MANIFEST).read_bytes() == (folder / MANIFEST).read_bytes()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"train": 0}, "expected train of 1 to 10,000,000 scenes, found 0"),
        ({"test": 20_000_000}, "expected test of 1 to 10,000,000 scenes, found 20,000,000"),
        ({"side_px": 16}, "expected a side of 64 to 1024 pixels, found 16"),
        ({"objects": (4, 9)}, "expected 3 to 6 objects, found 4, 9"),
        ({"objects": ()}, "expected 3 to 6 objects, found none"),
        ({"seed": -1}, "expected a seed of 0 or more, found -1"),
    ],
)
def test_a_world_that_cannot_be_drawn_is_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        World(**wrong)  # type: ignore[arg-type] (each value is of its field's type)


def test_annotations_are_json_that_lists_every_image_once(folder: Path) -> None:
    document = json.loads((folder / "annotations/captions_train.json").read_text())
    assert [image["id"] for image in document["images"]] == list(range(10_000_000, 10_000_006))
