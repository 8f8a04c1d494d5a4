from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.annotations.places import Files, Places, Run
from pipeline.rows import AnnotationError


def added(*images: int) -> Places:
    """Rows 0, 1, ... of file 0, ten bytes each."""
    places = Places()
    for number, image in enumerate(images):
        places.add(image, 0, number, 10 * number, 10 * number + 8)
    return places


def test_images_come_in_order_with_their_rows() -> None:
    assert list(added(5, 3, 5).by_image()) == [
        (3, [Run(0, 1, 10, 18, 1)]),
        (5, [Run(0, 0, 0, 8, 1), Run(0, 2, 20, 28, 1)]),
    ]


def test_neighbouring_rows_of_an_image_are_one_run() -> None:
    assert list(added(3, 5, 5, 5).by_image()) == [(3, [Run(0, 0, 0, 8, 1)]), (5, [Run(0, 1, 10, 38, 3)])]


def test_rows_with_another_between_them_are_no_neighbours() -> None:
    places = Places()
    places.add(5, 0, 1, 10, 18)
    places.add(5, 0, 3, 30, 38)
    assert list(places.by_image()) == [(5, [Run(0, 1, 10, 18, 1), Run(0, 3, 30, 38, 1)])]


def test_rows_of_two_files_are_no_neighbours() -> None:
    places = Places()
    places.add(5, 0, 1, 10, 18)
    places.add(5, 1, 2, 0, 8)
    assert list(places.by_image()) == [(5, [Run(0, 1, 10, 18, 1), Run(1, 2, 0, 8, 1)])]


def test_images_may_come_in_order_of_their_first_row() -> None:
    assert [runs[0].first for _, runs in added(9, -4, 9, 7, -4).by_first_row()] == [0, 1, 3]


def test_images_may_come_by_rank() -> None:
    assert [(image, runs[0].first) for image, runs in added(0, 1, 2).by_rank([2, 0, 1])] == [(0, 1), (1, 2), (2, 0)]


def test_an_image_that_is_not_there_has_no_runs() -> None:
    found = added(3, 5).by_image().find(np.array([5, 4, 3]))
    assert [[run.first for run in runs] for runs in found] == [[1], [], [0]]


def test_without_rows_there_are_no_images() -> None:
    assert (list(added().by_image()), list(added().by_first_row()), len(added().by_rank([]).images)) == ([], [], 0)


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2), max_size=30))
def test_every_row_is_in_one_run_of_its_image(images: list[int]) -> None:
    found = [
        (n, image)
        for image, runs in added(*images).by_image()
        for r in runs
        for n in range(r.first, r.first + r.length)
    ]
    assert sorted(found) == list(enumerate(images))


def test_rows_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes('[{"a": "ä"},\n{"b": 1}]'.encode())
    with Files([path]) as files:
        assert files.rows(Run(0, 0, 1, 22, 2)) == [{"a": "ä"}, {"b": 1}]


def test_the_last_row_of_an_image_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"a": 1},{"a": 2},{"a": 3}]')
    with Files([path]) as files:
        assert (files.row([Run(0, 0, 1, 9, 1), Run(0, 1, 10, 27, 2)]), files.row([])) == ({"a": 3}, None)


def test_a_file_that_has_changed_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"a": 1}')
    with Files([path]) as files, pytest.raises(AnnotationError, match=r"nobody changes, found .*rows\.json"):
        files.rows(Run(0, 0, 3, 9, 1))


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"rows\.json"), Files([tmp_path / "rows.json"]):
        pass
