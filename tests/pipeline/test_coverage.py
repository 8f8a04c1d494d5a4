"""A set from another build: every image of it is held out by the checkpoint's lists, or was not trained on, or nobody knows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitgen.training.config import TrainConfig
from pipeline.coverage import (
    LISTED,
    NOT_COVERED,
    NOT_TRAINED_ON,
    SAME_LISTS,
    Cover,
    Trained,
    account,
    coverage,
    list_of,
    notes_on,
    trained,
)
from pipeline.holdout import BlockList, copy_list, find_list, keep_list, kept_in
from shards.index import ShardIndex
from tests import fakes
from tests.pipeline.conftest import World, picture

FLICKR = 7000001


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Photographs 1 to 3 to train on, the first known to Flickr too, and 10 and 11 held out."""
    world = World(tmp_path_factory.mktemp("learned") / "data")
    world.add("train", {id: picture(id) for id in (1, 2, 3)}, flickr={1: FLICKR})
    world.add("val", {id: picture(id) for id in (10, 11)}, role="eval")
    world.build()
    return world


def opened(world: World, name: str) -> ShardIndex:
    return ShardIndex.open(world.data / "shards" / name)


def taught(world: World, *missing: str, **changes: Any) -> Trained:
    """By a run over the whole of `world`."""
    index = opened(world, "coarse/world-train")
    config = fakes.config("coarse", **changes)
    return trained(index.dataset["holdout_sha256"], [config], {"coarse/world-train": index}, missing)


Other = Callable[..., ShardIndex]


@pytest.fixture
def other(tmp_path: Path) -> Other:
    """`other({id: picture}, flickr={id: id})`: an evaluation set of another build, which knows of nothing else."""

    def make(images: dict[int, bytes | None], **fields: Any) -> ShardIndex:
        world = World(tmp_path / "other")
        world.add("test", images, role="eval", **fields)
        world.build()
        return opened(world, "eval/world-test")

    return make


def kept(world: World) -> BlockList | None:
    """The list that a build of `world` kept."""
    sha256 = opened(world, "coarse/world-train").dataset["holdout_sha256"]
    return find_list(sha256, [kept_in(world.data / "shards", sha256)])


def covered(index: ShardIndex, by: Trained, listed: BlockList | None = None) -> Cover:
    return coverage({"eval/it": index}, by, listed)["eval/it"]


def test_a_set_under_the_checkpoints_own_lists_is_covered(learned: World):
    assert covered(opened(learned, "eval/world-val"), taught(learned)) == Cover(SAME_LISTS)


def test_a_set_whose_images_are_on_the_kept_lists_is_covered(learned: World, other: Other):
    # Its training sets are not asked: they are not here.
    assert covered(other({10: picture(90)}), taught(learned, "fine/gone"), kept(learned)) == Cover(LISTED)


def test_a_set_of_which_one_image_is_on_no_list_is_not_covered_by_them(learned: World, other: Other):
    cover = covered(other({10: picture(10), 12: picture(12)}), taught(learned, "fine/gone"), kept(learned))
    assert cover.by == NOT_COVERED
    assert cover.why_not == "1 of its 2 images are on none of the checkpoint's lists; fine/gone is not here"


def test_a_set_of_which_no_image_was_trained_on_is_covered(learned: World, other: Other):
    assert covered(other({12: picture(12)}), taught(learned)) == Cover(NOT_TRAINED_ON)


def shown(index: ShardIndex, learned: World) -> str:
    """What was trained on of a set that is not covered."""
    cover = covered(index, taught(learned))
    assert cover.by == NOT_COVERED
    return cover.why_not


FIRST = (
    "the checkpoint's lists are not here; samples that were trained on show its images: 1, as"
    " coarse/world-train coco-000000000001"
)


def test_an_image_that_was_trained_on_is_known_by_its_id(learned: World, other: Other):
    assert shown(other({1: picture(91), 12: picture(12)}), learned) == FIRST


def test_an_image_that_was_trained_on_is_known_by_any_id(learned: World, other: Other):
    index = other({500: picture(92)}, flickr={500: FLICKR})
    assert shown(index, learned) == FIRST
    theirs, its = opened(learned, "coarse/world-train").image_ids, index.image_ids
    assert not set(theirs) & set(its)  # which the ids of the index alone do not tell


def test_an_image_that_was_trained_on_is_known_by_its_bytes(learned: World, other: Other):
    assert shown(other({501: picture(1)}), learned) == FIRST


