"""Who names a photograph right: a memory, its readings alone, a cache, and controls that must fail."""

import pytest
import torch
from torch.nn import functional as F

from bitgen.evaluation.naming import cache_size, named, naming
from bitgen.model.memory import EpisodicMemory
from tests import fakes

WIDTH = 64


def memory(slots: int = 16) -> EpisodicMemory:
    torch.manual_seed(0)
    return EpisodicMemory(slots, WIDTH)


def test_a_cache_has_as_many_numbers_as_the_memory_s_state() -> None:
    # 32 x 32 + 32 x 128 numbers, of which an entry takes 128 for its key and 1 for its name
    assert cache_size(32, 128) == 39


def test_a_few_photographs_are_named_by_all_but_the_controls() -> None:
    keys, values = fakes.noise(2, 300, WIDTH)
    found = naming(memory(), keys, keys + 0.2 * fakes.noise(300, WIDTH, seed=1), values, reads=200)
    assert list(found) == ["5", "20", "100"]
    five = found["5"]
    assert (five["recall"], five["reading"], five["cache"], five["nearest"]) == pytest.approx((1, 1, 1, 1), abs=0.02)
    assert five["empty"] == pytest.approx(0.2, abs=0.09)  # three standard errors of 200 draws
    assert five["shuffled"] < 0.1
    assert (five["chance"], five["asked"]) == (0.2, 200)


def test_a_memory_and_a_cache_are_full_where_all_keys_are_not() -> None:
    keys, values = fakes.noise(2, 300, WIDTH)
    found = naming(memory(), keys, keys + 0.2 * fakes.noise(300, WIDTH, seed=1), values, reads=200)["100"]
    assert found["nearest"] > 0.98
    assert found["cache"] < 0.3  # 19 of 100 are held
    assert found["reading"] < 0.6


def test_names_are_texts_of_photographs_that_are_not_written() -> None:
    """Each value is its photograph's key: whoever used that would name right with an empty memory."""
    keys = fakes.noise(40, WIDTH)
    one = memory()
    with torch.no_grad():
        one.prior_mean.copy_(one.address(torch.eye(WIDTH)).mT)
    assert naming(one, keys, keys, keys, reads=400)["5"]["empty"] < 0.35


def test_too_few_photographs_are_not_named() -> None:
    keys = fakes.noise(9, WIDTH)
    assert naming(memory(), keys, keys, keys, reads=10) == {}


def test_the_nearest_key_is_that_of_a_slow_search_and_the_cache_holds_the_last() -> None:
    written, values = fakes.noise(12, 3, WIDTH), fakes.noise(12, WIDTH, seed=1)
    queries = fakes.noise(20, WIDTH, seed=2)
    found = named(memory(16), written, values, queries)
    turns = [(name, shot) for shot in range(3) for name in range(12)]

    def slow(held: list[tuple[int, int]]) -> list[int]:
        return [max(held, key=lambda at: F.cosine_similarity(query, written[at], dim=0).item())[0] for query in queries]

    assert found["nearest"].tolist() == slow(turns)
    assert found["cache"].tolist() == slow(turns[-cache_size(16, WIDTH) :])
