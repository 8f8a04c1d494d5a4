"""`bitgen.BitGen`: what a user asks of a model, on random weights, against the network asked one thing at a time."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import bitgen
from bitgen.batch import whole
from bitgen.image import move_boxes
from bitgen.predictor import IMAGES, BitGen, Grounding
from bitgen.record import Box, Sample, Text
from bitgen.tokens import shared_tokenizer
from bitgen.training.checkpoint import CheckpointError, load_model
from bitgen.views import InputError
from tests import fakes
from tests.runs import photo, run_config, write_run

TEXT = "a man beside a red tram"
TERNARY, EXACT = 1e-3, 1e-5
"""How far a unit vector's element may be moved by what it is computed beside, as `bitgen.predictor` says."""


def _model(ternary: bool = True, seed: int = 0) -> BitGen:
    """Random weights, the gates of the fused layers open."""
    network = fakes.model(seed, ternary=ternary)
    with torch.no_grad():
        for gate in network.gates().values():
            gate.fill_(0.7)
    return BitGen(network, fakes.SIDE)


def _pictures(count: int) -> list[np.ndarray]:
    """Noise of different sizes."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (40 + 7 * i, 90 - 5 * i, 3), dtype=np.uint8) for i in range(count)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predictor")
    return write_run(run_config(folder / "data", folder / "runs"))


@pytest.fixture(scope="module")
def model() -> BitGen:
    return _model()


def test_the_package_gives_this_class() -> None:
    assert bitgen.BitGen is BitGen


@pytest.mark.parametrize("place", ["", "checkpoints/step-00000008"])
def test_a_folder_gives_the_model_that_was_saved(run: Path, place: str) -> None:
    found = BitGen.from_pretrained(run / place, device="cpu")
    network, state = load_model(run)
    expected = network.state_dict()
    assert [n for n, tensor in found.network.state_dict().items() if not tensor.equal(expected[n])] == []
    assert (found.side_px, found.max_tokens) == (state.config.data.image_px, state.config.data.max_tokens)
    assert not any(module.training for module in found.network.modules())


@pytest.fixture(scope="module")
def said(run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """By a process of its own, with a repository in its cache of the hub: whether torch is imported before the class is asked
    for, and after; then the side of the images of the repository's model, by either name."""
    hub = tmp_path_factory.mktemp("hub")
    cached = hub / "models--owner--name"
    shutil.copytree(run / "checkpoints/step-00000008", cached / "snapshots/abc")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("abc")
    code = "import sys, bitgen\nprint('torch' in sys.modules)\nbitgen.BitGen\nprint('torch' in sys.modules)\n"
    code += "for name in ('hf://owner/name', 'owner/name'):\n    "
    code += "print(bitgen.BitGen.from_pretrained(name, device='cpu').side_px)"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub)}
    asked = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=True)
    return asked.stdout.splitlines()


def test_a_repository_of_the_hub_gives_a_model_by_either_name(said: list[str]) -> None:
    assert said[2:] == [str(fakes.SIDE)] * 2


def test_a_folder_that_is_there_is_not_looked_for_on_the_hub(run: Path) -> None:
    with contextlib.chdir(run.parent.parent):
        assert BitGen.from_pretrained("runs/tiny", device="cpu").side_px == fakes.SIDE


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a run folder, a checkpoint folder or hf://owner/name"):
        BitGen.from_pretrained(tmp_path)


def test_a_vector_is_what_the_network_gives_for_the_same_photograph_in_a_batch(model: BitGen) -> None:
    sample = Sample("a-1", "a", "val", ("coco:1",), 48, 32, "CC0", "", "", (Text(TEXT),))
    batch = whole([(0, sample, photo(1))], fakes.SIDE, shared_tokenizer())
    with torch.no_grad():
        image = model.network.encode_image(batch.images).embedding[0]
        text = model.network.encode_text(batch.token_ids, batch.token_mask).embedding[0]
    torch.testing.assert_close(model.encode_image(photo(1)), image, rtol=0, atol=0)
    torch.testing.assert_close(model.encode_text(TEXT), text, rtol=0, atol=0)


def test_vectors_have_length_one(model: BitGen) -> None:
    found = torch.cat([model.encode_image(_pictures(3)), model.encode_text(["a dog", TEXT])])
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))


def test_a_similarity_is_the_cosine_of_the_vectors(model: BitGen) -> None:
    pictures, texts = _pictures(2), ["a dog", "a tram", "snow"]
    expected = [
        [F.cosine_similarity(model.encode_image(p), model.encode_text(t), dim=0).item() for t in texts]
        for p in pictures
    ]
    found = model.similarity(pictures, texts)
    assert found.shape == (2, 3)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=TERNARY)


