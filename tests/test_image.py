import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bitgen.image import DecodeError, Transform, decode, move_boxes, to_image

NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(NOISE[:6, :8]).resize((640, 480), Image.Resampling.BICUBIC))


def encoded(picture, kind="JPEG", **options):
    file = io.BytesIO()
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    image.save(file, kind, **options)
    return file.getvalue()


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def rows(image):
    """[H, W, 3] of a decoded tensor."""
    return decode(image).permute(1, 2, 0).numpy()


def difference(a, b):
    return np.abs(a.astype(int) - b.astype(int)).mean()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 95, "subsampling": 1}])
def test_a_jpeg_decodes_as_pillow_decodes_it(options):
    data = encoded(SMOOTH, **options)
    assert decode(data).shape == (3, 480, 640)
    assert difference(rows(data), pillow(data)) < 0.1


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_lossless_image_decodes_exactly(kind):
    np.testing.assert_array_equal(rows(encoded(NOISE, kind, lossless=True)), NOISE)


def test_grey_becomes_three_equal_channels():
    image = decode(encoded(NOISE[:, :, 0]))
    assert image.shape == (3, 48, 64)
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


def test_a_cmyk_jpeg_decodes_as_pillow_decodes_it():
    data = encoded(Image.fromarray(SMOOTH).convert("CMYK"))
    np.testing.assert_array_equal(rows(data), pillow(data))


def test_sixteen_bits_of_grey_keep_their_upper_eight():
    grey = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    assert rows(encoded(grey, "PNG"))[0, :, 0].tolist() == [0, 0, 1, 255]


def test_a_palette_becomes_colours():
    red = Image.new("RGB", (4, 4), (255, 0, 0)).convert("P")
    assert rows(encoded(red, "PNG"))[0, 0].tolist() == [255, 0, 0]


def test_transparent_pixels_lie_on_white():
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert rows(encoded(clear, "PNG"))[0, 0].tolist() == [255, 255, 255]


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert decode(encoded(NOISE, exif=exif)).shape == (3, 48, 64)


def test_bytes_after_the_image_do_not_matter():
    data = encoded(NOISE)
    np.testing.assert_array_equal(rows(data + b"trailer"), rows(data))


def test_the_decoded_pixels_may_be_written_to():
    decode(encoded(NOISE, "PNG")).zero_()
    decode(encoded(NOISE)).zero_()


JPEG = encoded(NOISE)
FLIPPED = bytes(b ^ 0x5A if i in range(1500, 1560, 3) else b for i, b in enumerate(JPEG))
PNG = encoded(NOISE, "PNG")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"<html>404</html>",
        b"\xff\xd8\xff<html>",
        JPEG[:200],
        JPEG[: len(JPEG) // 2],
        JPEG[:-2],
        FLIPPED,
        PNG[: len(PNG) // 2],
        PNG[:40],
        PNG[:60] + b"\0\0\0\0" + PNG[64:],
        encoded(NOISE, "WEBP")[:300],
        encoded(NOISE, "GIF"),
        encoded(NOISE, "BMP"),
    ],
    ids=[
        "empty",
        "two bytes",
        "a web page",
        "a web page in disguise",
        "a header",
        "half a jpeg",
        "no end",
        "flipped bytes",
        "half a png",
        "a png's header",
        "a wrong checksum",
        "half a webp",
        "a gif",
        "a bitmap",
    ],
)
def test_bytes_that_are_no_whole_image_are_refused(data):
    with pytest.raises(DecodeError, match="expected"):
        decode(data)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png():
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def huge_jpeg():
    size = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:size] + struct.pack(">HH", 60000, 60000) + JPEG[size + 4 :]


@pytest.mark.parametrize("data", [huge_jpeg(), huge_png()], ids=["jpeg", "png"])
def test_a_huge_image_is_refused_by_its_header(data):
    with pytest.raises(DecodeError, match=r"60000x60000|3600000000 pixels"):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_limit_of_pixels_is_the_caller_s(kind):
    assert decode(encoded(NOISE, kind), max_pixels=48 * 64).shape == (3, 48, 64)
    with pytest.raises(DecodeError, match="expected 1 to 3071 pixels, found 64x48"):
        decode(encoded(NOISE, kind), max_pixels=48 * 64 - 1)


@pytest.mark.parametrize("side", [32, 224, 1000])
def test_a_resize_is_pillow_s_antialiased_bicubic(side):
    ours = Transform(side).resize(torch.from_numpy(SMOOTH.copy()).permute(2, 0, 1), (0, 0, 640, 480))
    theirs = np.asarray(Image.fromarray(SMOOTH).resize((side, side), Image.Resampling.BICUBIC))
    assert difference(ours.permute(1, 2, 0).numpy(), theirs) < 0.02


