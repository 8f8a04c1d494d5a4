"""Recall of a memory by slow loops in float64, and controls that must fail."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bitgen.evaluation.memory import memory_quality
from bitgen.model.memory import EpisodicMemory

EPISODES, WIDTH = 40, 128


def _memory(noise: float = 0.1) -> EpisodicMemory:
    torch.manual_seed(0)
    return EpisodicMemory(32, WIDTH, noise=noise)


def _pairs(count: int, change: float = 0.3, episodes: int = EPISODES) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, the same keys with noise of deviation `change`, and values."""
    generator = torch.Generator().manual_seed(1)
    keys, noise, values = torch.randn(3, episodes, count, WIDTH, generator=generator)
    return keys, keys + change * noise, values


def _ridge(memory: EpisodicMemory, keys: Tensor, values: Tensor, queries: Tensor) -> np.ndarray:
    """[Q, C]: what one episode's ridge regression in float64 gives at `queries`."""
    prior = memory.prior_mean.detach().double().numpy()
    x, asked = (memory.address(k).detach().double().numpy() for k in (keys, queries))
    inverse = np.linalg.inv(np.eye(32) + x.T @ x / memory.noise().item())
    return asked @ (prior + inverse @ x.T @ (values.double().numpy() - x @ prior) / memory.noise().item())


def _recall(readings: np.ndarray, values: Tensor, rows: range) -> float:
    """The share of readings whose nearest of all values, by cosine, is that of their row."""
    value = values.double().numpy()
    cosine = [[r @ v / np.linalg.norm(r) / np.linalg.norm(v) for v in value] for r in readings]
    return float(np.mean([np.argmax(row) == i for row, i in zip(cosine, rows, strict=True)]))


def test_recall_is_that_of_ridge_regression_in_float64() -> None:
    """64 pairs in 32 slots: far from perfect, so that a difference would show."""
    memory, (keys, asked, values) = _memory(), _pairs(64, change=1.0, episodes=4)
    found = memory_quality(memory, keys, asked, values)
    whole, half = range(64), range(32)
    slow = {
        "written_key": [_recall(_ridge(memory, keys[e], values[e], keys[e]), values[e], whole) for e in range(4)],
        "held_out_key": [_recall(_ridge(memory, keys[e], values[e], asked[e]), values[e], whole) for e in range(4)],
        "shuffled": [_recall(_ridge(memory, keys[e - 1], values[e - 1], keys[e]), values[e], whole) for e in range(4)],
        "forgotten": [
            _recall(_ridge(memory, keys[e, 32:], values[e, 32:], keys[e, :32]), values[e], half) for e in range(4)
        ],
        "kept": [
            _recall(_ridge(memory, keys[e, 32:], values[e, 32:], keys[e, 32:]), values[e], range(32, 64))
            for e in range(4)
        ],
    }
    assert {name: found[name] for name in slow} == pytest.approx({name: np.mean(slow[name]) for name in slow})
    assert 0.05 < found["held_out_key"] < 0.95


def test_half_as_many_pairs_as_slots_are_recalled_by_either_key() -> None:
    found = memory_quality(_memory(), *_pairs(16))
    assert found["written_key"] == 1
    assert found["held_out_key"] > 0.98


@pytest.mark.parametrize("control", ["empty", "shuffled"])
def test_controls_are_at_chance(control: str) -> None:
    found = memory_quality(_memory(), *_pairs(8, episodes=200))
    assert found["chance"] == pytest.approx(1 / 8)
    assert found[control] == pytest.approx(1 / 8, abs=0.04)  # three standard errors of 1600 draws: 0.025


def test_a_forgotten_value_is_found_no_more_often_than_by_chance() -> None:
    found = memory_quality(_memory(), *_pairs(16))
    assert found["forgotten"] < found["chance"]
    assert found["kept"] == 1


def test_the_nearest_key_is_that_of_a_slow_search() -> None:
    keys, asked, values = _pairs(16, change=5.0, episodes=3)
    hits = [_recall(asked[e].double().numpy(), keys[e], range(16)) for e in range(3)]
    found = memory_quality(_memory(), keys, asked, values)["nearest_key"]
    assert found == pytest.approx(np.mean(hits))
    assert 0.1 < found < 0.95


def test_what_is_asked_for_is_known_and_what_another_episode_holds_is_not() -> None:
    found = memory_quality(_memory(), *_pairs(8, change=0.2))
    assert found["known"] > 0.98
    assert found["known_unwritten"] < 0.01


def test_utilisation_is_that_of_the_memory() -> None:
    memory, (keys, asked, values) = _memory(), _pairs(8)
    state = memory.write(memory.empty(EPISODES), keys, values, torch.ones(EPISODES, 8).bool())
    found = memory_quality(memory, keys, asked, values)["utilisation"]
    assert found == pytest.approx(memory.utilisation(state).mean().item())


def test_an_equal_value_under_another_key_counts_as_itself() -> None:
    keys, asked, values = _pairs(8)
    values[:, 1::2] = values[:, 0::2]
    found = memory_quality(_memory(), keys, asked, values)
    assert (found["written_key"], found["chance"]) == (1, 2 / 8)


def test_a_tie_is_a_miss() -> None:
    keys, asked, values = _pairs(8)
    values = values[:, :1] * 2.0 ** torch.arange(8)[:, None]  # one direction, and powers of two do not round
    assert memory_quality(_memory(), keys, asked, values)["written_key"] == 0


@pytest.mark.parametrize("shape", [(1, 4), (2, 1)])
def test_controls_need_two_episodes_of_two_pairs(shape: tuple[int, int]) -> None:
    keys = torch.randn(*shape, WIDTH)
    with pytest.raises(
        ValueError, match=f"expected 2 or more episodes of 2 or more pairs, found {shape[0]} of {shape[1]}"
    ):
        memory_quality(_memory(), keys, keys, keys)
