"""A phrase becomes a box and a heat-map."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitgen.model.grounding import Grounded, GroundingHead, span_means
from tests import fakes

D = fakes.WIDTH


def _head() -> GroundingHead:
    torch.manual_seed(0)
    return GroundingHead(D, 2, 24, layers=2)


def _ground(spans: list[tuple[int, int]], slots: int, shown: list[int] | None = None) -> Grounded:
    """The phrases `spans` of a text in slots `shown`, by default in order."""
    phrases = len(spans)
    numbers = torch.arange(phrases) if shown is None else torch.tensor(shown)
    patches, text = fakes.noise(1, 9, D), fakes.noise(1, 8, D, seed=1)
    return _head()(patches, text, torch.zeros(phrases, dtype=torch.int64), numbers, torch.tensor(spans), slots)


def test_a_span_becomes_the_mean_of_its_tokens() -> None:
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]], [[0.0, 1.0], [0.0, 3.0], [8.0, 8.0]]])
    spans = torch.tensor([[0, 2], [1, 3], [2, 3]])
    found = span_means(states, torch.tensor([0, 0, 1]), spans)
    assert found.tolist() == [[2.0, 3.0], [4.0, 6.5], [8.0, 8.0]]


def test_no_phrase_gives_no_mean() -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    assert span_means(fakes.noise(2, 3, D), nothing, nothing.view(0, 2)).shape == (0, D)


@torch.no_grad()
def test_a_phrase_does_not_depend_on_the_others_of_its_text() -> None:
    alone, together = _ground([(2, 4)], 1), _ground([(0, 1), (2, 4), (3, 8)], 3)
    torch.testing.assert_close(together.centres[1:2], alone.centres, rtol=0, atol=1e-6)
    torch.testing.assert_close(together.heat[1:2], alone.heat, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_phrase_does_not_depend_on_its_slot() -> None:
    first, last = _ground([(2, 4)], 5, [0]), _ground([(2, 4)], 5, [4])
    torch.testing.assert_close(first.centres, last.centres, rtol=0, atol=1e-6)
    torch.testing.assert_close(first.heat, last.heat, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_phrase_does_not_depend_on_the_other_texts() -> None:
    patches, text = fakes.noise(3, 9, D), fakes.noise(3, 8, D, seed=1)
    spans = torch.tensor([[0, 2], [1, 4], [3, 4]])
    every = torch.arange(3)
    together = _head()(patches, text, every, torch.tensor([0, 1, 0]), spans, 2)
    alone = _head()(patches[1:2], text[1:2], every[:1], every[:1], spans[1:2], 1)
    torch.testing.assert_close(together.centres[1:2], alone.centres, rtol=0, atol=1e-6)
    torch.testing.assert_close(together.heat[1:2], alone.heat, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_phrase_is_listened_to() -> None:
    found = _ground([(0, 2), (4, 8)], 2)
    assert (found.centres[0] - found.centres[1]).abs().max() > 1e-4
    assert (found.heat[0] - found.heat[1]).abs().max() > 1e-4


def test_no_phrase_gives_no_box() -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    head = _head()
    found = head(fakes.noise(2, 9, D), fakes.noise(2, 8, D), nothing, nothing, nothing.view(0, 2), 1)
    assert (found.boxes.shape, found.heat.shape) == ((0, 4), (0, 9))


@pytest.mark.parametrize(
    ("centre", "corners"),
    [((0.5, 0.5, 0.2, 0.4), (0.4, 0.3, 0.6, 0.7)), ((0.1, 0.9, 0.4, 0.4), (0.0, 0.7, 0.3, 1.0))],
)
def test_boxes_are_corners_within_the_image(centre: tuple[float, ...], corners: tuple[float, ...]) -> None:
    found: Tensor = Grounded(torch.tensor([centre]), torch.empty(1, 0)).boxes
    torch.testing.assert_close(found, torch.tensor([corners]))


def _plain(parameter: Tensor) -> np.ndarray:
    return parameter.detach().double().numpy()


def _linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ _plain(layer.weight).T + _plain(layer.bias)


def _bare(weight: Tensor, x: np.ndarray) -> np.ndarray:
    """A full-precision `BitLinear`: each token over its root mean square, then the weights."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) @ _plain(weight).T


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))))(x)