@pytest.mark.parametrize("ask", [BitGen.similarity, BitGen.match])
@pytest.mark.parametrize(
    ("images", "texts", "shape"), [(None, None, ()), (None, 3, (3,)), (2, None, (2,)), (2, 3, (2, 3)), (1, 1, (1, 1))]
)
def test_an_axis_stands_for_each_list(
    model: BitGen, ask: Any, images: int | None, texts: int | None, shape: tuple[int, ...]
) -> None:
    image = _pictures(1)[0] if images is None else _pictures(images)
    text = "a dog" if texts is None else ["a dog", "snow", "a tram"][:texts]
    assert ask(model, image, text).shape == shape


def test_a_match_is_the_softmax_of_the_matching_head(model: BitGen) -> None:
    pictures, texts = _pictures(2), ["a dog", TEXT + " in the snow of a long winter in the far north of Norway", "snow"]
    expected = torch.empty(2, 3)
    for i, picture in enumerate(pictures):
        for t, text in enumerate(texts):
            with torch.no_grad():
                image, words = _states(model, picture, text)
                expected[i, t] = model.network.match_logits(image.start, words.start, words.mask).softmax(dim=1)[0, 1]
    torch.testing.assert_close(model.match(pictures, texts), expected, rtol=0, atol=TERNARY)


def _states(model: BitGen, picture: np.ndarray, text: str) -> tuple[Any, Any]:
    """Of one image and one text without padding."""
    squeezed = F.interpolate(
        torch.from_numpy(picture).permute(2, 0, 1)[None],
        (fakes.SIDE, fakes.SIDE),
        mode="bicubic",
        align_corners=False,
        antialias=True,
    )
    ids = torch.tensor([shared_tokenizer().ids(text)])
    return model.network.encode_image(squeezed), model.network.encode_text(ids, torch.ones_like(ids, dtype=torch.bool))


@pytest.mark.parametrize(("ternary", "tolerance"), [(True, TERNARY), (False, EXACT)])
def test_an_image_hardly_depends_on_those_beside_it(ternary: bool, tolerance: float) -> None:
    model, pictures = _model(ternary), _pictures(7)
    alone = torch.stack([model.encode_image(picture) for picture in pictures])
    torch.testing.assert_close(model.encode_image(pictures), alone, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("ternary", "tolerance"), [(True, TERNARY), (False, EXACT)])
def test_a_text_hardly_depends_on_those_beside_it(ternary: bool, tolerance: float) -> None:
    model, texts = _model(ternary), ["a dog", "snow", "the " * 40, TEXT, "the " * 90]
    alone = torch.stack([model.encode_text(text) for text in texts])
    torch.testing.assert_close(model.encode_text(texts), alone, rtol=0, atol=tolerance)


def test_more_images_than_fit_at_once_stay_in_order(model: BitGen) -> None:
    pictures = [np.full((8, 8, 3), 7 * i, np.uint8) for i in range(IMAGES + 3)]
    found = model.encode_image(pictures)
    torch.testing.assert_close(found[-1], model.encode_image(pictures[-1]), rtol=0, atol=TERNARY)
    assert found.shape == (IMAGES + 3, fakes.WIDTH)


def test_asking_again_gives_the_same_bits(model: BitGen) -> None:
    pictures = _pictures(3)
    first, second = (model.match(pictures, ["a dog", TEXT]) for _ in range(2))
    assert first.equal(second)


