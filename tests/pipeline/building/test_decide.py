"""What goes in when all chunks have been made: doubles over chunks, evaluation images, and nothing else changes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from shards.index import ShardIndex

if TYPE_CHECKING:
    from tests.pipeline.conftest import World

Paint = Callable[..., bytes]


def ids(world: "World", split: str) -> list[int]:
    index = ShardIndex.open(world.data / f"shards/coarse/world-{split}")
    return [int(index.key(i)[5:]) for i in range(len(index))]


def test_a_double_of_an_earlier_chunk_is_left_out_of_its_own(world: "World", paint: Paint) -> None:
    world.add("train", {i: paint(i) for i in range(1, 6)} | {6: paint(2), 7: paint(7)})
    world.build()
    assert ids(world, "train") == [1, 2, 3, 4, 5, 7]


def test_doubles_of_doubles_all_go_to_the_first(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 4: paint(1), 5: paint(5), 8: paint(1), 9: paint(1)})
    world.build()
    ends = {(line.key, line.outcome) for line in world.ledger(source) if line.outcome == "duplicate"}
    assert ends == {("coco-000000000001", "duplicate")}
    assert ShardIndex.open(world.folder(source)).read(0)[0].ids == ("coco:1", "coco:4", "coco:8", "coco:9")


def test_a_joined_sample_has_its_tokens_counted_anew(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 4: paint(1)}, {1: ["a dog"], 4: ["a dog", "two dogs run"]})
    world.build()
    assert ShardIndex.open(world.folder(source)).tokens(0).tolist() == [4, 5]


def test_a_double_of_a_held_out_image_is_held_out_too(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2), 5: paint(2)})
    world.add("val", {3: paint(2)}, role="eval")
    world.build()
    assert [line.outcome for line in world.ledger(source)] == ["kept"] * 2 + ["held_out"] * 4


def test_a_chunk_whose_samples_are_all_doubles_makes_no_shard(world: "World", paint: Paint) -> None:
    source = world.add("train", {i: paint(i % 3) for i in range(1, 7)} | {8: paint(8)})
    world.build()
    assert sorted(p.name for p in world.folder(source).glob("*.tar")) == ["000000.tar", "000001.tar"]
    assert ids(world, "train") == [1, 2, 3, 8]


def test_a_chunk_in_which_nothing_changes_is_not_written_twice(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    world.build()
    assert ShardIndex.open(world.folder(source)).dataset["shards"][0]["samples"] == 2
    assert (world.folder(source) / "000000.tar").stat().st_nlink == 1  # the part's name for it is gone


def test_counts_are_those_of_the_authors(world: "World", paint: Paint) -> None:
    world.add("train", {1: paint(1), 2: None, 3: paint(1)})
    world.add("val", {4: paint(4), 5: None, 6: paint(4)}, role="eval")
    counted = {each.dataset["role"]: each.dataset["counted"] for each in world.build()}
    assert counted == {"train": {"images": 3, "rows": 6}, "eval": {"images": 2, "rows": 4}}


def test_a_count_that_is_not_as_published_is_said(
    world: "World", paint: Paint, caplog: pytest.LogCaptureFixture
) -> None:
    world.add("val", {1: paint(1), 2: paint(2)}, role="eval", published={"images": 3, "rows": 4})
    dataset = world.build()[0].dataset
    said = [message for message in caplog.messages if "published" in message]
    assert said == ["eval/world-val: expected 3 images as published, found 2"]
    assert dataset["published"] == {"images": 3, "rows": 4}


def test_with_a_limit_nothing_published_is_expected(
    world: "World", paint: Paint, caplog: pytest.LogCaptureFixture
) -> None:
    world.add("val", {1: paint(1), 2: paint(2)}, role="eval", published={"images": 2})
    assert world.build(limit=1)[0].dataset["published"] == {}
    assert [message for message in caplog.messages if "published" in message] == []


def test_a_lookalike_that_is_kept_is_listed(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(4, (96, 80), quality=40), 3: paint(5)}, sizes={2: (96, 80)})
    world.add("val", {8: paint(4), 9: paint(5)}, role="eval")
    world.build(keep_lookalikes=True)
    ends = [(line.outcome, line.detail) for line in world.ledger(source)][::2]
    assert ends == [
        ("kept", ""),
        ("kept", "looks like eval/world-val coco-000000000008"),
        ("held_out", "same bytes as eval/world-val coco-000000000009"),
    ]
    assert ids(world, "train") == [1, 2]


def test_what_a_host_gives_for_lost_photographs_does_not_go_in(world: "World", paint: Paint) -> None:
    source = world.add("train", {i: paint(1) for i in range(1_000_001, 1_000_052)} | {2_000_000: paint(60)})
    world.build()
    assert ids(world, "train") == [2_000_000]
    ends = {(line.key, line.outcome, line.detail) for line in world.ledger(source)[:-2]}
    assert ends == {(None, "placeholder", "51 images have these bytes")}


def test_one_image_fewer_is_joined(world: "World", paint: Paint) -> None:
    world.add("train", {i: paint(1) for i in range(1_000_001, 1_000_051)})
    assert world.build()[0].dataset["counts"] == {"duplicate": 98, "kept": 2}


def test_an_evaluation_set_keeps_a_text_that_two_equal_images_have(world: "World", paint: Paint) -> None:
    captions = {1: ["same", "x", "x"], 2: ["same", "y"]}
    source = world.add("val", {1: paint(1), 2: paint(1)}, captions, role="eval")
    world.build()
    assert [text.text for text in ShardIndex.open(world.folder(source)).read(0)[0].texts] == [
        "same",
        "x",
        "x",
        "same",
        "y",
    ]
