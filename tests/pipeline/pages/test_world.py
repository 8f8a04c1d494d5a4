from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.build import BuildError
from pipeline.pages.glance import attention
from pipeline.pages.heldout import heldout_section
from pipeline.pages.world import PageError, dataset_folders, read_world
from tests.folders import cells, train

Paint = Callable[..., bytes]


def fill(world: Any, paint: Paint) -> None:
    """Trained on: 1, 2 and its double 5; 3 as bytes, and 4 by its look, are in the evaluation set; 6 has no file."""
    world.add("val", {13: paint(3), 14: paint(4)}, role="eval")
    sizes = {4: (96, 80)}
    images = {1: paint(1), 2: paint(2), 3: paint(3), 4: paint(4, (96, 80)), 5: paint(2), 6: None}
    world.add("train", images, sizes=sizes)


def test_what_a_build_left_is_read_as_it_was_meant(world: Any, paint: Paint):
    fill(world, paint)
    world.build()
    found = read_world(world.data, 0, 100)
    assert cells(heldout_section(found))[1][:9] == ["coarse/world-train", "4", "0", "0", "2", "2", "0", "2", "0"]
    assert found.datasets[0].counts == {"kept": 4, "held_out": 4, "duplicate": 2, "no_image": 2}
    assert attention(found) == []


def test_an_image_kept_in_spite_of_its_look_is_shown_beside_the_other(world: Any, paint: Paint):
    fill(world, paint)
    world.build(keep_lookalikes=True)
    found = read_world(world.data, 0, 100)
    assert heldout_section(found).count('<figure class="thumb"') == 2
    assert attention(found) == [
        "coarse/world-train: 2 rows were kept although their image looks like an evaluation image."
    ]


def test_an_evaluation_set_that_came_later_is_seen(world: Any, paint: Paint):
    source = world.add("train", {1: paint(1)})
    world.build()
    world.add("val", {13: paint(3)}, role="eval")
    world.build([world.sources[-1]])
    assert f"Compared with other evaluation images than are here now: {source.dataset}" in "".join(
        attention(read_world(world.data, 0, 100))
    )


def test_a_build_that_refused_too_much_is_told_of(world: Any, paint: Paint):
    world.add("val", {13: paint(3)}, role="eval")
    world.add("train", {1: paint(1), 2: None}, refusal_ceiling=0.1)
    with pytest.raises(BuildError):
        world.build()
    found = attention(read_world(world.data, 0, 100))
    assert found[0].startswith("coarse/world-train is not finished (shards made: 1); building again goes on there.")
    assert found[0].endswith("Its ledger is there: 50% of 4 rows are refused (no_image 2).")


def test_training_sets_come_first_and_evaluation_sets_last(tmp_path: Path):
    for name in ("eval/a-val", "fine/b-train", "coarse/c-train"):
        train(tmp_path, name)
    assert [folder.parent.name for folder in dataset_folders(tmp_path)] == ["coarse", "fine", "eval"]


def test_a_folder_without_datasets_is_refused(tmp_path: Path):
    with pytest.raises(PageError, match="expected a dataset folder"):
        read_world(tmp_path, 0, 100)