def test_autocast_around_a_call_changes_nothing(model: BitGen) -> None:
    picture = _pictures(1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = model.encode_image(picture)
    assert found.equal(model.encode_image(picture))


def test_a_probe_can_be_trained_on_vectors(model: BitGen) -> None:
    probe = torch.nn.Linear(fakes.WIDTH, 1)
    probe(model.encode_image(_pictures(2))).sum().backward()
    assert probe.weight.grad is not None


def test_a_caption_is_what_the_network_writes(model: BitGen) -> None:
    picture = _pictures(1)[0]
    with torch.no_grad():
        ids = model.network.caption(_states(model, picture, "x")[0], 5)
    assert model.caption(picture, max_tokens=5) == shared_tokenizer().decode(ids[0]).strip()


def test_captions_of_a_list_are_a_list(model: BitGen) -> None:
    found = model.caption(_pictures(2), max_tokens=3)
    assert [type(caption) for caption in found] == [str, str]


def _same(found: Grounding, expected: Grounding) -> None:
    assert found.phrase == expected.phrase
    assert found.box == pytest.approx(expected.box, abs=0.1)
    torch.testing.assert_close(found.heat, expected.heat, rtol=0, atol=TERNARY)
    assert found.score == pytest.approx(expected.score, abs=TERNARY)


def test_phrases_of_a_text_asked_together_are_as_one_by_one(model: BitGen) -> None:
    picture, phrases = _pictures(1)[0], ["a man", "a red tram", "beside"]
    for found, phrase in zip(model.ground(picture, TEXT, phrases), phrases, strict=True):
        _same(found, model.ground(picture, TEXT, [phrase])[0])


def test_texts_of_many_lengths_asked_together_are_as_one_by_one(model: BitGen) -> None:
    picture, texts = _pictures(1)[0], ["a dog", "the tram " * 20, TEXT, "snow"]
    for found, text in zip(model.ground(picture, texts), texts, strict=True):
        _same(found, model.ground(picture, text))


def test_images_with_their_texts_and_phrases_are_as_one_by_one(model: BitGen) -> None:
    pictures, other = _pictures(3), "a dog on a sofa"
    found = model.ground(
        pictures, [TEXT, [other, TEXT], other], [["a man", "a red tram"], [["a dog"], ["a man"]], None]
    )
    for each, phrase in zip(found[0], ["a man", "a red tram"], strict=True):
        _same(each, model.ground(pictures[0], TEXT, [phrase])[0])
    _same(found[1][0][0], model.ground(pictures[1], other, ["a dog"])[0])
    _same(found[1][1][0], model.ground(pictures[1], TEXT, ["a man"])[0])
    _same(found[2], model.ground(pictures[2], other))


def test_all_that_is_asked_of_an_image_takes_one_vision_pass(model: BitGen) -> None:
    seen = []
    with model.network.vision.register_forward_pre_hook(lambda _, images: seen.append(len(images[0]))):
        model.ground(_pictures(1)[0], [TEXT, "a dog"], [["a man", "a red tram"], ["dog"]])
    assert seen == [1]


def test_a_grounding_is_that_of_the_network(model: BitGen) -> None:
    picture = _pictures(1)[0]
    image, text = _states(model, picture, TEXT)
    zero = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        expected = model.network.ground(image, text, zero, zero, zero, torch.tensor([[4, 7]]), 1)
    found = model.ground(picture, TEXT, ["a red tram"])[0]
    height, width = picture.shape[:2]
    assert found.box == pytest.approx((expected.boxes[0] * torch.tensor([width, height] * 2)).tolist(), abs=0.1)
    torch.testing.assert_close(found.heat.flatten(), expected.heat[0].sigmoid(), rtol=0, atol=TERNARY)
    assert found.score == pytest.approx(expected.heat[0].sigmoid().max().item(), abs=TERNARY)


def _answering(box: Box) -> BitGen:
    """A model whose head is set by hand to give one box, in fractions of what it sees."""
    model = _model()
    centre = torch.tensor([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, box.x1 - box.x0, box.y1 - box.y0])
    last: Any = model.network.grounding.box[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(centre.logit())
    return model


@pytest.mark.parametrize(("width", "height"), [(120, 40), (30, 90), (50, 50)])
def test_a_box_that_went_into_the_model_comes_back_in_the_pixels_of_the_image(width: int, height: int) -> None:
    pixels = np.array([[0.2 * width, 0.1 * height, 0.5 * width, 0.9 * height]])
    moved, _ = move_boxes(pixels / [width, height, width, height], np.array([0.0, 0.0, 1.0, 1.0]))
    found = _answering(Box(*moved[0])).ground(Image.new("RGB", (width, height)), "a tram").box
    assert found == pytest.approx(pixels[0], abs=1e-3)


def test_a_box_of_a_turned_photograph_is_in_its_own_pixels() -> None:
    photograph = Image.new("RGB", (80, 40))  # stored lying: upright it is 40 x 80
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.info["exif"] = exif.tobytes()
    found = _answering(Box(0.25, 0.0, 0.5, 0.25)).ground(photograph, "a tram").box
    # Upright pixels (10, 0)-(20, 20); upright x is 40 - y as stored, upright y is x as stored.
    assert found == pytest.approx((0, 20, 20, 30), abs=1e-3)


def _lights(model: BitGen) -> BitGen:
    """The same model set by hand to find bright patches: each is seen for itself, and the head asks for what is bright."""
    network: Any = model.network
    for layer in network.vision.backbone.modules():
        if hasattr(layer, "lambda1"):
            torch.nn.init.zeros_(layer.lambda1)
    torch.nn.init.zeros_(network.vision.backbone.embeddings.position_embeddings)
    for layer in network.image_layers:
        for linear in (layer.attention.output, layer.feed_forward.down):
            torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(layer.gate)
    torch.nn.init.constant_(network.compressor.layers[-1].weight, 30.0)  # drowns the positions
    white, black = (
        network.encode_image(torch.full((1, 3, 56, 56), v, dtype=torch.uint8)).dual.mean(1) for v in (255, 0)
    )
    head = network.grounding
    torch.nn.init.zeros_(head.heat_query.weight)
    head.heat_query.bias.copy_((white - black)[0])
    torch.nn.init.eye_(head.heat_patch.weight)
    torch.nn.init.zeros_(head.heat_patch.bias)
    return model


@torch.no_grad()
@pytest.mark.parametrize(("row", "column"), [(0, 3), (3, 0), (1, 2)])
def test_a_heat_map_has_rows_before_columns(row: int, column: int) -> None:
    photograph = np.zeros((40, 120, 3), np.uint8)
    photograph[10 * row : 10 * row + 10, 30 * column : 30 * column + 30] = 255
    heat = _lights(_model()).ground(photograph, "a light").heat
    assert heat.shape == (4, 4)
    assert divmod(int(heat.argmax()), 4) == (row, column)


@torch.no_grad()
def test_a_heat_map_of_a_turned_photograph_is_turned_with_it() -> None:
    stored = np.zeros((40, 120, 3), np.uint8)
    stored[0:10, 90:120] = 255
    photograph = Image.fromarray(stored)
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.info["exif"] = exif.tobytes()
    heat = _lights(_model()).ground(photograph, "a light").heat
    assert divmod(int(heat.argmax()), 4) == (0, 3)


WRONG: list[tuple[Any, str]] = [
    (lambda m, p: m.encode_image([]), "expected one image or more, found an empty list"),
    (lambda m, p: m.encode_text(()), "expected one text or more, found an empty tuple"),
    (lambda m, p: m.encode_text(""), "expected a text with words, found ''"),
    (lambda m, p: m.encode_text(["a dog", 3]), "expected a text as a string, found int"),
    (lambda m, p: m.encode_image([p, None]), "expected an image: .* found NoneType"),
    (lambda m, p: m.match(p, []), "expected one text or more"),
    (lambda m, p: m.ground(p, TEXT, ["a cat"]), "expected a phrase that stands in '.*', found 'a cat'"),
    (lambda m, p: m.ground([p, p], ["a dog"]), "expected a list with one text for each of 2, found 1"),
    (lambda m, p: m.ground([p], "a dog"), "expected a list with one text for each of 1, found str"),
    (lambda m, p: m.ground(p, [TEXT, TEXT], [["a man"]]), "expected a list with one list of phrases for each of 2"),
    (lambda m, p: m.remember(p, " "), "expected a text with words, found ' '"),
    (lambda m, p: m.forget("Rex"), "expected a remembered name, none so far; found 'Rex'"),
]


@pytest.mark.parametrize(("ask", "message"), WRONG)
def test_wrong_input_is_refused_in_words(model: BitGen, ask: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(model, _pictures(1)[0])


def test_the_image_that_is_wrong_is_named(model: BitGen) -> None:
    with pytest.raises(InputError) as raised:
        model.encode_image([*_pictures(1), np.zeros((4, 4, 3))])  # pyright: ignore
    assert raised.value.__notes__ == ["image 1 of 2, counted from 0"]


def test_an_image_is_remembered_by_its_name() -> None:
    model, pictures = _model(), _pictures(3)
    for picture, name in zip(pictures, ["my dog Rex", "the sofa", "a tram"], strict=True):
        model.remember(picture, name)
    assert [found.name for found in model.recall(pictures)] == ["my dog Rex", "the sofa", "a tram"]


def test_an_empty_memory_says_so(model: BitGen) -> None:
    found = model.recall(_pictures(1)[0])
    assert (found.name, found.confidence, found.names, found.familiarity) == (None, 0.0, {}, 0.0)


def test_what_is_forgotten_is_as_if_it_had_never_been_remembered() -> None:
    model, other, pictures = _model(), _model(), _pictures(4)
    for each, names in ((model, ("Rex", "a sofa", "a tram")), (other, ("Rex", "a tram"))):
        for name, picture in zip(("Rex", "a sofa", "a tram"), pictures, strict=False):
            if name in names:
                each.remember(picture, name)
    model.forget("a sofa")
    for found, expected in zip(model.recall(pictures), other.recall(pictures), strict=True):
        assert found.names == pytest.approx(expected.names, abs=1e-4)
        assert found.familiarity == pytest.approx(expected.familiarity, abs=1e-5)
    assert model.names == ("Rex", "a tram")


def test_several_images_of_a_name_are_remembered_alike_at_once_and_one_by_one() -> None:
    model, other, pictures = _model(), _model(), _pictures(3)
    model.remember(pictures[:2], "Rex")
    for picture in pictures[:2]:
        other.remember(picture, "Rex")
    for found, expected in zip(model.recall(pictures), other.recall(pictures), strict=True):
        assert found.familiarity == pytest.approx(expected.familiarity, abs=1e-3)


def test_importing_the_class_is_what_imports_torch(said: list[str]) -> None:
    assert said[:2] == ["False", "True"]
