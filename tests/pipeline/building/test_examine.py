"""One image's bytes: what is refused and why, and what a look at the header alone leaves unseen."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from pipeline.building.examine import ImageError, examine, stored_bytes
from shards.index import ShardIndex

if TYPE_CHECKING:
    from tests.pipeline.conftest import World

Paint = Callable[..., bytes]


def turned(paint: Paint, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return paint(1, exif=exif.tobytes())


@pytest.mark.parametrize("check", ["whole", "header"])
def test_the_size_and_digest_are_the_same_whatever_is_checked(paint: Paint, check) -> None:
    seen = examine(paint(1), False, check)
    assert (seen.width, seen.height, seen.is_turned, len(seen.sha256)) == (48, 40, False, 64)


def test_damage_behind_the_header_is_found_by_a_whole_check_alone(paint: Paint) -> None:
    damaged = paint(3)[:-200]
    with pytest.raises(ImageError, match="expected a whole JPEG"):
        examine(damaged, False, "whole")
    assert examine(damaged, False, "header").look == 0


def test_damage_that_shows_when_an_image_is_shrunk_is_refused(paint: Paint) -> None:
    damaged = paint(3, (480, 400))[:-2000]
    with pytest.raises(ImageError, match="expected a whole JPEG"):
        stored_bytes(damaged, examine(damaged, False, "header"), 100)


@pytest.mark.parametrize(("orientation", "size"), [(1, (48, 40)), (3, (48, 40)), (6, (40, 48)), (8, (40, 48))])
def test_the_size_is_that_of_the_upright_image(paint: Paint, orientation: int, size: tuple[int, int]) -> None:
    seen = examine(turned(paint, orientation), True, "whole")
    assert (seen.width, seen.height) == size
    image, stored = stored_bytes(turned(paint, orientation), seen, None)
    assert Image.open(io.BytesIO(image)).size == stored == size


def test_a_turned_image_looks_like_itself_upright(paint: Paint) -> None:
    upright = Image.open(io.BytesIO(turned(paint, 6))).transpose(Image.Transpose.ROTATE_270)
    file = io.BytesIO()
    upright.save(file, "JPEG", quality=95)
    difference = examine(turned(paint, 6), True, "whole").look ^ examine(file.getvalue(), True, "whole").look
    assert difference.bit_count() <= 3


def test_a_build_by_headers_keeps_damaged_images_and_says_so(
    world: "World", paint: Paint, caplog: pytest.LogCaptureFixture
) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)[:-200]})
    assert world.build(check="header")[0].dataset["check"] == "header"
    assert len(ShardIndex.open(world.folder(source))) == 2
    assert [message for message in caplog.messages if "only headers are read" in message] != []


def test_a_build_by_headers_still_holds_out_equal_bytes(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    world.add("val", {3: paint(2)}, role="eval")
    world.build(check="header")
    assert set(world.outcomes(source).values()) == {"kept", "held_out"}


def test_another_check_builds_anew(world: "World", paint: Paint) -> None:
    world.add("train", {1: paint(1)})
    world.build(check="header")
    assert [each.is_new for each in world.build()] == [True]
