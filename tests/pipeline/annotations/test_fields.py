from pathlib import Path

import pytest

from pipeline.annotations.fields import find_image, table, value
from pipeline.rows import AnnotationError


@pytest.mark.parametrize(
    ("found", "kind", "expected"), [(7, int, 7), (" 7 ", int, 7), (7, float, 7.0), ("7", str, "7"), ([7], list, [7])]
)
def test_a_member_has_its_type(found: object, kind: type, expected: object) -> None:
    assert value({"a": found}, "a", kind, "here") == expected


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        *((found, int) for found in (None, True, 7.0, "7.0", "", 2**63, "9" * 5000)),
        *((True, float), ("7", float), (7, str), ({}, list)),
    ],
)
def test_a_member_of_another_type_is_an_error(found: object, kind: type) -> None:
    with pytest.raises(AnnotationError, match=f"expected a of type {kind.__name__}, found .*: here"):
        value({"a": found}, "a", kind, "here")


@pytest.mark.parametrize("row", [{}, {"a": {}}, {"a": [1]}])
def test_what_is_no_list_of_objects_is_an_error(row: dict[str, object]) -> None:
    with pytest.raises(AnnotationError, match=r"expected a list of objects under 'a', found .*: x\.json"):
        table(row, "a", Path("x.json"))


def test_the_first_name_that_is_there_is_found(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "two/b.jpg").touch()
    (tmp_path / "two/c.jpg").touch()
    assert find_image(tmp_path, ["one", "two"], ["a.jpg", "b.jpg", "c.jpg"]) == "b.jpg"


def test_a_name_that_is_not_there_stays(tmp_path: Path) -> None:
    assert find_image(tmp_path, ["one"], ["a.jpg", "b.jpg"]) == "a.jpg"
