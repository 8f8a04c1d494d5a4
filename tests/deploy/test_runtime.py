"""What the runtime says of pictures is what `bitgen.BitGen` says of them, whether NumPy or ONNX Runtime computes it."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitgen.deploy import unpack
from bitgen.deploy.export import export_graphs
from bitgen.deploy.packed import FILE, PackedError, read
from bitgen.deploy.reference import runner
from bitgen.deploy.runtime import PictureError, Runtime, Seen, open_picture
from bitgen.predictor import BitGen
from bitgen.tokens import EOT
from tests import fakes, packing
from tests.runs import photo

TEXTS = ("a man beside a red tram", "snow", "the dog's ball, 3 of them")
KEPT = (64, 257, 582, 3290, 11, EOT)
"""GPT-2's ids of "a", " a", " man", " dog", "," and end-of-text."""


class World:
    """One packed model as three runtimes hold it."""

    def __init__(self, folder: Path, trimmed: bool) -> None:
        network = packing.model(text_layers=3, fusion_layers=2)
        with torch.no_grad():  # else the first token would be repeated to the end
            torch.nn.init.normal_(network.decoder.position.weight)
        packing.packed(folder, network, tokens=KEPT if trimmed else None)
        export_graphs(folder)
        self.folder, packed = folder, read(folder)
        self.torch = BitGen(unpack.load(folder)[0], fakes.SIDE, packed.facts.max_tokens)
        self.numpy, self.onnx = Runtime(packed, runner(packed)), Runtime.open(folder, threads=1)


@pytest.fixture(scope="module", params=[False, True], ids=["all tokens", "few tokens"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("runtime"), request.param)


def pictures() -> list[Image.Image]:
    """Of the model's own size, so that no filter comes between."""
    noise = np.random.default_rng(0).integers(0, 256, (3, fakes.SIDE, fakes.SIDE, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in noise]


@pytest.fixture(params=["numpy", "onnx"])
def runtime(world: World, request: pytest.FixtureRequest) -> Runtime:
    return getattr(world, request.param)


def test_vectors_agree(world: World, runtime: Runtime) -> None:
    found = np.stack([runtime.see(picture).states["embedding"][0] for picture in pictures()])
    np.testing.assert_allclose(found, world.torch.encode_image(pictures()).numpy(), rtol=0, atol=0.005)
    words = np.stack([runtime.encode_text(text) for text in TEXTS])
    np.testing.assert_allclose(words, world.torch.encode_text(list(TEXTS)).numpy(), rtol=0, atol=0.005)


def test_captions_are_the_same(world: World, runtime: Runtime) -> None:
    expected = world.torch.caption(pictures(), max_tokens=8)
    assert [runtime.caption(runtime.see(picture), max_tokens=8) for picture in pictures()] == expected
    assert any(expected)


def test_matches_and_similarities_agree(world: World, runtime: Runtime) -> None:
    seen = [runtime.see(picture) for picture in pictures()]
    found = [[runtime.match(each, text) for text in TEXTS] for each in seen]
    np.testing.assert_allclose(found, world.torch.match(pictures(), TEXTS).numpy(), rtol=0, atol=0.005)
    alike = [[runtime.similarity(each, text) for text in TEXTS] for each in seen]
    np.testing.assert_allclose(alike, world.torch.similarity(pictures(), TEXTS).numpy(), rtol=0, atol=0.005)


def test_boxes_and_heat_agree(world: World, runtime: Runtime) -> None:
    picture = pictures()[0]
    for text, phrase in ((TEXTS[1], None), (TEXTS[0], "a red tram"), (TEXTS[2], "ball")):
        given = (text, None) if phrase is None else (text, [phrase])
        expected = world.torch.ground(picture, *given)
        wanted = expected if phrase is None else expected[0]
        found = runtime.ground(runtime.see(picture), phrase or text, text)
        assert found.phrase == wanted.phrase
        np.testing.assert_allclose(found.box, wanted.box, rtol=0, atol=0.2)  # pixels, of 56
        np.testing.assert_allclose(found.heat, wanted.heat.numpy(), rtol=0, atol=0.005)
        assert found.score == found.heat.max()


def test_numpy_and_onnx_runtime_give_the_same_box(world: World) -> None:
    picture = pictures()[1]
    a, b = (each.ground(each.see(picture), "a man", TEXTS[0]) for each in (world.numpy, world.onnx))
    np.testing.assert_allclose(a.box, b.box, rtol=0, atol=0.1)


def test_a_large_picture_is_seen_as_torch_sees_it(world: World) -> None:
    smooth = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    large = smooth.resize((640, 480), Image.Resampling.BILINEAR)
    found, expected = world.onnx.see(large).states["embedding"][0], world.torch.encode_image(large).numpy()
    assert float(found @ expected) > 0.9999


def test_boxes_are_of_the_upright_picture(world: World) -> None:
    upright = pictures()[0].resize((80, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    found, expected = world.onnx.see(Image.open(file)), world.onnx.see(upright)
    assert found.picture.size == (80, 40)
    assert world.onnx.ground(found, "snow").box == world.onnx.ground(expected, "snow").box


def test_a_phrase_that_is_not_in_its_text_is_refused(world: World) -> None:
    seen = Seen(pictures()[0], {})
    with pytest.raises(PictureError, match="expected a phrase that stands in 'snow', found 'a dog'"):
        world.numpy.ground(seen, "a dog", "snow")


@pytest.mark.parametrize("content", [b"", b"no picture", photo(1)[:-200]])
def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(PictureError, match=r"a\.jpg"):
        open_picture(tmp_path / "a.jpg")


def test_a_folder_without_graphs_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes((world.folder / FILE).read_bytes())
    with pytest.raises(PackedError, match="expected a graph, as bitgen-export --format onnx leaves it"):
        Runtime.open(tmp_path).see(pictures()[0])
