"""ITM against float64 NumPy, from start states to the loss: negatives of the batch, and of it and a queue."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitgen.model.bitgen import BitGen, ImageStates, TextStates
from bitgen.objectives.matching import image_text_matching
from bitgen.objectives.token_queue import Pairs, TokenQueue
from tests import fakes

Array = NDArray[np.float64]
B, L, WIDEST = 4, 12, 16
"""Images of the batch, token positions of its bucket and of the queue's."""
LENGTHS = (5, 12, 7, 9)
SCALE = 3.0


def _array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def _gelu(x: Array) -> Array:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def _linear(x: Array, layer: Any) -> Array:
    return x @ _array(layer.weight).T + _array(layer.bias)


def _bit_linear(x: Array, layer: Any) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) @ _array(layer.weight).T


def _attention(states: Array, context: Array, layer: Any) -> Array:
    query, both = _bit_linear(states, layer.query), _bit_linear(context, layer.key_value)
    key, value = np.split(both, 2, axis=1)
    mixed = []
    for q, k, v in zip(*(np.split(part, layer.heads, axis=1) for part in (query, key, value)), strict=True):
        weights = np.exp(q @ k.T / math.sqrt(q.shape[1]))
        mixed.append(weights / weights.sum(axis=1, keepdims=True) @ v)
    return _bit_linear(np.concatenate(mixed, axis=1), layer.output)


def _layer(states: Array, context: Array, layer: Any) -> Array:
    attended = _attention(states, states, layer.attention)
    states = states + attended + float(layer.gate) * _attention(attended, context, layer.cross_attention)
    return states + _bit_linear(_gelu(_bit_linear(states, layer.feed_forward.up)), layer.feed_forward.down)


def _norm(x: Array, layer: nn.LayerNorm) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps)
    return scaled * _array(layer.weight) + _array(layer.bias)


def _match_logits(model: BitGen, image: Array, text: Array) -> Array:
    """[2] of an image [N, d] and a text [l, d] without padding."""
    for image_layer, text_layer in zip(model.image_layers, model.text.fused_layers, strict=True):
        image, text = _layer(image, text, image_layer), _layer(text, image, text_layer)
    image, text = _norm(image, model.image_norm), _norm(text, model.text.norm)
    pooled = [_linear(image.mean(axis=0), model.match_image), _linear(text.mean(axis=0), model.match_text)]
    return _linear(np.tanh(np.concatenate(pooled)), model.match_head)


class _Side:
    """Candidates of one side: states without padding, unit embeddings, photographs, and who may be drawn."""

    def __init__(self) -> None:
        self.states: list[Array] = []
        self.embeddings: list[Array] = []
        self.ids: list[int] = []

    def add(self, states: Array, embedding: Array, id_: int) -> None:
        self.states.append(states)
        self.embeddings.append(embedding)
        self.ids.append(id_)

    def draw(self, query: Array, id_: int, uniform: float) -> int | None:
        """The first candidate of another photograph whose cumulative softmax share exceeds the draw; None without one."""
        others = [c for c, other in enumerate(self.ids) if other != id_]
        weights = [math.exp(SCALE * float(query @ self.embeddings[c])) for c in others]
        reached = 0.0
        for c, weight in zip(others, weights, strict=True):
            reached += weight / sum(weights)
            if reached > uniform:
                return c
        return None


def _slow(model: BitGen, batch: Pairs, past: list[Pairs], uniform: Tensor) -> float:
    """The loss of `batch` after what `past` holds, pair by pair; texts longer than the batch's bucket never come up."""
    images, texts = _Side(), _Side()
    for pairs in [batch, *past]:
        for i, length in enumerate(pairs.text_mask.sum(dim=1).tolist()):
            stored = (
                pairs
                if pairs is batch
                else pairs._replace(
                    image_states=pairs.image_states.bfloat16(), text_states=pairs.text_states.bfloat16()
                )
            )
            images.add(_array(stored.image_states[i]), _array(pairs.image_embeddings[i]), int(pairs.image_ids[i]))
            if length <= L:
                text = _array(stored.text_states[i, :length])
                texts.add(text, _array(pairs.text_embeddings[i]), int(pairs.image_ids[i]))
    losses = []
    for i in range(B):
        id_, own_image, own_text = images.ids[i], images.embeddings[i], texts.embeddings[i]
        wrong_text = texts.draw(own_image, id_, float(uniform[i, 0]))
        wrong_image = images.draw(own_text, id_, float(uniform[i, 1]))
        pairs_of_row = [(i, i, 1)]
        pairs_of_row += [] if wrong_text is None else [(i, wrong_text, 0)]
        pairs_of_row += [] if wrong_image is None else [(wrong_image, i, 0)]
        for image, text, label in pairs_of_row:
            logits = _match_logits(model, images.states[image], texts.states[text])
            losses.append(math.log(np.exp(logits).sum()) - logits[label])
    return sum(losses) / len(losses)


def _pairs(ids: list[int], lengths: tuple[int, ...], tokens: int, seed: int) -> Pairs:
    """Noise in the shape of start states, padding included."""
    count, d = len(ids), fakes.WIDTH
    mask = torch.arange(tokens) < torch.tensor(lengths)[:, None]
    states = fakes.noise(count, fakes.PATCHES, d, seed=seed), fakes.noise(count, tokens, d, seed=seed + 1)
    return Pairs(*states, mask, fakes.unit(count, seed=seed + 2), fakes.unit(count, seed=seed + 3), torch.tensor(ids))


