"""Pictures of every kind become what the model sees, the same for the same pixels; places go back to the picture as given."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from bitgen.image import DecodeError, Transform, decode
from bitgen.views import InputError, View, view

SIDE = 28
NOISE = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)


def _encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _encoded(Image.fromarray(NOISE), exif=exif)


def test_a_picture_is_squeezed_whole_as_in_training() -> None:
    data = _encoded(Image.fromarray(NOISE), "JPEG")
    expected = Transform(SIDE).resize(decode(data), (0, 0, 50, 30))
    found = view(data, SIDE)
    assert found.pixels.equal(expected)
    assert (found.size, found.orientation) == ((50, 30), 1)


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(NOISE),
        _encoded(Image.fromarray(NOISE)),
        torch.from_numpy(NOISE).permute(2, 0, 1),
        torch.from_numpy(NOISE).permute(2, 0, 1).contiguous(),
        np.asfortranarray(NOISE),
        NOISE[::-1].copy()[::-1],
    ],
    ids=["pillow", "bytes", "tensor", "planes", "fortran", "reversed"],
)
def test_the_same_pixels_are_seen_alike_however_they_are_held(picture: Any) -> None:
    assert view(picture, SIDE).pixels.equal(view(NOISE, SIDE).pixels)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_gives_the_picture_that_lies_there(tmp_path: Path, kind: Any) -> None:
    (tmp_path / "photo.png").write_bytes(_encoded(Image.fromarray(NOISE)))
    assert view(kind(tmp_path / "photo.png"), SIDE).pixels.equal(view(NOISE, SIDE).pixels)


def test_an_array_without_channels_is_grey() -> None:
    assert view(NOISE[:, :, 0], SIDE).pixels.equal(view(np.stack([NOISE[:, :, 0]] * 3, axis=2), SIDE).pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16"])
def test_a_picture_of_every_mode_is_seen(mode: str) -> None:
    assert view(Image.new(mode, (9, 5)), SIDE).pixels.shape == (3, SIDE, SIDE)


def test_transparent_pixels_are_laid_on_white() -> None:
    found = view(Image.new("RGBA", (9, 5), (0, 0, 0, 0)), SIDE)
    assert found.pixels.min() == 255


def test_a_pictures_own_memory_is_left_alone() -> None:
    locked = NOISE.copy()
    locked.flags.writeable = False
    view(locked, SIDE).pixels.zero_()
    assert (locked == NOISE).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_seen_as_its_upright_copy(orientation: int) -> None:
    data = _oriented(orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    expected = view(np.asarray(upright), SIDE).pixels
    assert view(data, SIDE).pixels.equal(expected)
    assert view(Image.open(io.BytesIO(data)), SIDE).pixels.equal(expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_place_found_upright_goes_back_to_the_picture_as_given(orientation: int) -> None:
    """One pixel is marked as stored; where it lies upright, Pillow says."""
    stored = np.zeros((4, 8), np.uint8)
    stored[1, 6] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(io.BytesIO(_encoded(Image.fromarray(stored), exif=exif)))
    upright = np.asarray(ImageOps.exif_transpose(image))
    (row,), (column,) = upright.nonzero()
    height, width = upright.shape
    box = torch.tensor([[column / width, row / height, (column + 1) / width, (row + 1) / height]])
    assert view(image, SIDE).boxes_as_given(box).tolist() == [[6.0, 1.0, 7.0, 2.0]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heat_map_goes_back_as_the_pixels_do(orientation: int) -> None:
    stored = np.arange(16, dtype=np.uint8).reshape(4, 4)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(io.BytesIO(_encoded(Image.fromarray(stored), exif=exif)))
    upright = np.array(ImageOps.exif_transpose(image))
    found = View(torch.empty(0), (4, 4), orientation).heat_as_given(torch.from_numpy(upright)[None])
    assert found[0].tolist() == stored.tolist()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (NOISE.astype(np.float32) / 255, r"uint8, found float32 \[30, 50, 3\]"),
        (torch.zeros(3, 5, 5), r"uint8, found torch.float32 \[3, 5, 5\]"),
        (Image.new("F", (5, 5)), "found one of floats"),
        (NOISE.astype(np.int64), "uint8, found int64"),
        (torch.from_numpy(NOISE), r"expected one image \[3, H, W\], found torch.uint8 \[30, 50, 3\]"),
        (NOISE[None], r"several images go into a list, found uint8 \[1, 30, 50, 3\]"),
        (np.zeros((5, 5, 4), np.uint8), r"expected one image \[H, W, 3\] or \[H, W\], found uint8 \[5, 5, 4\]"),
        (np.zeros((0, 5, 3), np.uint8), r"found uint8 \[0, 5, 3\]"),
        (None, "found NoneType"),
        ({"image": NOISE}, "found dict"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(picture: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        view(picture, SIDE)


def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(_encoded(Image.fromarray(NOISE), "JPEG")[:-200])
    with pytest.raises(DecodeError, match=r"expected a whole JPEG.*photo\.jpg"):
        view(tmp_path / "photo.jpg", SIDE)


def test_a_path_that_leads_nowhere_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"photo\.jpg"):
        view(tmp_path / "photo.jpg", SIDE)


@pytest.mark.parametrize("picture", [_encoded(Image.fromarray(NOISE)), Image.fromarray(NOISE)], ids=["bytes", "pillow"])
def test_more_pixels_than_allowed_are_refused(picture: Any) -> None:
    with pytest.raises(DecodeError, match="expected 1 to 1499 pixels, found 50x30"):
        view(picture, SIDE, max_pixels=1499)
