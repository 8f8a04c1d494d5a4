"""What the runtime says of pictures is what `bitgen.BitGen` says of them, whether NumPy or ONNX Runtime computes it."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitgen.deploy import unpack
from bitgen.deploy.export import export_graphs
from bitgen.deploy.pack import write
from bitgen.deploy.packed import FILE, PackedError, identity, read
from bitgen.deploy.reference import runner
from bitgen.deploy.runtime import PictureError, Runtime, Seen, open_picture
from bitgen.deploy.tower import calibrate, in_bytes
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


def test_a_phrase_is_looked_for_in_whole_words(world: World) -> None:
    text, picture = "a woman and a man", pictures()[0]
    seen, expected = world.numpy.see(picture), world.torch.ground(picture, text, ["man"])
    np.testing.assert_allclose(world.numpy.ground(seen, "man", text).heat, expected[0].heat.numpy(), rtol=0, atol=0.005)
    with pytest.raises(PictureError, match="expected a phrase that stands in 'a woman', found 'man'"):
        world.numpy.ground(seen, "man", "a woman")


def test_a_phrase_beyond_what_is_read_of_a_text_is_refused(world: World) -> None:
    text = "snow " * world.numpy.packed.facts.max_tokens + "dog"
    with pytest.raises(
        PictureError, match=r"expected a phrase with words in the first .* tokens of its text, found 'dog'"
    ):
        world.numpy.ground(Seen(pictures()[0], {}), "dog", text)


def test_a_text_without_a_utf8_form_is_refused(world: World) -> None:
    with pytest.raises(PictureError, match="expected a text with a UTF-8 form"):
        world.numpy.encode_text("a \udcff")


def test_a_caption_is_no_longer_than_the_decoder_can_say(world: World) -> None:
    with pytest.raises(PictureError, match="expected a caption of 256 tokens at most, found 257"):
        world.numpy.caption(Seen(pictures()[0], {}), max_tokens=257)


@pytest.mark.parametrize("kept", [(257, 64, EOT), (64, 64, EOT), (64, 257, 258), (64, EOT)], ids=str)
def test_kept_tokens_that_are_no_vocabulary_are_refused(world: World, kept: tuple[int, ...]) -> None:
    packed = world.numpy.packed
    facts = replace(packed.facts, config=replace(packed.facts.config, vocabulary=3))
    tensors = {**packed.tensors, "text.token.kept": np.array(kept, np.uint16)}
    with pytest.raises(PackedError, match="expected 3 kept tokens in order, end-of-text last"):
        Runtime(replace(packed, facts=facts, tensors=tensors), runner(packed))


@pytest.mark.parametrize("content", [b"", b"no picture", photo(1)[:-200], b"\x89PNG\r\n\x1a\n\0\0\0\2IHDR\0\0\0\0\0\0"])
def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(PictureError, match=r"a\.jpg"):
        open_picture(tmp_path / "a.jpg")


def test_a_folder_without_graphs_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes((world.folder / FILE).read_bytes())
    with pytest.raises(PackedError, match="expected a graph, as bitgen-export --format onnx leaves it"):
        Runtime.open(tmp_path).see(pictures()[0])


def test_a_damaged_graph_is_refused(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder, tmp_path / "model")
    graph = tmp_path / "model/image_encoder.onnx"
    graph.write_bytes(graph.read_bytes()[:3000])
    with pytest.raises(PackedError, match=r"expected a graph that ONNX Runtime loads, found .*: .*image_encoder\.onnx"):
        Runtime.open(tmp_path / "model").see(pictures()[0])


def test_a_graph_over_the_file_of_another_model_is_refused(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder, tmp_path / "model")
    packing.packed(tmp_path / "model", packing.model(seed=1, text_layers=3, fusion_layers=2))
    with pytest.raises(PackedError, match=r"expected a graph over the packed file beside it, found one over another"):
        Runtime.open(tmp_path / "model").see(pictures()[0])


def test_a_file_of_the_same_model_with_other_ranges_is_another(tmp_path: Path) -> None:
    found = []
    for images in (1, 2):
        packing.packed(tmp_path, packing.model())
        fp16 = read(tmp_path)
        shape = (images, 3, fakes.SIDE, fakes.SIDE)
        noise = np.random.default_rng(images).integers(0, 256, shape, dtype=np.uint8)
        write(tmp_path / FILE, *in_bytes(fp16, calibrate(fp16, [noise]), 8))
        found.append(identity(read(tmp_path)))
    assert found[0] != found[1]
