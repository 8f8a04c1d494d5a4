"""Which slots are written to."""

import numpy as np
import pytest
import torch

from bitgen.evaluation.slots import effective, slot_shares, slot_use
from bitgen.model.memory import EpisodicMemory
from tests import fakes

WIDTH, SLOTS = 32, 8


def memory() -> EpisodicMemory:
    torch.manual_seed(0)
    return EpisodicMemory(SLOTS, WIDTH)


def test_shares_are_those_of_what_a_slot_s_precision_gains() -> None:
    one, keys = memory(), fakes.noise(3, 5, WIDTH)
    gained = one.write(one.empty(3), keys, keys, torch.ones(3, 5).bool()).precision.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(slot_shares(one, keys), gained / gained.sum(dim=1, keepdim=True))


def test_equal_shares_are_as_many_as_they_are() -> None:
    assert effective(torch.full((8,), 1 / 8)) == pytest.approx(8)
    assert effective(torch.tensor([1.0, 0, 0])) == pytest.approx(1)


def test_keys_along_one_address_use_one_slot() -> None:
    one = memory()
    normal = torch.nn.functional.layer_norm(one.addresses.detach(), (WIDTH,))
    found = slot_use(one, normal[:1].repeat(24, 1) + 1e-3 * fakes.noise(24, WIDTH))
    assert found["effective"] < 1.7
    assert found["most"] > 0.9
    assert found["effective_random"] > 7


def test_a_sequence_of_episodes_has_a_row_each() -> None:
    found = slot_use(memory(), fakes.noise(30, WIDTH))
    assert (found["episodes"], found["keys"]) == (7, 28)
    assert [len(row) for row in found["shares"]] == [SLOTS] * 7
    assert torch.tensor(found["shares"]).sum(dim=1).tolist() == pytest.approx([1] * 7)
    assert all(0 < used < 4 for used in found["in_use"])
    assert found["least"] < 1 / SLOTS < found["most"]


def test_how_many_slots_are_used_has_an_interval_by_episode() -> None:
    found = slot_use(memory(), fakes.noise(30, WIDTH), seed=2, resamples=100)
    shares, random = torch.tensor(found["shares"], dtype=torch.float64), np.random.default_rng(2)
    slow = [effective(shares[random.integers(7, size=7)].mean(dim=0)) for _ in range(100)]
    assert found["interval"]["effective"] == pytest.approx(np.quantile(slow, [0.025, 0.975]).tolist(), abs=1e-5)
    assert set(found["interval"]) == {"effective", "effective_random"}
    assert "interval" not in slot_use(memory(), fakes.noise(30, WIDTH))
    assert slot_use(memory(), fakes.noise(4, WIDTH), resamples=100)["interval"] == {}  # of one episode
