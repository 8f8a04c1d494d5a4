"""Where images lie: under their roots, and no path ends a build."""

from pathlib import Path

import pytest

from pipeline.locate import Located, locate_under


def test_an_image_is_found_under_the_first_root_that_has_it(tmp_path: Path) -> None:
    for name in ("two/a.jpg", "three/a.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    found = locate_under([tmp_path / "one", tmp_path / "two", tmp_path / "three"])("a.jpg")
    assert isinstance(found, Located)
    assert found.path == str(tmp_path / "two/a.jpg")


@pytest.mark.parametrize("image", ["", "/etc/passwd", "../a.jpg", "x/../../a.jpg", "a\0b.jpg"])
def test_a_path_that_leaves_its_root_is_refused(tmp_path: Path, image: str) -> None:
    assert locate_under([tmp_path])(image) == "bad_path"


@pytest.mark.parametrize("image", ["a.jpg", "a" * 300, "/".join(["a" * 200] * 30), "\ud800.jpg", "folder"])
def test_a_name_of_no_file_is_no_image(tmp_path: Path, image: str) -> None:
    (tmp_path / "folder").mkdir()
    assert locate_under([tmp_path])(image) == "no_image"
