"""What is drawn on a picture."""

import numpy as np
from PIL import Image

from bitgen.deploy.drawing import annotated, heated
from bitgen.deploy.runtime import Grounding

BLUE = Image.new("RGB", (80, 40), (0, 0, 255))
COLD, HOT = (29, 29, 29), (194, 37, 8)
"""Blue in grey, by 0.114 of it; and 185 of 255 of the heat's (255, 40, 0) over that."""


def _found(heat: list[list[float]]) -> Grounding:
    return Grounding("a dog", (10.0, 10.0, 30.0, 30.0), 0.5, np.array(heat, np.float32))


def test_the_hottest_part_is_red_and_the_coldest_grey() -> None:
    drawn = np.asarray(heated(BLUE, _found([[0.0, 0.0], [0.0, 0.02]]).heat))
    assert drawn.shape == (40, 80, 3)
    assert tuple(drawn[0, 0]) == COLD
    np.testing.assert_allclose(drawn[-1, -1], HOT, atol=1)


def test_a_heat_map_of_zeros_leaves_the_picture_in_grey() -> None:
    assert heated(BLUE, np.zeros((3, 3), np.float32)).getcolors() == [(80 * 40, COLD)]


def test_larger_letters_cover_more_of_a_picture() -> None:
    grounding = _found([[0.0]])
    small, large = (annotated(BLUE, [grounding], letters_px=size) for size in (8, 20))
    assert _changed(small) < _changed(large)


def _changed(drawn: Image.Image) -> int:
    return int((np.asarray(drawn) != np.asarray(BLUE)).any(axis=2).sum())
