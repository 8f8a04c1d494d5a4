"""Captions of a whole model: the decoder sees what training showed it."""

import pytest
import torch
from torch import Tensor

from bitgen.batch import Batch
from bitgen.model.bitgen import BitGen, ImageStates
from bitgen.model.memory import Reading
from bitgen.objectives.memory import Recall, recall_episodes
from bitgen.tokens import EOT
from tests import fakes

N = fakes.PATCHES
HALVES = torch.arange(N).expand(6, -1) % 2 == 0
"""Even patches are written, odd ones asked with."""


WORDS = 30
"""Tokens whose embeddings are large, so that one of them is always the likeliest next one and others hardly count."""


def _model(ternary: bool = False) -> BitGen:
    model = fakes.model(ternary=ternary)
    with torch.no_grad():
        model.text.token.weight[:WORDS] = 2 * fakes.unit(WORDS)
        torch.nn.init.normal_(model.decoder.position.weight)  # else the first token would be repeated to the end
        for name, weight in model.decoder.named_parameters():
            if name.endswith("cross_attention.query.weight"):
                weight.mul_(6)  # one context state counts for much more than its share of 17
    return model


def _image() -> ImageStates:
    """Six images; those of an untrained tower would all be alike."""
    states = fakes.noise(6, N, fakes.WIDTH)
    return ImageStates(states, states, states.mean(dim=1), fakes.unit(6))


def _trained_context(model: BitGen, batch: Batch, takes_part: bool) -> Recall:
    """The very path of training, of 6 images that all take part in an episode or all do not."""
    text = model.encode_text(batch.token_ids, batch.token_mask)
    part = torch.full((6,), takes_part)
    return recall_episodes(
        model, _image(), text, batch.first_text, batch.second_text, batch.image_ids, part, HALVES, 6, 6
    )


def _read(model: BitGen, batch: Batch, image: ImageStates, written: bool) -> Reading:
    """What images recall of a memory that holds them all, or nothing, as training writes and asks."""
    codes = model.encode_text(batch.token_ids, batch.token_mask).code[batch.first_text]
    state = model.memory.empty(1)
    if written:
        keys = model.image_pool(image.dual, HALVES)[None]
        state = model.memory.write(state, keys, codes[None], torch.ones(1, 6, dtype=torch.bool))
    return model.memory.read(state, model.image_pool(image.dual, ~HALVES)[None])


def _slow_caption(model: BitGen, context: Tensor, mask: Tensor, most: int) -> list[int]:
    """One image: whole prefixes go through the decoder, under the mask that training gives it."""
    ids = [EOT]
    while len(ids) <= most:
        state = model.decoder(torch.tensor([ids]), model.text.token, context[None], mask[None])[0, -1]
        likeliest = int((state.double() @ model.text.token.weight.double().T).argmax())
        if likeliest == EOT:
            break
        ids.append(likeliest)
    return ids[1:]


@torch.no_grad()
def test_a_caption_is_decoded_from_what_training_shows_of_an_empty_memory() -> None:
    model, batch = _model(), fakes.fake_batch(6)
    recall = _trained_context(model, batch, takes_part=False)
    expected = [_slow_caption(model, *row, 8) for row in zip(recall.context, recall.context_mask, strict=True)]
    assert model.caption(_image(), 8) == expected
    assert len({tuple(row) for row in expected}) > 3


@torch.no_grad()
def test_a_caption_is_decoded_from_the_reading_too() -> None:
    model, batch = _model(), fakes.fake_batch(6)
    image = _image()
    recall = _trained_context(model, batch, takes_part=True)
    visible = torch.ones_like(recall.context_mask)  # training hides the half that was written
    expected = [_slow_caption(model, *row, 8) for row in zip(recall.context, visible, strict=True)]
    found = model.caption(image, 8, reading=_read(model, batch, image, written=True))
    assert found == expected
    assert found != model.caption(image, 8)


@torch.no_grad()
def test_a_reading_is_the_token_that_training_makes_of_it() -> None:
    model, batch = _model(), fakes.fake_batch(6)
    image = _image()
    context, mask = model.caption_context(image, _read(model, batch, image, written=True))
    torch.testing.assert_close(context, _trained_context(model, batch, takes_part=True).context, rtol=0, atol=1e-6)
    assert mask is not None
    assert mask.all()


@torch.no_grad()
def test_a_reading_of_an_empty_memory_is_hidden_as_in_training() -> None:
    model, batch = _model(), fakes.fake_batch(6)
    image = _image()
    context, mask = model.caption_context(image, _read(model, batch, image, written=False))
    recall = _trained_context(model, batch, takes_part=False)
    assert mask is not None
    assert mask.equal(recall.context_mask)
    torch.testing.assert_close(context, recall.context, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("ternary", [False, True])
def test_a_hidden_reading_is_as_none_at_every_state(ternary: bool) -> None:
    model, batch = _model(ternary), fakes.fake_batch(6)
    image, ids = _image(), batch.token_ids[batch.first_text]
    hidden = model.decoder(ids, model.text.token, *model.caption_context(image, _read(model, batch, image, False)))
    none = model.decoder(ids, model.text.token, *model.caption_context(image))
    # Ternary: another order of sums may move an activation to the next of its 255 codes (test_decoder.py).
    assert (hidden - none).abs().max() < (0.05 if ternary else 1e-5)
    assert (hidden - none).abs().amax(dim=2).median() < 1e-5


@torch.no_grad()
def test_readings_may_come_of_several_memories() -> None:
    model, batch = _model(), fakes.fake_batch(6)
    image = _image()
    reading = _read(model, batch, image, written=True)
    split = Reading(*(part.unflatten(1, (3, 2))[0] for part in reading))
    assert model.caption(image, 4, reading=split) == model.caption(image, 4, reading=reading)


@torch.no_grad()
def test_more_beams_find_captions_at_least_as_likely() -> None:
    model, image = _model(), _image()
    greedy, wide = model.caption(image, 4), model.caption(image, 4, beams=8, length_penalty=0.0)
    assert wide != greedy
    assert all(_log_p(model, image, wide, row) >= _log_p(model, image, greedy, row) - 1e-4 for row in range(6))


def _log_p(model: BitGen, image: ImageStates, captions: list[list[int]], row: int) -> float:
    """Of one caption, and of the end behind it unless it was cut at 4 tokens."""
    ids = [EOT, *captions[row], EOT][:5]
    states = model.decoder(torch.tensor([ids]), model.text.token, image.dual[row : row + 1])[0, :-1]
    logits = states.double() @ model.text.token.weight.double().T
    return float(logits.log_softmax(dim=1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum())


@torch.no_grad()
def test_readings_of_other_images_are_refused() -> None:
    model, batch = _model(), fakes.fake_batch(6)
    image = _image()
    reading = _read(model, batch, image, written=True)
    with pytest.raises(ValueError, match="expected a reading for each of 6 images, came 5"):
        model.caption(image, reading=Reading(*(part[:, :5] for part in reading)))


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="expected max_tokens of 256 at most, came 257"):
        _model().caption(_image(), 257)
