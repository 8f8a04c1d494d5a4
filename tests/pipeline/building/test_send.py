"""Finished datasets go to where shards are kept: whole, the small files stay here, and a killed transfer goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import pytest

from pipeline.build import BuildError
from pipeline.building.send import SendError, sent_to
from shards.index import ShardIndex
from shards.verify import verify

if TYPE_CHECKING:
    from tests.pipeline.conftest import World

Paint = Callable[..., bytes]
OUTPUT = "memory://bucket/shards"


@pytest.fixture
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    """An object store in memory, empty before and after."""
    store = fsspec.filesystem("memory")
    store.rm("/", recursive=True) if store.find("/") else None
    yield store
    store.rm("/", recursive=True) if store.find("/") else None


def test_a_sent_dataset_is_whole_where_it_went(world: "World", paint: Paint, tmp_path: Path) -> None:
    world.add("train", {i: paint(i) for i in range(1, 6)})
    world.build(output=(tmp_path / "there").as_uri())
    assert verify(tmp_path / "there/coarse/world-train").samples == 5


def test_the_shards_are_deleted_here_and_the_ledger_stays(
    world: "World", paint: Paint, bucket: fsspec.AbstractFileSystem
) -> None:
    source = world.add("train", {i: paint(i) for i in range(1, 6)})
    world.build(output=OUTPUT)
    assert list(world.folder(source).glob("*.tar")) == []
    assert len(world.ledger(source)) == 10


def test_a_sent_dataset_is_up_to_date(world: "World", paint: Paint, bucket: fsspec.AbstractFileSystem) -> None:
    world.add("train", {1: paint(1)})
    world.build(output=OUTPUT)
    assert [each.is_new for each in world.build(output=OUTPUT)] == [False]
    assert [each.is_new for each in world.build()] == [False]


def test_what_was_deleted_there_is_built_again(world: "World", paint: Paint, bucket: fsspec.AbstractFileSystem) -> None:
    source = world.add("train", {1: paint(1)})
    world.build(output=OUTPUT)
    bucket.rm_file("/bucket/shards/coarse/world-train/dataset.json")
    assert sent_to(world.folder(source)) is None
    assert [each.is_new for each in world.build(output=OUTPUT)] == [True]
    assert bucket.exists("/bucket/shards/coarse/world-train/000000.tar")


def test_a_dataset_that_changed_replaces_what_is_there(
    world: "World", paint: Paint, bucket: fsspec.AbstractFileSystem
) -> None:
    world.add("train", {i: paint(i) for i in range(1, 6)})
    world.build(output=OUTPUT)
    world.build(output=OUTPUT, limit=2)
    names = sorted(
        str(each).rsplit("/", 1)[-1] for each in bucket.ls("/bucket/shards/coarse/world-train", detail=False)
    )
    assert [name for name in names if name.endswith(".tar")] == ["000000.tar"]


def test_a_dataset_that_is_elsewhere_is_not_sent_again(
    world: "World", paint: Paint, bucket: fsspec.AbstractFileSystem
) -> None:
    world.add("train", {1: paint(1)})
    world.build(output=OUTPUT)
    with pytest.raises(
        BuildError, match="expected coarse/world-train to go to memory://other, found it sent to memory"
    ):
        world.build(output="memory://other")


def test_a_stopped_transfer_goes_on_with_what_is_left(
    world: "World", paint: Paint, bucket: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("train", {i: paint(i) for i in range(1, 8)})
    put, sent = type(bucket).put_file, []

    def counting(self: object, path: str, target: str, **options: object) -> None:
        if len(sent) == 3:
            raise OSError("connection lost")
        sent.append(target.rsplit("/", 1)[-1])
        put(self, path, target, **options)

    monkeypatch.setattr("pipeline.building.send._AT_ONCE", 1)
    monkeypatch.setattr(type(bucket), "put_file", counting)
    with pytest.raises(SendError, match="connection lost: memory://bucket/shards"):
        world.build(output=OUTPUT)
    assert not bucket.exists("/bucket/shards/coarse/world-train/dataset.json")
    first = list(sent)
    sent.clear()
    sent.extend(["", "", "", ""])
    world.build(output=OUTPUT)
    assert set(first).isdisjoint(sent[4:])
    assert {*first, *sent[4:]} >= {"000000.tar", "000001.tar", "000002.tar", "index.arrow", "dataset.json"}


def test_a_place_without_its_package_is_named(world: "World", paint: Paint) -> None:
    world.add("train", {1: paint(1)})
    with pytest.raises(SendError, match="expected a package for abfs://x/y, found none"):
        world.build(output="abfs://x/y")


def test_training_data_is_still_compared_with_evaluation_images_that_were_sent(
    world: "World", paint: Paint, bucket: fsspec.AbstractFileSystem
) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    val = world.add("val", {3: paint(2)}, role="eval")
    world.build([val], output=OUTPUT)
    world.build([source])
    assert len(ShardIndex.open(world.folder(source))) == 1