def _layer_norm(norm: nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm.eps)
    return normal * _plain(norm.weight) + _plain(norm.bias)


def _attended(attention: Any, query: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """What one query [d] takes from patches [N, d], head by head."""
    q, mixed = _bare(attention.query.weight, query), []
    both = _bare(attention.key_value.weight, patches)
    keys, values = both[:, : len(query)], both[:, len(query) :]
    size = len(query) // attention.heads
    for head in range(attention.heads):
        part = slice(head * size, (head + 1) * size)
        scores = np.array([q[part] @ key[part] for key in keys]) / math.sqrt(size)
        weights = np.exp(scores - scores.max())
        mixed.append(sum(w * v[part] for w, v in zip(weights / weights.sum(), values, strict=True)))
    return _bare(attention.output.weight, np.concatenate(mixed))


def _by_hand(head: GroundingHead, patches: np.ndarray, text: np.ndarray, span: tuple[int, int]) -> tuple[Any, Any]:
    """Centre form [4] and heat [N] of one phrase in float64, after TransVG's token and a dot product a patch."""
    query = _plain(head.regression) + np.mean([text[token] for token in range(*span)], axis=0)
    for attention, feed_forward in zip(head.cross_attention, head.feed_forward, strict=True):
        query = query + _attended(attention, query, patches)
        down: Any = feed_forward
        query = query + _bare(down.down.weight, _gelu(_bare(down.up.weight, query)))
    query = _layer_norm(head.norm, query)
    asked = _linear(head.heat_query, query)
    heat = [asked @ _linear(head.heat_patch, _layer_norm(head.patch_norm, patch)) for patch in patches]
    first, second, last = head.box[0], head.box[2], head.box[4]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    assert isinstance(last, nn.Linear)
    logits = _linear(last, _gelu(_linear(second, _gelu(_linear(first, query)))))
    return 1 / (1 + np.exp(-logits)), np.array(heat) / math.sqrt(len(query))


@torch.no_grad()
def test_the_whole_head_is_what_its_description_computes_in_float64() -> None:
    torch.manual_seed(1)
    head = _head()
    for parameter in head.parameters():  # norms and biases away from 1 and 0
        parameter.add_(torch.randn_like(parameter) * 0.2)
    patches, text = fakes.noise(3, 9, D), fakes.noise(3, 8, D, seed=1)
    rows, slots, spans = [0, 0, 0, 1, 2, 2], [0, 1, 2, 0, 0, 1], [(0, 1), (2, 4), (3, 8), (1, 7), (0, 8), (5, 6)]
    found = head(patches, text, torch.tensor(rows), torch.tensor(slots), torch.tensor(spans), 3)
    for p, (row, span) in enumerate(zip(rows, spans, strict=True)):
        centre, heat = _by_hand(head, _plain(patches[row]), _plain(text[row]), span)
        np.testing.assert_allclose(found.centres[p].numpy(), centre, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.heat[p].numpy(), heat, rtol=0, atol=1e-4)


@torch.no_grad()
def test_heat_maps_before_each_layer_are_for_training_and_the_first_one_has_looked_at_nothing() -> None:
    one = torch.zeros(1, dtype=torch.int64)
    inputs = fakes.noise(1, 9, D), fakes.noise(1, 8, D, seed=1), one, one, torch.tensor([[2, 4]]), 1
    head = _head().train()
    before = head(*inputs)
    head.cross_attention[0].output.weight.zero_()  # pyright: ignore
    after = head(*inputs)
    assert len(before.earlier) == 2
    assert after.earlier[0].equal(before.earlier[0])
    assert not after.earlier[1].equal(before.earlier[1])
    assert head.eval()(*inputs).earlier == ()
