"""Finished datasets go to where shards are kept: whole, the small files stay here, and a killed transfer goes on."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from pipeline.build import BuildError
from pipeline.building.send import SendError, check_output, is_there, send, sent_to
from pipeline.files import read_json
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
    assert not is_there(world.folder(source), OUTPUT)
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

    def counting(self: Any, path: str, target: str, **options: Any) -> None:
        if len(sent) == 3:
            raise OSError("connection lost")
        sent.append(target.rsplit("/", 1)[-1])
        put(self, path, target, **options)

    monkeypatch.setattr("pipeline.building.send._AT_ONCE", 1)
    monkeypatch.setattr(type(bucket), "put_file", counting)
    with pytest.raises(BuildError, match="connection lost: memory://bucket/shards"):
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
    with pytest.raises(BuildError, match="expected a package for abfs://x/y, found none"):
        world.build(output="abfs://x/y")


def test_training_data_is_still_compared_with_evaluation_images_that_were_sent(
    world: "World", paint: Paint, bucket: fsspec.AbstractFileSystem
) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    val = world.add("val", {3: paint(2)}, role="eval")
    world.build([val], output=OUTPUT)
    world.build([source])
    assert len(ShardIndex.open(world.folder(source))) == 1


@pytest.fixture
def stopped(world: "World", paint: Paint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset whose transfer to `tmp_path/there` was killed before its `dataset.json`."""
    source = world.add("train", {i: paint(i) for i in range(1, 6)})
    world.build()
    put = LocalFileSystem.put_file

    def killed(self: LocalFileSystem, path: str, target: str, **options: object) -> None:
        if path.endswith("dataset.json"):
            raise KeyboardInterrupt
        put(self, path, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "put_file", killed)
        with pytest.raises(KeyboardInterrupt):
            send(world.folder(source), str(tmp_path / "there"))
    return world.folder(source)


def test_what_was_sent_and_then_deleted_there_is_sent_again(stopped: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "there")
    send(stopped, str(tmp_path / "there"))
    assert verify(tmp_path / "there/coarse/world-train").samples == 5


def test_what_was_sent_and_then_cut_short_there_is_sent_again(stopped: Path, tmp_path: Path) -> None:
    os.truncate(tmp_path / "there/coarse/world-train/000001.tar", 100)
    send(stopped, str(tmp_path / "there"))
    assert verify(tmp_path / "there/coarse/world-train").samples == 5


def test_shards_that_vanish_there_while_others_are_sent_stay_here(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there/coarse/world-train/index.arrow").unlink()
    put = LocalFileSystem.put_file

    def deleting(self: LocalFileSystem, path: str, target: str, **options: object) -> None:
        put(self, path, target, **options)
        (tmp_path / "there/coarse/world-train/000000.tar").unlink()

    monkeypatch.setattr(LocalFileSystem, "put_file", deleting)
    with pytest.raises(SendError, match=r"expected [\d,]+ bytes there, found none: .*/world-train/000000\.tar"):
        send(stopped, str(tmp_path / "there"))
    assert (stopped / "000000.tar").exists()
    assert not (tmp_path / "there/coarse/world-train/dataset.json").exists()


def test_shards_are_not_deleted_on_the_word_of_a_note(world: "World", paint: Paint, tmp_path: Path) -> None:
    source = world.add("train", {i: paint(i) for i in range(1, 6)})
    world.build()
    kept = {path.name: path.read_bytes() for path in world.folder(source).glob("*.tar")}
    send(world.folder(source), str(tmp_path / "there"))
    [(world.folder(source) / name).write_bytes(content) for name, content in kept.items()]  # as if killed before that
    (tmp_path / "there/coarse/world-train/000001.tar").unlink()
    send(world.folder(source), str(tmp_path / "there"))
    assert verify(tmp_path / "there/coarse/world-train").samples == 5


def test_what_is_in_neither_place_leaves_the_other_as_it_is(world: "World", paint: Paint, tmp_path: Path) -> None:
    source = world.add("train", {i: paint(i) for i in range(1, 6)})
    world.build()
    send(world.folder(source), str(tmp_path / "there"))
    (tmp_path / "there/coarse/world-train/000001.tar").unlink()
    with pytest.raises(SendError, match=r"expected 000000\.tar, 000001\.tar in .* or in .*there, found neither"):
        send(world.folder(source), str(tmp_path / "there"))
    assert (tmp_path / "there/coarse/world-train/dataset.json").exists()


@pytest.mark.parametrize("output", ["data/shards", "data/shards/x", "data", "", "data/../data/shards/", "link"])
def test_shards_cannot_be_sent_to_where_they_are_built(tmp_path: Path, output: str) -> None:
    (tmp_path / "data/shards").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data/shards")
    with pytest.raises(SendError, match=r"expected a place apart from .*/data/shards, found"):
        check_output(f"{tmp_path}/{output}", tmp_path / "data/shards")
    with pytest.raises(SendError, match=r"expected a place apart from .*/data/shards, found"):
        check_output(f"file://{tmp_path}/{output}", tmp_path / "data/shards")


def test_a_refused_place_leaves_the_dataset(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1)})
    world.build()
    with pytest.raises(SendError, match="expected a place apart"):
        world.build(output=str(world.data / "shards"))
    assert verify(world.folder(source)).samples == 1