def _model() -> BitGen:
    model = fakes.model(ternary=False)
    for gate in model.gates().values():
        nn.init.constant_(gate, 0.5)
    return model


def _loss(model: BitGen, batch: Pairs, queue: TokenQueue | None, uniform: Tensor) -> Tensor:
    nothing = torch.zeros(())
    image = ImageStates(batch.image_states, nothing, nothing, batch.image_embeddings)
    text = TextStates(batch.text_states, nothing, nothing, batch.text_embeddings, batch.text_mask)
    rows = torch.arange(len(batch.image_ids))
    return image_text_matching(model, image, text, rows, batch.image_ids, torch.tensor(SCALE), uniform, queue)


def _queue(past: list[Pairs], size: int = 9) -> TokenQueue:
    queue = TokenQueue(size, fakes.PATCHES, WIDEST, fakes.WIDTH)
    for pairs in past:
        queue.enqueue(pairs)
    return queue


def _uniform(seed: int) -> Tensor:
    return torch.rand(B, 2, generator=torch.Generator().manual_seed(seed))


def _past() -> list[Pairs]:
    """Seven entries of nine slots: two photographs that the batch shows too, two texts that are longer than its bucket."""
    first = _pairs([11, 2, 13], (4, 6, 16), WIDEST, seed=20)
    return [first, _pairs([14, 15, 4, 17], (9, 13, 3, 12), WIDEST, seed=30)]


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ids", [[1, 2, 3, 4], [1, 2, 1, 4], [7, 7, 7, 7], [14, 14, 3, 14]])
@pytest.mark.parametrize("past", [[], _past()], ids=["batch", "queue"])
def test_itm_is_that_of_float64_loops(ids: list[int], past: list[Pairs], seed: int) -> None:
    model, batch, uniform = _model(), _pairs(ids, LENGTHS, L, seed=40), _uniform(seed)
    expected = _slow(model, batch, past, uniform)
    assert _loss(model, batch, _queue(past), uniform).item() == pytest.approx(expected, abs=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, 0.75, 1 - 2**-24])
def test_where_the_batch_has_no_negative_every_draw_is_of_the_queue(uniform: float) -> None:
    model, batch, draws = _model(), _pairs([7] * B, LENGTHS, L, seed=40), torch.full((B, 2), uniform)
    expected = _slow(model, batch, _past(), draws)
    assert _loss(model, batch, _queue(_past()), draws).item() == pytest.approx(expected, abs=2e-5)


@torch.no_grad()
def test_an_empty_queue_changes_nothing() -> None:
    model, batch = _model(), _pairs([1, 2, 3, 4], LENGTHS, L, seed=40)
    assert _loss(model, batch, _queue([]), _uniform(0)).equal(_loss(model, batch, None, _uniform(0)))


@torch.no_grad()
def test_a_row_without_a_negative_anywhere_drops_out() -> None:
    model, batch = _model(), _pairs([7] * B, LENGTHS, L, seed=40)
    past = [_pairs([7, 7], (4, 5), WIDEST, seed=20)]
    expected = _slow(model, batch, [], _uniform(0))
    assert _loss(model, batch, _queue(past), _uniform(0)).item() == pytest.approx(expected, abs=2e-5)


@torch.no_grad()
def test_a_row_drops_out_of_one_direction_only_where_no_text_fits() -> None:
    model, batch = _model(), _pairs([7] * B, LENGTHS, L, seed=40)
    past = [_pairs([8, 9], (13, 16), WIDEST, seed=20)]
    expected = _slow(model, batch, past, _uniform(0))  # of 4 positives and 4 wrong images
    assert _loss(model, batch, _queue(past), _uniform(0)).item() == pytest.approx(expected, abs=2e-5)


@torch.no_grad()
def test_the_pairs_of_a_step_enter_the_queue_after_its_loss() -> None:
    batch, queue = _pairs([1, 2, 3, 4], LENGTHS, L, seed=40), _queue([])
    _loss(_model(), batch, queue, _uniform(0))
    found = queue.entries(L)
    assert found.image_ids[:B].equal(batch.image_ids)
    assert found.text_embeddings[:B].equal(batch.text_embeddings)
    assert found.text_states[:B].equal(batch.text_states.bfloat16())


def test_states_of_the_batch_get_a_gradient_as_if_those_of_the_queue_were_constants() -> None:
    model, past = _model(), _pairs([11], (6,), WIDEST, seed=20)
    batch = _pairs([7] * B, LENGTHS, L, seed=40)  # every negative is the queue's only entry
    image, text = batch.image_states.requires_grad_(), batch.text_states.requires_grad_()
    found = torch.autograd.grad(_loss(model, batch, _queue([past]), _uniform(0)), (image, text))
    old_image = past.image_states.bfloat16().float().expand(B, -1, -1)
    old_text = past.text_states.bfloat16().float()[:, :L].expand(B, -1, -1)
    old_mask = past.text_mask[:, :L].expand(B, -1)
    logits = [
        model.match_logits(image, text, batch.text_mask),
        model.match_logits(image, old_text, old_mask),
        model.match_logits(old_image, text, batch.text_mask),
    ]
    losses = [nn.functional.cross_entropy(each, torch.full((B,), int(i == 0))) for i, each in enumerate(logits)]
    expected = torch.autograd.grad(sum(losses) / 3, (image, text))  # pyright: ignore
    for mine, other in zip(found, expected, strict=True):
        assert other.abs().max() > 1e-4
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
