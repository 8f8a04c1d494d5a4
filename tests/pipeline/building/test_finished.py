"""What was built is built again when something it was made of, or was compared with, is no longer the same."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pipeline.build import BuildError, Options, build
from pipeline.building.chunks import Chunk
from shards.index import ShardIndex
from shards.verify import verify

if TYPE_CHECKING:
    from tests.pipeline.conftest import World

Paint = Callable[..., bytes]


def build_alone(world: "World", split: str) -> None:
    """Builds one source as if it stood in a manifest of its own."""
    manifest = replace(world.manifest, sources=tuple(s for s in world.sources if s.split == split))
    list(build([manifest], world.data, manifest.sources, Options()))


def test_an_evaluation_set_of_another_manifest_still_counts(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    world.add("val", {3: paint(2)}, role="eval")
    build_alone(world, "val")
    build_alone(world, "train")
    assert set(world.outcomes(source).values()) == {"kept", "held_out"}


def test_a_new_evaluation_set_of_another_manifest_makes_a_dataset_out_of_date(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    world.add("val", {3: paint(2)}, role="eval")
    build_alone(world, "train")
    build_alone(world, "val")
    build_alone(world, "train")
    assert len(ShardIndex.open(world.folder(source))) == 1


def test_a_dataset_that_was_compared_with_other_evaluation_images_is_named(
    world: "World", paint: Paint, caplog: pytest.LogCaptureFixture
) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    val = world.add("val", {3: paint(2)}, role="eval")
    world.build([source])
    with caplog.at_level(logging.WARNING):
        world.build([val])
    assert "coarse/world-train was compared with other evaluation images" in caplog.messages[-1]


def test_a_dataset_that_was_compared_with_all_evaluation_images_is_not_named(
    world: "World", paint: Paint, caplog: pytest.LogCaptureFixture
) -> None:
    world.add("train", {1: paint(1)})
    world.add("val", {3: paint(2)}, role="eval")
    world.build()
    caplog.clear()
    assert [each.is_new for each in world.build()] == [False, False]
    assert [m for m in caplog.messages if "compared" in m] == []


def test_an_image_that_was_replaced_is_built_in(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    world.build()
    (world.data / "raw/world/train/1.jpg").write_bytes(paint(3))
    assert [each.is_new for each in world.build()] == [True]
    assert ShardIndex.open(world.folder(source)).read(0)[1] == paint(3)


def test_an_image_that_was_repaired_is_built_in(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)[:-200]})
    world.build()
    (world.data / "raw/world/train/2.jpg").write_bytes(paint(2))
    world.build()
    assert len(ShardIndex.open(world.folder(source))) == 2


def test_an_image_that_was_removed_is_left_out(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    world.build()
    os.unlink(world.data / "raw/world/train/2.jpg")
    world.build()
    assert len(ShardIndex.open(world.folder(source))) == 1


def test_a_rebuild_that_fails_leaves_the_dataset_as_it_was(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)}, refusal_ceiling=0.0)
    world.build()
    before = {p.name: p.read_bytes() for p in world.folder(source).iterdir()}
    os.unlink(world.data / "raw/world/train/2.jpg")
    with pytest.raises(BuildError, match=r"no_image 2; row by row in .*\.parts"):
        world.build()
    assert {p.name: p.read_bytes() for p in world.folder(source).iterdir() if p.is_file()} == before


def test_a_manifest_that_is_given_twice_is_built_once(world: "World", paint: Paint) -> None:
    world.add("train", {1: paint(1)})
    built = build([world.manifest, world.manifest], world.data, world.sources * 2, Options())
    assert [each.is_new for each in built] == [True]


def test_two_manifests_that_make_the_same_dataset_are_refused(world: "World", paint: Paint) -> None:
    world.add("train", {1: paint(1)})
    other = replace(world.manifest, path=world.data / "other.toml")
    with pytest.raises(BuildError, match=r"found coarse/world-train in .*world\.toml and in .*other\.toml"):
        list(build([world.manifest, other], world.data, world.sources, Options()))


def test_a_dataset_that_another_manifest_made_is_refused(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1)})
    world.build()
    path = world.folder(source) / "dataset.json"
    path.write_text(path.read_text().replace('"manifest": "world"', '"manifest": "theirs"'))
    with pytest.raises(BuildError, match="expected a dataset of manifest 'world', found one of 'theirs'"):
        world.build()


def test_another_manner_of_crawling_changes_nothing_that_was_built(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1)})
    world.build()
    world.sources = [replace(source, crawling=replace(source.crawling, timeout_s=99.0))]
    assert [each.is_new for each in world.build()] == [False]


def test_what_a_kill_at_the_very_end_left_is_swept(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1)})
    world.build()
    for name in (".parts/000000.tar", "000007.tar", "000001.tar.partial"):
        (world.folder(source) / name).parent.mkdir(exist_ok=True)
        (world.folder(source) / name).write_bytes(b"left")
    assert [each.is_new for each in world.build()] == [False]
    left = {path.name for path in world.folder(source).iterdir()}
    assert left == {"000000.tar", "index.arrow", "dataset.json", "images.parquet", "ledger.parquet", "stamps.parquet"}


def test_parts_of_another_version_are_made_anew(world: "World", paint: Paint, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = Chunk(world.data / "part", (b"fate",), "world", False, None, "whole")
    before = chunk.sha256
    monkeypatch.setattr("pipeline.building.chunks.BUILD_VERSION", 1)
    assert chunk.sha256 != before


def test_a_shard_written_again_is_not_taken_for_another_of_its_size(world: "World", paint: Paint) -> None:
    source = world.add("train", {i: paint(i) for i in range(1, 4)} | {5: paint(1)}, {i: ["a b"] for i in (1, 2, 3, 5)})

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.build.finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            world.build()
        with pytest.raises(KeyboardInterrupt):
            world.build(limit=3)
    world.build()
    assert verify(world.folder(source)).samples == 3


def test_a_smaller_evaluation_set_is_said_to_hold_out_less(
    world: "World", paint: Paint, caplog: pytest.LogCaptureFixture
) -> None:
    source = world.add("train", {1: paint(1)})
    val = world.add("val", {8: paint(8), 9: paint(9)}, role="eval")
    world.build([val], limit=1)
    world.build([source])
    assert (
        "eval/world-val was built with a limit, or by headers: not all that it could hold out is known"
        in caplog.messages
    )
