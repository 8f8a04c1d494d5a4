"""Padding never changes a result: the same texts in wider rows, and beside longer texts, in every output of the model.

The states of a text differ in the last digit, because the softmax over a wider row adds in another order.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from bitgen.batch import Batch
from bitgen.model.bitgen import BitGen
from bitgen.objectives.captioning import next_token_loss
from bitgen.objectives.total import Objective, draw
from bitgen.tokens import EOT
from tests import fakes

TEXTS = 4
NAMES = ("embedding", "code", "states", "fused patches", "fused states", "match", "box", "heat", "caption")
VARIANTS = pytest.mark.parametrize(
    "fields", [{}, {"ternary": False}, {"fusion": "concat"}, {"text_pooling": "end"}], ids=str
)
TOLERANCE = 1e-5


def _model(fields: dict[str, object]) -> BitGen:
    model = fakes.model(**fields)
    for gate in model.gates().values():
        nn.init.constant_(gate, 0.7)
    return model


def _widened(batch: Batch, tokens: int) -> Batch:
    more = (0, tokens - batch.token_ids.shape[1])
    ids, mask = pad(batch.token_ids, more, value=EOT), pad(batch.token_mask, more)
    return Batch(**{**batch.__dict__, "token_ids": ids, "token_mask": mask})


def _beside_longer(batch: Batch) -> Batch:
    """The texts of `batch` in rows of 64, and behind them as many of 40 tokens, about the same images."""
    wide, longer = _widened(batch, 64), fakes.fake_batch(2, tokens=64, seed=1)
    mask = (torch.arange(64) < 40).expand(TEXTS, -1)
    ids = longer.token_ids.masked_fill(~mask, EOT)
    changed = {
        "token_ids": torch.cat([wide.token_ids, ids]),
        "token_mask": torch.cat([wide.token_mask, mask]),
        "text_image": torch.cat([batch.text_image, batch.text_image]),
    }
    return Batch(**{**batch.__dict__, **changed})


@torch.no_grad()
def _outputs(model: BitGen, batch: Batch) -> dict[str, Tensor]:
    """What the model says of the first `TEXTS` texts, by `NAMES`; of padding it says nothing."""
    image, text = model.encode_image(batch.images), model.encode_text(batch.token_ids, batch.token_mask)
    patches, states = model.fuse(image.start[batch.text_image], text.start, text.mask)
    places = (batch.text_image, batch.phrase_text, batch.phrase_slot, batch.phrase_tokens)
    grounded = model.ground(image, text, *places, batch.max_slots)
    match = model.match(image, text, batch.text_image, torch.arange(len(batch.text_image)))
    decoded = model.decoder(batch.token_ids, model.text.token, image.dual[batch.text_image])
    ids, mask = batch.token_ids[:TEXTS], batch.token_mask[:TEXTS]
    caption = next_token_loss(decoded[:TEXTS], model.text.token.weight, ids, mask, 0.1)
    found = (
        text.embedding[:TEXTS],
        text.code[:TEXTS],
        text.dual[:TEXTS][mask],
        patches[:TEXTS],
        states[:TEXTS][mask],
        match[:TEXTS],
        grounded.centres,
        grounded.heat,
        caption / mask[:, 1:].sum(),
    )
    return dict(zip(NAMES, found, strict=True))


def _differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """The largest by name, of those above the tolerance."""
    largest = {name: (one[name] - other[name]).abs().max().item() for name in one}
    return {
        name: value for name, value in largest.items() if not value <= TOLERANCE
    }  # NaN is no difference to pass over


@VARIANTS
@pytest.mark.parametrize("tokens", [32, 64])
def test_no_output_changes_with_the_bucket(fields: dict[str, object], tokens: int) -> None:
    model, batch = _model(fields), fakes.fake_batch(2, tokens=16)
    assert _differences(_outputs(model, batch), _outputs(model, _widened(batch, tokens))) == {}


@VARIANTS
def test_no_output_changes_beside_longer_texts(fields: dict[str, object]) -> None:
    model, batch = _model(fields), fakes.fake_batch(2, tokens=16)
    assert _differences(_outputs(model, batch), _outputs(model, _beside_longer(batch))) == {}


@VARIANTS
def test_what_stands_in_the_padding_changes_no_bit_of_an_output(fields: dict[str, object]) -> None:
    model, batch = _model(fields), fakes.fake_batch(2, tokens=32)
    other = Batch(**{**batch.__dict__, "token_ids": torch.where(batch.token_mask, batch.token_ids, 7)})
    before, after = _outputs(model, batch), _outputs(model, other)
    assert [name for name in NAMES if not before[name].equal(after[name])] == []


@pytest.mark.parametrize("phase", ["coarse", "fine"])
@pytest.mark.parametrize("pooling", ["mean", "end"])
def test_no_loss_and_no_gradient_changes_with_the_bucket(phase: str, pooling: str) -> None:
    found = []
    for tokens in (16, 64):
        config = fakes.config(phase, model={"text_pooling": pooling})  # pyright: ignore[reportArgumentType]
        objective = Objective(_model({"text_pooling": pooling}), config.loss)
        draws = draw(0, 0, 4, fakes.PATCHES, torch.device("cpu"))
        parts = objective(_widened(fakes.fake_batch(4), tokens), draws)
        parts["loss"].backward()
        gradients = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
        found.append({name: value.detach() for name, value in parts.items()} | gradients)
    assert found[0].keys() == found[1].keys()
    assert _differences(*found) == {}