@pytest.mark.parametrize(
    ("output", "normal"),
    [
        ("", ""),
        ("s3://bucket/a/", "s3://bucket/a"),
        ("memory://", "memory://"),
        ("/mnt/a//", "/mnt/a"),
        ("file:///mnt/a/", "/mnt/a"),
        ("a/b", str(Path("a/b").absolute())),
        ("file://a/b", str(Path("a/b").absolute())),
    ],
)
def test_one_place_has_one_form(tmp_path: Path, output: str, normal: str) -> None:
    assert check_output(output, tmp_path) == normal


def test_a_slash_more_is_the_same_place(world: "World", paint: Paint, tmp_path: Path) -> None:
    world.add("train", {1: paint(1)})
    world.build(output=str(tmp_path / "there"))
    assert [each.is_new for each in world.build(output=f"{tmp_path}/there/")] == [False]


@pytest.mark.parametrize("note", ["{}", '{"to": 7}', "[]", "{", '{"to": "memory://bucket/shards"}'])
def test_a_broken_note_is_no_note(world: "World", paint: Paint, bucket: fsspec.AbstractFileSystem, note: str) -> None:
    source = world.add("train", {1: paint(1)})
    world.build()
    (world.folder(source) / "sent.json").write_text(note)
    assert sent_to(world.folder(source)) is None
    assert not is_there(world.folder(source), OUTPUT)


def test_asking_makes_nothing_there(world: "World", paint: Paint, tmp_path: Path) -> None:
    source = world.add("train", {1: paint(1)})
    world.build(output=str(tmp_path / "there"))
    shutil.rmtree(tmp_path / "there")
    assert not is_there(world.folder(source), str(tmp_path / "there"))
    assert not (tmp_path / "there").exists()


def test_a_place_out_of_reach_is_an_error_to_those_alone_who_want_it(
    world: "World", paint: Paint, bucket: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("train", {1: paint(1)})
    world.build(output=OUTPUT)

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(type(bucket), "ls", unreachable)
    assert [each.is_new for each in world.build()] == [False]
    with pytest.raises(BuildError, match="no route to host: memory://bucket/shards"):
        world.build(output=OUTPUT)


def test_the_note_holds_the_bytes_of_every_file(
    world: "World", paint: Paint, bucket: fsspec.AbstractFileSystem
) -> None:
    source = world.add("train", {1: paint(1)})
    world.build(output=OUTPUT)
    there = {each["name"].rsplit("/", 1)[-1]: each["size"] for each in bucket.ls("/bucket/shards/coarse/world-train")}
    assert (read_json(world.folder(source) / "sent.json") or {})["files"] == there
