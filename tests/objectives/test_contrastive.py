"""Contrast, against loops in NumPy."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgen.objectives.contrastive import contrast, image_text_contrast, look
from bitgen.objectives.queue import FeatureQueue
from tests import fakes

SCALE = torch.tensor(1 / 0.07)


def _array(rows: Tensor) -> NDArray[np.float64]:
    return rows.detach().double().numpy()


def _slow_one_way(
    query: Tensor, batch_keys: Tensor, queue_keys: Tensor, ids: list[int], queue_ids: list[int], scale: float
) -> float:
    """Mean over rows of -log of the own key's share, keys of the same photograph left out; only filled queue entries."""
    losses = []
    for i, q in enumerate(_array(query)):
        own = math.exp(scale * float(q @ _array(batch_keys)[i]))
        others = [k for k, id_ in zip(_array(batch_keys), ids, strict=True) if id_ != ids[i]]
        others += [k for k, id_ in zip(_array(queue_keys), queue_ids, strict=True) if id_ != ids[i]]
        losses.append(-math.log(own / (own + sum(math.exp(scale * float(q @ k)) for k in others))))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("ids", [[1, 2, 3, 4], [1, 2, 1, 4], [7, 7, 7, 7], [8, 9, 3, 9]])
@pytest.mark.parametrize("past_ids", [[], [7, 8, 9], [1, 1, 2]])
@pytest.mark.parametrize("temperature", [0.01, 0.07, 0.5])
def test_itc_is_the_mean_of_both_directions(ids: list[int], past_ids: list[int], temperature: float) -> None:
    image, text = fakes.unit(4), fakes.unit(4, seed=1)
    past_image, past_text = fakes.unit(len(past_ids), seed=2), fakes.unit(len(past_ids), seed=3)
    queue = FeatureQueue(6, fakes.WIDTH)
    queue.enqueue(past_image, past_text, torch.tensor(past_ids, dtype=torch.int64))
    found = image_text_contrast(image, text, torch.tensor(ids), queue, torch.tensor(1 / temperature))
    to_text = _slow_one_way(image, text, past_text, ids, past_ids, 1 / temperature)
    to_image = _slow_one_way(text, image, past_image, ids, past_ids, 1 / temperature)
    assert found.item() == pytest.approx((to_text + to_image) / 2, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("temperature", "floor"), [(0.07, 0.006), (0.1, 0.25), (0.2, 3.46), (0.5, 6.35)])
def test_aligned_features_reach_the_floor_that_a_full_queue_sets(temperature: float, floor: float) -> None:
    features, queue = fakes.unit(64, 128), FeatureQueue(4096, 128)
    queue.enqueue(fakes.unit(4096, 128, seed=1), fakes.unit(4096, 128, seed=2), 1000 + torch.arange(4096))
    found = image_text_contrast(features, features, torch.arange(64), queue, torch.tensor(1 / temperature))
    # ln(1 + 4159 E[exp(s / t)] exp(-1 / t)), the s of random unit vectors being normal with variance 1 / 128.
    predicted = math.log1p(4159 * math.exp(1 / (256 * temperature**2) - 1 / temperature))
    assert found.item() == pytest.approx(predicted, rel=0.05)
    assert found.item() == pytest.approx(floor, rel=0.1)


def test_aligned_features_reach_a_loss_near_0() -> None:
    features, queue, ids = fakes.unit(8, 128), FeatureQueue(64, 128), torch.arange(8)
    first = image_text_contrast(features, features, ids, queue, SCALE)
    assert first.item() < 0.01  # ln 2 where the keys of this step are enqueued before its loss


def test_aligned_features_stay_near_0_in_the_next_epoch() -> None:
    features, queue, ids = fakes.unit(8, 128), FeatureQueue(64, 128), torch.arange(8)
    image_text_contrast(features, features, ids, queue, SCALE)
    again = image_text_contrast(features, features, ids, queue, SCALE)  # the queue now holds each photograph itself
    assert again.item() < 0.01


def test_the_keys_of_a_step_are_enqueued_after_its_loss() -> None:
    queue, image, text = FeatureQueue(4, fakes.WIDTH), fakes.unit(2), fakes.unit(2, seed=1)
    image_text_contrast(image, text, torch.tensor([5, 6]), queue, SCALE)
    assert queue.images[:2].equal(image)
    assert queue.texts[:2].equal(text)
    assert queue.image_ids[:2].tolist() == [5, 6]


@pytest.mark.parametrize(("photograph", "loss"), [(5, 0.0), (6, math.log(2))])
def test_a_queued_photograph_is_a_negative_for_others_only(photograph: int, loss: float) -> None:
    queue, own = FeatureQueue(4, fakes.WIDTH), fakes.unit(1)
    queue.enqueue(own, own, torch.tensor([5]))
    found = image_text_contrast(own, own, torch.tensor([photograph]), queue, SCALE)
    assert found.item() == pytest.approx(loss, abs=1e-5)


