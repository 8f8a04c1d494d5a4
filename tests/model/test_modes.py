"""Training and evaluation are one graph: text, decoder and fusion give the same bits in both modes, under any grad mode."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from bitgen.model.bitgen import BitGen
from tests import fakes

GRAD_MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "with gradients": torch.enable_grad,
    "without": torch.no_grad,
    "inference mode": torch.inference_mode,
}


def _model(ternary: bool) -> BitGen:
    model = fakes.model(ternary=ternary)
    for gate in model.gates().values():
        nn.init.constant_(gate, 0.3)
    return model


def _states(model: BitGen, autocast: bool) -> dict[str, Tensor]:
    """What each part makes of a batch, by its name."""
    batch = fakes.fake_batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        image, text = model.encode_image(batch.images), model.encode_text(batch.token_ids, batch.token_mask)
        patches, words = model.fuse(image.start[batch.text_image], text.start, text.mask)
        decoded = model.decoder(batch.token_ids, model.text.token, image.dual[batch.text_image])
        return {
            "image": image.dual,
            "image embedding": image.embedding,
            "text": text.dual,
            "text embedding": text.embedding,
            "fused patches": patches,
            "fused words": words,
            "decoder": decoded,
            "match": model.match(image, text, batch.text_image, torch.arange(len(batch.token_ids))),
        }


@pytest.mark.parametrize("mode", GRAD_MODES.values(), ids=GRAD_MODES.keys())
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("ternary", [False, True], ids=["full", "ternary"])
def test_evaluation_computes_what_training_does_bit_for_bit(
    ternary: bool, autocast: bool, mode: Callable[[], AbstractContextManager[object]]
) -> None:
    model = _model(ternary)
    expected = _states(model.train(), autocast)
    with mode():
        found = _states(model.eval(), autocast)
    assert expected["decoder"].requires_grad
    assert [name for name in expected if not found[name].equal(expected[name])] == []
