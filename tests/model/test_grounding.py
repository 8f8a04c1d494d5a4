"""A phrase becomes a box and a heat-map."""

import pytest
import torch
from torch import Tensor

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
