"""Grounding losses, against loops over patches and phrases."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bitgen.model.grounding import Grounded
from bitgen.objectives.grounding import coverage, grounding_losses, phrase_coverage, region_contrast
from tests import fakes


@pytest.mark.parametrize(
    ("box", "shares"),
    [
        ((0.0, 0.0, 1.0, 1.0), [1.0, 1.0, 1.0, 1.0]),
        ((0.0, 0.0, 0.5, 0.5), [1.0, 0.0, 0.0, 0.0]),
        ((0.5, 0.0, 1.0, 0.5), [0.0, 1.0, 0.0, 0.0]),
        ((0.25, 0.25, 0.75, 0.75), [0.25, 0.25, 0.25, 0.25]),
        ((0.0, 0.25, 0.75, 1.0), [0.5, 0.25, 1.0, 0.5]),
        ((0.6, 0.6, 0.8, 0.7), [0.0, 0.0, 0.0, 0.08]),
    ],
)
def test_coverage_of_a_2_by_2_grid(box: tuple[float, ...], shares: list[float]) -> None:
    torch.testing.assert_close(coverage(torch.tensor([box]), 2), torch.tensor([shares]), rtol=0, atol=1e-6)


def test_coverage_sums_to_the_area_of_the_box() -> None:
    boxes = torch.tensor([[0.13, 0.2, 0.71, 0.94], [0.0, 0.05, 0.02, 1.0]])
    area = torch.tensor([0.58 * 0.74, 0.02 * 0.95])
    torch.testing.assert_close(coverage(boxes, 7).sum(dim=1) / 49, area, rtol=0, atol=1e-6)


def test_a_phrase_of_several_boxes_covers_what_any_of_them_does() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.25, 0.5], [0.5, 0.5, 1.0, 0.75]])
    found = phrase_coverage(boxes, torch.tensor([0, 1, 1]), 3, 2)
    assert found.tolist() == [[1.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]]


P, SIDE = 5, 3


def _predicted() -> Grounded:
    middle, size = 0.3 + 0.4 * torch.rand(P, 2, generator=torch.Generator().manual_seed(0)), torch.full((P, 2), 0.3)
    return Grounded(torch.cat([middle, size], dim=1), 2 * fakes.noise(P, SIDE * SIDE))


def _targets() -> tuple[Tensor, Tensor]:
    low = 0.5 * torch.rand(P, 2, generator=torch.Generator().manual_seed(1))
    boxes = torch.cat([low, low + 0.35], dim=1)
    return boxes, coverage(boxes, SIDE)


def _slow_box_losses(centre: list[float], corners: list[float]) -> tuple[float, float]:
    cx, cy, w, h = centre
    x0, y0, x1, y1 = corners
    l1 = abs(cx - (x0 + x1) / 2) + abs(cy - (y0 + y1) / 2) + abs(w - (x1 - x0)) + abs(h - (y1 - y0))
    a = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    across, down = min(a[2], x1) - max(a[0], x0), min(a[3], y1) - max(a[1], y0)
    common = max(across, 0) * max(down, 0)
    union = w * h + (x1 - x0) * (y1 - y0) - common
    outer = (max(a[2], x1) - min(a[0], x0)) * (max(a[3], y1) - min(a[1], y0))
    return l1, 1 - (common / union - (outer - union) / outer)


def _slow_heat_losses(logits: list[float], shares: list[float]) -> tuple[float, float]:
    focal = common = probabilities = 0.0
    for logit, share in zip(logits, shares, strict=True):
        p = 1 / (1 + math.exp(-logit))
        entropy = -(share * math.log(p) + (1 - share) * math.log(1 - p))
        focal += (0.25 * share + 0.75 * (1 - share)) * (p - share) ** 2 * entropy
        common += p * share
        probabilities += p
    return focal / max(sum(shares), 1), 1 - (2 * common + 1) / (probabilities + sum(shares) + 1)


def test_box_losses_are_those_of_a_slow_loop() -> None:
    predicted, (boxes, heat) = _predicted(), _targets()
    found = grounding_losses(predicted, boxes, heat)
    slow = torch.tensor(
        [_slow_box_losses(c, b) for c, b in zip(predicted.centres.tolist(), boxes.tolist(), strict=True)]
    )
    torch.testing.assert_close(torch.stack([found["l1"], found["giou"]], dim=1), slow, rtol=0, atol=1e-6)


def test_heat_losses_are_those_of_a_slow_loop() -> None:
    predicted, (boxes, heat) = _predicted(), _targets()
    found = grounding_losses(predicted, boxes, heat)
    slow = torch.tensor([_slow_heat_losses(h, s) for h, s in zip(predicted.heat.tolist(), heat.tolist(), strict=True)])
    torch.testing.assert_close(torch.stack([found["focal"], found["dice"]], dim=1), slow, rtol=0, atol=1e-6)


def test_a_perfect_prediction_costs_nothing() -> None:
    box = torch.tensor([[0.0, 0.5, 0.5, 1.0]])
    perfect = Grounded(torch.tensor([[0.25, 0.75, 0.5, 0.5]]), torch.tensor([[-20.0, -20.0, 20.0, -20.0]]))
    found = grounding_losses(perfect, box, coverage(box, 2))
    torch.testing.assert_close(torch.cat(list(found.values())), torch.zeros(4), rtol=0, atol=1e-6)


def test_apart_boxes_still_have_a_gradient() -> None:
    centres = torch.tensor([[0.1, 0.1, 0.1, 0.1]], requires_grad=True)
    target = torch.tensor([[0.8, 0.8, 0.9, 0.9]])
    grounding_losses(Grounded(centres, torch.zeros(1, 4)), target, coverage(target, 2))["giou"].sum().backward()
    assert centres.grad is not None
    assert (centres.grad[0, :2] < 0).all()


BOXES = torch.tensor(
    [
        [0.0, 0.0, 0.5, 0.5],
        [0.0, 0.0, 0.5, 0.55],  # nearly the first: overlap 0.91
        [0.5, 0.5, 1.0, 1.0],
        [0.0, 0.5, 1.0, 1.0],  # of the second image
        [0.5, 0.0, 1.0, 0.6],
        [0.3, 0.3, 0.6, 0.6],  # alone on the third
    ]
)
IMAGES = [0, 0, 0, 1, 1, 2]
COMPETES = [[2], [2], [0, 1], [4], [3], []]
"""Worked by hand: the other phrases of the same image whose boxes overlap by at most 0.5."""
SCALE = 5.0


def _regions(patches: Tensor, phrases: Tensor) -> tuple[Tensor, Tensor]:
    images = torch.tensor(IMAGES)
    return region_contrast(patches, phrases, coverage(BOXES, 4), BOXES, images, torch.tensor(SCALE))


def _slow_regions(patches: Tensor, phrases: Tensor) -> list[float]:
    cover = coverage(BOXES, 4).double()
    means = [sum(c * p for c, p in zip(cover[i], patches[IMAGES[i]].double(), strict=True)) for i in range(6)]
    region = [m / m.norm() for m in means if isinstance(m, Tensor)]
    phrase = [p.double() / p.double().norm() for p in phrases]
    losses = []
    for i in range(6):
        seen = [i, *COMPETES[i]]
        to_region = [math.exp(SCALE * float(phrase[i] @ region[j])) for j in seen]
        to_phrase = [math.exp(SCALE * float(phrase[j] @ region[i])) for j in seen]
        losses.append(-(math.log(to_region[0] / sum(to_region)) + math.log(to_phrase[0] / sum(to_phrase))) / 2)
    return losses


def test_region_contrast_is_that_of_a_slow_loop() -> None:
    patches, phrases = fakes.noise(3, 16, 8), fakes.noise(6, 8, seed=1)
    found, _ = _regions(patches, phrases)
    torch.testing.assert_close(found, torch.tensor(_slow_regions(patches, phrases)), rtol=0, atol=1e-5)


def test_a_phrase_without_a_competitor_does_not_count() -> None:
    _, counts = _regions(fakes.noise(3, 16, 8), fakes.noise(6, 8, seed=1))
    assert counts.tolist() == [True, True, True, True, True, False]


def test_another_images_regions_do_not_compete() -> None:
    patches, phrases = fakes.noise(3, 16, 8), fakes.noise(6, 8, seed=1)
    other = patches.clone()
    other[1:] = fakes.noise(2, 16, 8, seed=2)
    assert _regions(patches, phrases)[0][:3].equal(_regions(other, phrases)[0][:3])


def test_region_logits_are_float32_under_autocast() -> None:
    patches, phrases = fakes.noise(3, 16, 8), fakes.noise(6, 8, seed=1)
    exact, _ = _regions(patches, phrases)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = _regions(patches, phrases)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)


def test_no_phrases_cost_nothing() -> None:
    none, nobody = torch.empty(0, 4), torch.empty(0, dtype=torch.int64)
    loss, counts = region_contrast(
        fakes.noise(3, 16, 8), torch.empty(0, 8), torch.empty(0, 16), none, nobody, torch.tensor(SCALE)
    )
    assert (loss.shape, counts.shape) == ((0,), (0,))


def test_an_earlier_heat_map_is_measured_as_the_last_is() -> None:
    predicted, (boxes, cover) = _predicted(), _targets()
    last = grounding_losses(predicted, boxes, cover)
    found = grounding_losses(replace(predicted, earlier=(predicted.heat, predicted.heat)), boxes, cover)
    torch.testing.assert_close(found["earlier"], 2 * (last["focal"] + last["dice"]))
    assert "earlier" not in last
