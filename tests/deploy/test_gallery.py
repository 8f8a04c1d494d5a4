"""A folder's vectors are kept beside the model where they can be, and made anew where what is kept is not theirs."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bitgen.deploy.gallery import Found, search
from bitgen.deploy.packed import read
from bitgen.deploy.reference import runner
from bitgen.deploy.runtime import PictureError, Runtime
from tests import fakes, packing
from tests.runs import photo


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    folder = tmp_path_factory.mktemp("gallery")
    packing.packed(folder, packing.model())
    return Runtime(read(folder), runner(read(folder)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        (tmp_path / f"photos/{number}.jpg").write_bytes(photo(number))
    return tmp_path / "photos"


def _search(runtime: Runtime, photos: Path, kept: Path | None) -> list[Found]:
    return search(runtime, photos, ["snow"], 5, kept)["snow"]


def _changed(kept: Path, compression: int = zipfile.ZIP_STORED, **arrays: np.ndarray) -> None:
    """The file with other arrays in it."""
    with np.load(kept) as file:
        all_of_them = {**file, **arrays}
    with zipfile.ZipFile(kept, "w", compression) as file:
        for name, array in all_of_them.items():
            content = io.BytesIO()
            np.save(content, array)
            file.writestr(f"{name}.npy", content.getvalue())


def test_vectors_that_are_kept_are_used(runtime: Runtime, photos: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.npz"
    assert len(_search(runtime, photos, kept)) == 2
    _changed(kept, vectors=np.zeros((2, fakes.WIDTH), np.float32))
    assert [each.similarity for each in _search(runtime, photos, kept)] == [0, 0]


@pytest.mark.parametrize(
    "content", [b"", b"no file of vectors", b"PK\x03\x04" + bytes(60)], ids=["none", "text", "half"]
)
def test_a_damaged_file_is_made_anew(runtime: Runtime, photos: Path, tmp_path: Path, content: bytes) -> None:
    kept = tmp_path / "kept.npz"
    kept.write_bytes(content)
    assert _search(runtime, photos, kept) == _search(runtime, photos, None)
    assert zipfile.is_zipfile(kept)


@pytest.mark.parametrize(
    "vectors", [np.zeros((2, 3), np.float32), np.zeros((2, fakes.WIDTH)), np.zeros(2, np.float32)], ids=str
)
def test_vectors_of_another_shape_are_made_anew(
    runtime: Runtime, photos: Path, tmp_path: Path, vectors: np.ndarray
) -> None:
    kept = tmp_path / "kept.npz"
    expected = _search(runtime, photos, kept)
    _changed(kept, vectors=vectors)
    assert _search(runtime, photos, kept) == expected


def test_a_file_that_would_grow_in_memory_is_not_opened(runtime: Runtime, photos: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.npz"
    expected = _search(runtime, photos, kept)
    _changed(kept, zipfile.ZIP_DEFLATED, vectors=np.zeros((2, fakes.WIDTH), np.float32), more=np.zeros(10**5))
    assert _search(runtime, photos, kept) == expected


def test_what_cannot_be_kept_is_found_all_the_same(
    runtime: Runtime, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(_search(runtime, photos, tmp_path / "absent/kept.npz")) == 2
    assert "the pictures' vectors are not kept" in caplog.text


def test_a_picture_that_cannot_be_read_is_left_out(
    runtime: Runtime, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "0.jpg").write_bytes(b"no picture")
    assert [Path(each.image).name for each in _search(runtime, photos, None)] == ["1.jpg"]
    assert "left out: expected a JPEG, PNG or WebP picture" in caplog.text
    (photos / "1.jpg").unlink()
    with pytest.raises(PictureError, match="found none that can be read"):
        _search(runtime, photos, None)
