import math

import pytest

from bitgen.record import Box
from pipeline.annotations.boxes import RowError, fraction_box


def refused(bbox: list[float], width: int = 100, height: int = 50) -> RowError:
    with pytest.raises(RowError) as caught:
        fraction_box(bbox, width, height)
    return caught.value


def test_pixels_become_fractions() -> None:
    assert fraction_box([10, 5, 30, 20], 100, 50) == Box(0.1, 0.1, 0.4, 0.5)


def test_a_box_of_the_whole_image_is_the_unit_square() -> None:
    assert fraction_box([0, 0, 100, 50], 100, 50) == Box(0, 0, 1, 1)


def test_an_overhang_of_two_pixels_is_cut_off() -> None:
    assert fraction_box([-2, 5, 32, 20], 100, 50) == Box(0, 0.1, 0.3, 0.5)


def test_an_overhang_of_three_pixels_is_refused() -> None:
    assert refused([90, 5, 13, 20]).reason == "bad_box"


def test_a_box_centred_outside_the_image_is_refused() -> None:
    assert refused([-1.5, 5, 2, 20]).reason == "bad_box"


def test_a_box_without_area_is_refused() -> None:
    assert refused([10, 10, 0, 5]).reason == "bad_box"


def test_a_box_of_three_numbers_is_refused() -> None:
    assert refused([10, 10, 5]).reason == "bad_box"


def test_a_box_with_a_nan_is_refused() -> None:
    assert refused([10, 10, math.nan, 5]).reason == "bad_box"


def test_a_box_of_words_is_refused() -> None:
    assert refused(["a", "b", "c", "d"]).reason == "bad_box"  # type: ignore[list-item] (what is wrong is the point)


def test_a_box_of_numbers_beyond_measure_is_refused() -> None:
    assert refused([10**400, 10, 5, 5]).reason == "bad_box"


def test_an_image_without_a_size_has_no_boxes() -> None:
    assert refused([1, 1, 2, 2], width=0).reason == "bad_box"


def test_the_refusal_says_what_was_found() -> None:
    assert str(refused([90, 5, 30, 20])) == "expected a box inside 100x50, found x 90 y 5 w 30 h 20"