def test_an_image_that_was_trained_on_is_known_by_its_look(learned: World, other: Other):
    index = other({502: picture(1, (96, 80), quality=60)}, sizes={502: (96, 80)})
    assert shown(index, learned) == FIRST


def test_a_set_is_not_covered_where_a_training_set_is_not_here(learned: World, other: Other):
    cover = covered(other({12: picture(12)}), taught(learned, "coarse/gone"))
    assert cover == Cover(NOT_COVERED, "the checkpoint's lists are not here; coarse/gone is not here")


def test_a_set_is_not_covered_where_an_earlier_run_is_not_known(learned: World, other: Other):
    cover = covered(other({12: picture(12)}), taught(learned, run={"init": "hf://some/model"}))
    assert cover.by == NOT_COVERED
    assert cover.why_not.endswith("what an earlier run was trained on is not known")


def test_a_run_over_datasets_of_different_lists_is_covered_by_no_list(learned: World):
    mixed = taught(learned, "coarse/gone", data={"allow_other_holdout": True})
    cover = covered(opened(learned, "eval/world-val"), mixed, kept(learned))
    assert cover == Cover(NOT_COVERED, "datasets of different lists were trained on; coarse/gone is not here")


def test_such_a_run_is_covered_where_no_image_was_trained_on(learned: World):
    mixed = taught(learned, data={"allow_other_holdout": True})
    assert covered(opened(learned, "eval/world-val"), mixed, kept(learned)) == Cover(NOT_TRAINED_ON)


def test_a_set_whose_looks_are_not_known_is_not_covered_by_absence(learned: World, other: Other):
    index = other({12: picture(12)})
    (index.folder / "images.parquet").unlink()
    assert covered(index, taught(learned)).why_not.endswith("it has no images.parquet")


def test_a_set_is_not_covered_where_looks_of_a_training_set_are_not_known(tmp_path: Path, other: Other):
    world = World(tmp_path / "data")
    source = world.add("train", {1: picture(1)})
    world.build()
    (world.folder(source) / "images.parquet").unlink()
    cover = covered(other({12: picture(12)}), taught(world))
    assert cover.why_not.endswith("; coarse/world-train has no images.parquet here")


def test_only_sets_that_are_not_covered_are_compared(learned: World, other: Other):
    sets = {"eval/b": other({1: picture(1)}), "eval/a": opened(learned, "eval/world-val")}
    found = coverage(sets, taught(learned), None)
    assert [(name, cover.by) for name, cover in found.items()] == [("eval/b", NOT_COVERED), ("eval/a", SAME_LISTS)]


def test_sets_of_other_builds_are_named_together():
    found = notes_on({"eval/a": LISTED, "eval/b": SAME_LISTS, "eval/c": NOT_COVERED, "eval/d": LISTED})
    under = "Built under other hold-out lists than this checkpoint's, and"
    assert found == [
        f"{under} each of their images is on those too: eval/a, eval/d.",
        f"{under} their images may have been trained on: eval/c.",
    ]


def test_the_list_of_a_run_is_found_beside_its_checkpoints_and_in_a_published_folder(tmp_path: Path):
    listed = BlockList(frozenset({"coco:1", "flickr:2"}))
    keep_list(listed, tmp_path / "shards")
    for place in (tmp_path / "run", tmp_path / "snapshots/abc"):
        copy_list(listed.sha256, tmp_path / "shards", place / "holdout.txt")
    assert list_of(listed.sha256, tmp_path / "run/checkpoints/step-1", None) == listed
    assert list_of(listed.sha256, tmp_path / "snapshots/abc", None) == listed
    assert list_of(listed.sha256, tmp_path / "elsewhere/step-1", tmp_path / "shards") == listed
    assert list_of(listed.sha256, tmp_path / "elsewhere/step-1", None) is None


def test_results_say_what_became_of_every_row(other: Other):
    index = other({12: picture(12), 13: None}, published={"images": 2})
    found = account(index, Cover(LISTED))
    assert found["rows"] == {"kept": 2, "no_image": 2}
    assert found["lost"] == "eval/world-test: 1 of 2 images could not be evaluated (no_image 2)."
    assert found["holdout"] == "listed"


def test_configurations_other_than_the_first_count_too(learned: World):
    configs: list[TrainConfig] = [fakes.config("fine"), fakes.config("coarse", data={"allow_other_holdout": True})]
    assert trained("ab", configs, {}, ()).is_mixed
    assert not trained("ab", configs[:1], {}, ()).is_mixed
