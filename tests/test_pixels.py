"""Decoding without torch: grey finds what rgb finds, headers are read before anything is allocated."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from bitgen.pixels import DecodeError, PixelsError, grey, orientation, rgb, size


def photograph(width: int = 320, height: int = 240, kind: str = "JPEG", **save: object) -> bytes:
    """Smooth noise, so that a JPEG of it has many coefficients."""
    dice = np.random.default_rng(width * height)
    small = Image.fromarray(dice.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(file, kind, **save)
    return file.getvalue()


def is_damaged(decoder: object, data: bytes) -> bool:
    try:
        decoder(data)
    except DecodeError:
        return True
    return False


@pytest.mark.parametrize("save", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_grey_finds_the_damages_that_rgb_finds(save: dict[str, object]) -> None:
    whole, dice = photograph(**save), random.Random(7)
    damaged = [bytearray(whole) for _ in range(60)]
    for each in damaged:
        each[dice.randrange(200, len(whole))] ^= 1 << dice.randrange(8)
    found = [is_damaged(rgb, bytes(each)) for each in damaged]
    assert [is_damaged(lambda data: grey(data, 128), bytes(each)) for each in damaged] == found
    assert True in found


@pytest.mark.parametrize("length", [300, 1000, 3000])
def test_grey_refuses_a_truncated_jpeg(length: int) -> None:
    with pytest.raises(DecodeError):
        grey(photograph()[:length], 128)


def test_grey_is_shrunk_while_both_sides_keep_the_least() -> None:
    assert grey(photograph(640, 480), 128).shape == (180, 240)


def test_grey_of_a_small_image_is_not_shrunk() -> None:
    assert grey(photograph(100, 60), 128).shape == (60, 100)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_grey_of_other_kinds_is_that_of_all_their_pixels(kind: str) -> None:
    data = photograph(kind=kind)
    assert (grey(data, 128) == np.asarray(Image.fromarray(rgb(data)).convert("L"))).all()


def test_grey_is_the_picture_in_grey() -> None:
    data = photograph(quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("L").resize((160, 120), Image.Resampling.BOX))
    assert np.abs(grey(data, 120).astype(int) - expected).mean() < 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_size_is_the_headers(kind: str) -> None:
    assert size(photograph(321, 123, kind)) == (321, 123)


def test_a_header_of_too_many_pixels_is_refused_before_they_are_decoded() -> None:
    with pytest.raises(PixelsError, match="expected 1 to 1000 pixels, found 320x240"):
        size(photograph(), 1000)
    with pytest.raises(PixelsError, match="expected 1 to 1000 pixels, found 320x240"):
        grey(photograph(), 128, 1000)


def test_what_is_no_image_has_no_size() -> None:
    with pytest.raises(DecodeError, match="expected a readable JPEG, PNG or WebP image"):
        size(b"<html></html>")


@pytest.mark.parametrize(("stated", "found"), [(6, 6), (1, 1), (9, 1), (None, 1)])
def test_an_orientation_is_one_of_eight(stated: int | None, found: int) -> None:
    exif = Image.Exif()
    exif.update({} if stated is None else {0x0112: stated})
    assert orientation(photograph(exif=exif.tobytes())) == found


def test_a_picture_whose_exif_cannot_be_read_is_upright() -> None:
    assert orientation(photograph(kind="PNG", exif=b"Exif\x00\x00II*\x00\xff")) == 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_any_changed_byte_gives_pixels_or_a_decode_error(kind: str) -> None:
    whole, dice = photograph(80, 60, kind, icc_profile=b"p" * 200), random.Random(3)
    damaged = [bytearray(whole) for _ in range(400)]
    for each in damaged:
        each[dice.randrange(len(whole))] = dice.randrange(256)
        each[dice.randrange(len(whole))] = dice.randrange(256)
    found = {(is_damaged(rgb, bytes(each)), is_damaged(orientation, bytes(each))) for each in damaged}
    assert (True, False) in found
