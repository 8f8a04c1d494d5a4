import io
from base64 import b64decode

import torch
from PIL import Image

from bitgen.evaluation.pictures import Outline, heat_uri, photo_uri, picture, tensor_uri


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(b64decode(uri.partition(",")[2])))


def test_a_tensor_comes_through_exactly():
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = opened(tensor_uri(image))
    assert found.size == (7, 5)
    assert list(found.convert("RGB").tobytes()) == image.permute(1, 2, 0).flatten().tolist()


def test_a_photograph_is_shrunk_and_keeps_its_proportions():
    assert opened(photo_uri(torch.zeros(3, 1000, 2000, dtype=torch.uint8))).size == (520, 260)


def test_a_small_photograph_is_not_enlarged():
    assert opened(photo_uri(torch.zeros(3, 10, 20, dtype=torch.uint8))).size == (20, 10)


def test_a_heat_map_is_strongest_where_the_patch_is_likeliest():
    found = opened(heat_uri(torch.tensor([-20.0, 0.0, -20.0, 20.0])))
    assert found.size == (2, 2)
    assert list(found.getchannel("A").tobytes()) == [0, 92, 0, 185]


def test_a_heat_map_that_is_not_a_number_is_clear():
    found = opened(heat_uri(torch.full((4,), torch.nan)))
    assert list(found.getchannel("A").tobytes()) == [0, 0, 0, 0]


def test_a_box_is_drawn_where_it_lies():
    found = picture("data:,", 200, 100, [Outline((0.25, 0.5, 0.75, 1.0), 1, "a dog")], says="a", shown_px=400)
    assert 'x="0.25000" y="0.50000" width="0.50000" height="0.50000"' in found
    assert 'style="width:400px;height:200px"' in found


def test_predicted_boxes_are_dashed():
    found = picture("data:,", 10, 10, [Outline((0, 0, 1, 1), 0, "a", dashed=True)], says="a", shown_px=10)
    assert 'class="edge dashed"' in found


def test_what_a_picture_says_is_escaped():
    bad = '"><script>'
    found = picture("data:,", 10, 10, [Outline((0, 0, 1, 1), 0, bad)], says=bad, shown_px=10)
    assert "<script>" not in found
    assert 'alt="&quot;&gt;&lt;script&gt;"' in found


def test_equal_boxes_of_two_phrases_both_show():
    place = (0.1, 0.1, 0.5, 0.5)
    found = picture("data:,", 10, 10, [Outline(place, 0, "a"), Outline(place, 1, "b")], says="a", shown_px=10)
    assert 'class="edge" style="stroke-width:6.5px"' in found
    assert 'class="edge" style="stroke-width:2.5px"' in found