def test_gradients_reach_queries_and_keys_but_not_the_queue() -> None:
    image, text = fakes.unit(3).requires_grad_(), fakes.unit(3, seed=1).requires_grad_()
    queue = FeatureQueue(4, fakes.WIDTH)
    image_text_contrast(image, text, torch.arange(3), queue, SCALE).backward()
    assert image.grad is not None
    assert text.grad is not None
    assert min(float(image.grad.abs().sum(1).min()), float(text.grad.abs().sum(1).min())) > 1e-4
    assert not queue.images.requires_grad


def test_the_temperature_learns() -> None:
    scale = SCALE.clone().requires_grad_()
    image_text_contrast(
        fakes.unit(3), fakes.unit(3, seed=1), torch.arange(3), FeatureQueue(4, fakes.WIDTH), scale
    ).backward()
    assert scale.grad is not None
    assert scale.grad.abs() > 1e-4


def test_logits_are_float32_under_autocast() -> None:
    query, keys, positive = fakes.unit(4), fakes.unit(6, seed=1), torch.arange(4)
    allowed = torch.ones(4, 6, dtype=torch.bool)
    exact = contrast(query, keys, positive, allowed, torch.tensor(100.0))
    with torch.autocast("cpu", torch.bfloat16):
        found = contrast(query, keys, positive, allowed, torch.tensor(100.0))
    assert found.item() == pytest.approx(exact.item(), abs=1e-5)


@pytest.mark.parametrize("ids", [[1, 2, 3, 4, 5, 6], [1, 2, 1, 4, 1, 2], [7, 7, 7, 7, 7, 7]])
def test_a_pair_is_right_where_no_other_photograph_is_nearer(ids: list[int]) -> None:
    image = fakes.unit(6)
    text = torch.nn.functional.normalize(image + 1.2 * fakes.unit(6, seed=1), dim=1)
    queue = FeatureQueue(6, fakes.WIDTH)
    queue.enqueue(text, image, torch.arange(100, 106))  # nearer than anything, and without a part in it
    found = look(image, text, torch.tensor(ids), queue)
    cosines = _array(image) @ _array(text).T
    for name, table in (("acc_i2t", cosines), ("acc_t2i", cosines.T)):
        right = [all(table[i, j] < table[i, i] for j in range(6) if ids[j] != ids[i]) for i in range(6)]
        assert found[name].item() == pytest.approx(sum(right) / 6)
    others = [cosines[i, j] for i in range(6) for j in range(6) if ids[i] != ids[j]]
    assert found["batch_similarity"].item() == pytest.approx(sum(others) / max(1, len(others)), abs=1e-6)


def test_pairs_that_are_mixed_up_are_wrong() -> None:
    image, queue = fakes.unit(6), FeatureQueue(0, fakes.WIDTH)
    found = look(image, image.roll(1, dims=0), torch.arange(6), queue)
    assert (found["acc_i2t"].item(), found["acc_t2i"].item()) == (0.0, 0.0)
    assert not any(name.startswith("queue") for name in found)


@pytest.mark.parametrize("past", [0, 3, 6, 8])
def test_the_queue_is_compared_with_the_batch(past: int) -> None:
    image, text, queue = fakes.unit(4), fakes.unit(4, seed=1), FeatureQueue(6, fakes.WIDTH)
    old_image, old_text = fakes.unit(past, seed=2), fakes.unit(past, seed=3)
    queue.enqueue(old_image, old_text, torch.arange(past))
    kept = slice(-6, None)
    cosines = [_array(image) @ _array(old_text)[kept].T, _array(text) @ _array(old_image)[kept].T]
    found = look(image, text, torch.arange(4), queue)["queue_similarity"].item()
    assert found == pytest.approx(float(np.mean(cosines)) if past else 0.0, abs=1e-6)


def test_entries_of_the_queue_age_by_the_step() -> None:
    queue, ages = FeatureQueue(10, fakes.WIDTH), list[float]()
    for step in range(5):
        image, text = fakes.unit(4, seed=step), fakes.unit(4, seed=10 + step)
        seen: dict[str, Tensor] = {}
        image_text_contrast(image, text, torch.arange(4), queue, SCALE, seen)
        ages.append(seen["queue_age"].item())
    # Of 10 slots in the end four are 1 old, four 2 and two 3.
    assert ages == pytest.approx([0, 1, 1.5, 1.8, 1.8])


def test_looking_changes_no_loss_and_gets_no_gradient() -> None:
    found: list[Tensor] = []
    for seen in (None, dict[str, Tensor]()):
        image, text, queue = fakes.unit(4).requires_grad_(), fakes.unit(4, seed=1).requires_grad_(), FeatureQueue(6, 16)
        loss = image_text_contrast(image, text, torch.arange(4), queue, SCALE, seen)
        found += [loss.detach(), *torch.autograd.grad(loss, (image, text))]
        assert not any(value.requires_grad for value in (seen or {}).values())
    assert all(a.equal(b) for a, b in zip(found[:3], found[3:], strict=True))
