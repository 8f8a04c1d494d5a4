import random
from io import BytesIO
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.drawing.picture import RGB, box_px, ground, jpeg, picture
from pipeline.drawing.scene import CANVAS, SHAPES, TEXTURES, Scene, Thing
from pipeline.holdout import LOOK_DISTANCE, look_of

LOOKS = list(product(SHAPES, TEXTURES))


def drawn(thing: Thing, side_px: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The picture of one thing, and by pixel the most that a colour differs from the ground that it stands on."""
    image = np.asarray(picture(Scene((thing,)), random.Random(1), side_px), float)
    return image, np.abs(image - np.asarray(ground(random.Random(1), side_px), float)).max(axis=2)


@pytest.mark.parametrize("side_px", [112, 150])
@pytest.mark.parametrize("size", [70, 128])
def test_a_box_lies_close_around_the_pixels_of_its_thing(size: int, side_px: int) -> None:
    for shape, texture in LOOKS:
        thing = Thing(shape, "blue", "", texture, 203, 118, size)
        rows, columns = np.nonzero(drawn(thing, side_px)[1] > 12)
        x, y, w, h = box_px(thing, side_px)
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.subtract(found, (x, y, x + w, y + h))).max() <= 1.3, (shape, texture)


@pytest.mark.parametrize("colour", RGB)
def test_a_thing_shows_its_colour(colour: str) -> None:
    image, _ = drawn(Thing("square", colour, "", "solid", 224, 224, 80), 112)
    assert image[56, 56].tolist() == list(RGB[colour])


def test_colours_lie_apart() -> None:
    colours = np.array(list(RGB.values()), float)
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    assert apart[~np.eye(len(colours), dtype=bool)].min() > 80


def test_every_shape_and_texture_looks_different() -> None:
    images = [drawn(Thing(shape, "red", "", texture, 224, 224, 70), 112)[0][47:65, 47:65] for shape, texture in LOOKS]
    apart = [np.abs(a - b).mean() for i, a in enumerate(images) for b in images[:i]]
    assert min(apart) > 10


def test_what_is_inside_another_is_drawn_over_it() -> None:
    inner, outer = (
        Thing("star", "red", "small", "solid", 224, 224, 54),
        Thing("square", "cyan", "large", "solid", 224, 224, 136),
    )
    image = np.asarray(picture(Scene((inner, outer), 0), random.Random(1), 112))
    assert (image[56, 56].tolist(), image[42, 42].tolist()) == (list(RGB["red"]), list(RGB["cyan"]))


def test_no_two_grounds_look_alike_to_the_holdout_rule() -> None:
    looks = [look_of(ground(random.Random(i), 128).convert("L")) for i in range(200)]
    assert min((a ^ b).bit_count() for i, a in enumerate(looks) for b in looks[:i]) > LOOK_DISTANCE


def test_the_same_scene_gives_the_same_bytes() -> None:
    scene = Scene((Thing("ring", "green", "", "dotted", CANVAS // 2, CANVAS // 2, 100),))
    once, again, other = (jpeg(picture(scene, random.Random(seed), 112)) for seed in (1, 1, 2))
    assert once == again != other


def test_a_picture_is_a_jpeg_that_keeps_thin_stripes() -> None:
    image = picture(Scene((Thing("square", "blue", "", "striped", 224, 224, 70),)), random.Random(1), 112)
    decoded = Image.open(BytesIO(jpeg(image)))
    assert (decoded.format, decoded.size) == ("JPEG", (112, 112))
    assert np.abs(np.asarray(decoded, float) - np.asarray(image, float)).mean() < 2