def test_a_resize_of_noise_does_not_alias():
    ours = Transform(16).resize(torch.from_numpy(NOISE).permute(2, 0, 1), (0, 0, 64, 48))
    theirs = np.asarray(Image.fromarray(NOISE).resize((16, 16), Image.Resampling.BICUBIC))
    assert difference(ours.permute(1, 2, 0).numpy(), theirs) < 0.02


def test_a_resize_of_a_crop_is_that_of_the_part():
    part = torch.from_numpy(SMOOTH[100:300, 50:250].copy()).permute(2, 0, 1)
    of_part = Transform(64).resize(part, (0, 0, 200, 200))
    whole = torch.from_numpy(SMOOTH.copy()).permute(2, 0, 1)
    assert torch.equal(Transform(64).resize(whole, (50, 100, 250, 300)), of_part)


def test_the_whole_image_is_seen_unless_crops_are_asked_for():
    assert Transform(224).crop(640, 480, seed=0, position=5) == (0, 0, 640, 480)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0.01, 0.99), st.integers(0, 2**60))
def test_a_crop_lies_within_the_image(width, height, scale, position):
    x0, y0, x1, y1 = Transform(224, scale).crop(width, height, 3, position)
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height


@settings(max_examples=100, deadline=None)
@given(st.floats(0.1, 0.9), st.integers(0, 10**9))
def test_a_crop_keeps_its_share_and_its_aspect(scale, position):
    x0, y0, x1, y1 = Transform(224, scale).crop(1000, 1000, 0, position)
    assert (x1 - x0) * (y1 - y0) >= (scale - 0.01) * 1000 * 1000
    assert 0.74 < (x1 - x0) / (y1 - y0) < 1.35


def test_a_crop_depends_on_seed_and_position_alone():
    crops = [Transform(224, 0.3).crop(640, 480, seed, position) for seed in (0, 1) for position in (7, 8)]
    assert len(set(crops)) == 4
    assert crops[1] == Transform(224, 0.3).crop(640, 480, 0, 8)


def test_the_crops_of_today_are_those_of_tomorrow():
    assert Transform(224, 0.3).crop(640, 480, 0, 8) == (14, 1, 561, 468)


def test_a_very_long_image_is_seen_in_its_middle():
    # No part of 1000x10 has half its area and an aspect of at most 4:3; the middle 13x10 (4:3 of the height) is left.
    assert Transform(224, 0.5).crop(1000, 10, 0, 0) == (493, 0, 506, 10)


def test_boxes_follow_a_crop():
    boxes, seen = move_boxes(np.array([[0.25, 0.5, 0.5, 0.75]]), np.array([0.25, 0.25, 0.75, 0.75]))
    assert boxes.tolist() == [[0.0, 0.5, 0.5, 1.0]]
    assert seen.tolist() == [True]


def test_a_box_is_seen_from_half_of_its_area_on():
    crop = np.array([0.5, 0.0, 1.0, 1.0])
    half, less, none = [0.25, 0.0, 0.75, 1.0], [0.125, 0.0, 0.6, 1.0], [0.0, 0.0, 0.25, 1.0]
    boxes, seen = move_boxes(np.array([half, less, none]), crop)
    assert seen.tolist() == [True, False, False]
    assert boxes[0].tolist() == [0.0, 0.0, 0.5, 1.0]


BOXES = st.tuples(*[st.floats(0, 1)] * 4).map(lambda c: (min(c[::2]), min(c[1::2]), max(c[::2]), max(c[1::2])))


@settings(max_examples=100, deadline=None)
@given(BOXES.filter(lambda b: b[2] - b[0] > 0.1 and b[3] - b[1] > 0.1), st.integers(0, 10**6))
def test_a_prediction_goes_back_to_where_the_box_came_from(box, position):
    crop = np.array(Transform(224, 0.5).crop(640, 480, 0, position)) / (640, 480, 640, 480)
    moved, _ = move_boxes(np.array([box]), crop)
    back = to_image(torch.from_numpy(moved), torch.from_numpy(crop)[None])[0].numpy()
    visible = np.concatenate([np.maximum(box[:2], crop[:2]), np.minimum(box[2:], crop[2:])])
    expected = np.clip(visible, np.tile(crop[:2], 2), np.tile(crop[2:], 2))
    np.testing.assert_allclose(back, expected, atol=1e-12)


def test_boxes_go_back_by_the_crop_of_their_own_image():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0]])
    crops = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 0.5]])
    assert to_image(boxes, crops).tolist() == [[0.0, 0.0, 1.0, 1.0], [0.5, 0.25, 0.75, 0.5]]


@pytest.mark.parametrize("of", [(0, 1.0), (224, 0.0), (224, 1.1), (224, float("nan"))])
def test_a_transform_that_sees_nothing_is_refused(of):
    with pytest.raises(ValueError, match="expected"):
        Transform(*of)
