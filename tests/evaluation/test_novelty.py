"""Whether a memory knows what it has seen; the area under a curve by a slow count (and `test_second_implementations.py`)."""

import pytest
import torch

from bitgen.evaluation.novelty import apart, area_under_curve, novelty
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
