"""An export answers what its checkpoint answers, through the calls that evaluation makes."""

from pathlib import Path

import pytest
import torch

from bitgen.deploy.export import export_graphs
from bitgen.deploy.exported import Exported
from bitgen.deploy.runtime import Runtime
from bitgen.deploy.unpack import load
from bitgen.model.bitgen import BitGen
from bitgen.tokens import EOT
from tests import fakes, packing

KEPT = (3, 500, 1000, EOT)
KINDS = {"all tokens": {}, "few tokens": {"vocabulary": len(KEPT), "kept": KEPT, "decoder_layers": 2}}
CLOSE = 0.03
"""What one code of an activation moves, as in test_export.py."""


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[BitGen, Exported]:
    """The torch model of a packed file, and its graphs."""
    folder = tmp_path_factory.mktemp("exported")
    packing.packed(folder, packing.model(**KINDS[request.param]))
    export_graphs(folder)
    return load(folder)[0], Exported(Runtime.open(folder, 1))


@torch.inference_mode()
def test_images_texts_and_their_matches_agree(both: tuple[BitGen, Exported]) -> None:
    torch_model, exported = both
    batch = fakes.fake_batch()
    image, other_image = (model.encode_image(batch.images) for model in both)
    text, other_text = (model.encode_text(batch.token_ids, batch.token_mask) for model in both)
    for name in ("start", "dual", "code", "embedding"):
        assert (getattr(image, name) - getattr(other_image, name)).abs().max() < CLOSE, name
    for name in ("start", "code", "embedding"):  # what is padding nobody asks for
        rows = batch.token_mask if name == "start" else slice(None)
        assert (getattr(text, name)[rows] - getattr(other_text, name)[rows]).abs().max() < CLOSE, name
    asked = image.start[batch.text_image], batch.token_ids, batch.token_mask
    odds = torch_model.match_tokens(*asked)
    assert (odds - exported.match_tokens(*asked)).abs().max() < CLOSE
    assert odds.std() > CLOSE  # so that pairs are told apart


@torch.inference_mode()
def test_boxes_and_heat_maps_agree(both: tuple[BitGen, Exported]) -> None:
    batch = fakes.fake_batch()
    found = []
    for model in both:
        image, text = model.encode_image(batch.images), model.encode_text(batch.token_ids, batch.token_mask)
        phrases = batch.phrase_text, batch.phrase_slot, batch.phrase_tokens, batch.max_slots
        found.append(model.ground(image, text, batch.text_image, *phrases))
    assert (found[0].boxes - found[1].boxes).abs().max() < CLOSE
    assert (found[0].heat - found[1].heat).abs().max() < CLOSE
    assert found[0].boxes.std(dim=0).min() > 1e-3


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_agree_word_for_word(both: tuple[BitGen, Exported], beams: int) -> None:
    images = fakes.fake_batch().images
    captions = [model.caption(model.encode_image(images), 6, beams) for model in both]
    assert captions[0] == captions[1]
    assert max(map(len, captions[0])) > 1


def test_a_caption_longer_than_positions_is_refused(both: tuple[BitGen, Exported]) -> None:
    states = both[1].encode_image(fakes.fake_batch().images)
    with pytest.raises(ValueError, match="expected max_tokens of 256 at most, came 257"):
        both[1].caption(states, 257)


def test_parameters_are_the_model_s_without_adapters(both: tuple[BitGen, Exported]) -> None:
    torch_model, exported = both
    named = torch_model.named_parameters()
    assert exported.parameters == sum(each.numel() for name, each in named if not name.endswith("mask_token"))


def test_a_folder_without_its_graphs_is_refused(tmp_path: Path) -> None:
    packing.packed(tmp_path, packing.model())
    with pytest.raises(Exception, match=r"expected image_encoder\.onnx, as bitgen-export --format onnx leaves it"):
        Exported.open(tmp_path)
