"""What is held out by fact, and what is said of evaluation sets whose lists are not there."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pipeline.holdout import is_val2017

if TYPE_CHECKING:
    from tests.pipeline.conftest import World

Paint = Callable[..., bytes]
VAL2017 = "http://images.cocodataset.org/val2017/000000000139.jpg"


@pytest.mark.parametrize(
    "place", [VAL2017, f"{VAL2017}?a=1", "val2017/000000000139.jpg", "/x/val2017/000000000139.jpg"]
)
def test_a_place_that_says_val2017_is_known(place: str) -> None:
    assert is_val2017(["", place])


@pytest.mark.parametrize("place", ["train2017/000000000139.jpg", "val2017/cat.jpg", "myval2017/000000000139.jpg", ""])
def test_another_place_says_nothing(place: str) -> None:
    assert not is_val2017([place])


def test_a_photograph_whose_url_says_val2017_is_not_trained_on(world: "World", paint: Paint) -> None:
    source = world.add("train", {9: paint(1), 139: paint(2)})
    path = world.data / "raw/world/train.json"
    path.write_text(path.read_text().replace('"id": 139,', f'"id": 139, "coco_url": "{VAL2017}",', 1))
    world.build()
    assert [line.outcome for line in world.ledger(source)] == ["kept", "kept", "held_out", "held_out"]


def test_it_is_said_which_evaluation_lists_are_missing(
    world: "World", paint: Paint, caplog: pytest.LogCaptureFixture
) -> None:
    world.add("train", {9: paint(1)}, flickr={9: 77})
    world.build()
    said = [message for message in caplog.messages if "may be of" in message]
    assert [message.partition("may be of ")[2].partition(",")[0] for message in said] == [
        "COCO val2017 (manifests/coco.toml)",
        "Flickr30k val and test (manifests/flickr30k.toml)",
    ]


def test_with_the_list_on_disk_nothing_is_said(world: "World", paint: Paint, caplog: pytest.LogCaptureFixture) -> None:
    world.add("train", {9: paint(1)})
    listed = world.data / "raw/coco/annotations/captions_val2017.json"
    listed.parent.mkdir(parents=True)
    listed.touch()
    world.build()
    assert [message for message in caplog.messages if "may be of" in message] == []
