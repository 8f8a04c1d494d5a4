"""The ids of a source's images: read once, and read again when what they are read from has changed."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pipeline.reading import known_ids

if TYPE_CHECKING:
    from tests.pipeline.conftest import World

Paint = Callable[..., bytes]


def test_of_a_training_set_only_images_with_several_ids_are_known(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)}, flickr={2: 77})
    assert list(known_ids(source, world.data / "raw")) == [("coco:2", "flickr:77")]


def test_of_an_evaluation_set_every_image_is_known(world: "World", paint: Paint) -> None:
    source = world.add("val", {1: paint(1), 2: paint(2)}, role="eval", flickr={2: 77})
    assert list(known_ids(source, world.data / "raw")) == [("coco:1",), ("coco:2", "flickr:77")]


def test_what_is_known_is_not_read_again(world: "World", paint: Paint) -> None:
    source = world.add("val", {1: paint(1)}, role="eval")
    list(known_ids(source, world.data / "raw"))
    note = world.data / "raw/.ids/eval-world-val.txt"
    note.write_text(note.read_text().replace("coco:1", "coco:9"))
    assert list(known_ids(source, world.data / "raw")) == [("coco:9",)]


def test_a_changed_annotation_file_is_read_again(world: "World", paint: Paint) -> None:
    source = world.add("val", {1: paint(1)}, role="eval")
    list(known_ids(source, world.data / "raw"))
    world.add("val", {1: paint(1), 2: paint(2)}, role="eval")
    assert list(known_ids(source, world.data / "raw")) == [("coco:1",), ("coco:2",)]


@pytest.mark.parametrize("left", ["", "# another\n"])
def test_a_note_that_is_not_of_these_files_is_written_anew(world: "World", paint: Paint, left: str) -> None:
    source = world.add("val", {1: paint(1)}, role="eval")
    note = world.data / "raw/.ids/eval-world-val.txt"
    note.parent.mkdir()
    note.write_text(left)
    assert list(known_ids(source, world.data / "raw")) == [("coco:1",)]
