"""Whether a memory knows what it has seen; the area under a curve by a slow count (and `test_second_implementations.py`)."""

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from bitgen.evaluation.novelty import apart, area_under_curve, novelty, resampled_areas
from bitgen.model.memory import EpisodicMemory
from tests import fakes

WIDTH = 64


def memory(slots: int = 16) -> EpisodicMemory:
    torch.manual_seed(0)
    return EpisodicMemory(slots, WIDTH)


def scores(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Some equal, of both kinds."""
    return (fakes.noise(60, seed=seed) + 0.5).round(decimals=1), fakes.noise(90, seed=seed + 1).round(decimals=1)


@pytest.mark.parametrize("seed", [0, 10, 20])
def test_the_area_is_the_share_of_pairs_in_the_right_order(seed: int) -> None:
    positive, negative = scores(seed)
    slow = [(p > n) + (p == n) / 2 for p in positive.tolist() for n in negative.tolist()]
    assert area_under_curve(positive, negative) == pytest.approx(sum(slow) / len(slow), abs=1e-12)
    assert 0.5 < area_under_curve(positive, negative) < 0.9


def test_what_is_no_number_counts_against() -> None:
    nothing = torch.tensor([torch.nan])
    assert area_under_curve(nothing, torch.tensor([0.0])) == 0
    assert area_under_curve(torch.tensor([0.0]), nothing) == 0


def test_scores_of_one_kind_have_no_area() -> None:
    with pytest.raises(ValueError, match="expected scores of both kinds, found 3 and 0"):
        area_under_curve(torch.zeros(3), torch.zeros(0))


@pytest.mark.parametrize("seed", [0, 10])
def test_resampled_areas_equal_those_of_copied_scores(seed: int) -> None:
    positive, negative = scores(seed)
    of_positive, of_negative = np.arange(60) % 11, np.arange(90) % 7  # a photograph is of both kinds, or of one
    random, slow = np.random.default_rng(seed), list[float]()
    for _ in range(40):
        drawn = random.integers(11, size=11)
        own, others = (
            torch.cat([each[torch.from_numpy(groups == photograph)] for photograph in drawn])
            for each, groups in ((positive, of_positive), (negative, of_negative))
        )
        slow.append(area_under_curve(own, others))
    found = resampled_areas(positive, negative, of_positive, of_negative, seed, 40)[:, 0]
    np.testing.assert_allclose(found, slow, rtol=0, atol=1e-12)
    assert found.std() > 0.01


def test_the_interval_of_an_area_agrees_with_scipy() -> None:
    """Where each photograph has one score of each kind, so that both are drawn together."""
    pairs = np.random.default_rng(0).normal([0.7, 0.0], size=(120, 2))

    def area(rows: np.ndarray) -> float:
        own, others = pairs[rows.astype(int)].T
        return float((own[:, None] > others).mean())

    theirs = bootstrap((np.arange(120),), area, n_resamples=1000, method="percentile", vectorized=False, rng=1)
    own, others = torch.from_numpy(pairs).T
    ours = np.quantile(resampled_areas(own, others, np.arange(120), np.arange(120), 2, 1000), [0.025, 0.975])
    assert ours == pytest.approx(list(theirs.confidence_interval), abs=0.015)  # 0.12 wide


def test_every_area_has_an_interval_around_it() -> None:
    keys = fakes.noise(100, WIDTH)
    found = novelty(memory(), keys, keys + fakes.noise(100, WIDTH, seed=1), [8], reads=200, resamples=100)["8"]
    assert set(found["interval"]) == {"auc", "evidence", "nearest_key", "empty", "shuffled"}
    for name, (low, high) in found["interval"].items():
        assert low <= found[name] <= high
    assert found["interval"]["auc"][0] < found["interval"]["auc"][1]


def test_a_memory_doubts_what_it_never_saw_until_it_is_full() -> None:
    keys = fakes.noise(400, WIDTH)
    found = novelty(memory(), keys, keys + 0.2 * fakes.noise(400, WIDTH, seed=1), [4, 8, 64, 128], reads=500)
    assert list(found) == ["4", "8", "64"]
    assert found["4"]["auc"] > 0.95 > 0.75 > found["64"]["auc"]
    assert found["4"]["evidence"] > 0.95
    assert found["4"]["nearest_key"] > 0.99
    assert (found["4"]["written"], found["4"]["unwritten"], found["4"]["chance"]) == (500, 500, 0.5)
    for control in ("empty", "shuffled"):
        assert found["4"][control] == pytest.approx(0.5, abs=0.06)  # three standard errors of 500: 0.055


def test_episodes_share_nothing_with_their_neighbours() -> None:
    rows = apart(31, 10, 20, torch.Generator().manual_seed(0))
    assert rows.shape == (20, 10)
    assert all(len({*rows[n - 1].tolist(), *rows[n].tolist()}) == 20 for n in range(20))
