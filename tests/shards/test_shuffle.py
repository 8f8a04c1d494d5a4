"""Shuffle quality, beside bounds worked by hand and a full permutation; `tests/benchmarks/shuffle.py` has full sizes."""

import pytest

from tests.benchmarks.shuffle import displacement, even, measure


def test_samples_move_as_far_as_in_a_full_permutation():
    # Ten epochs place 100 shards each: the mean has a standard error of 2% of itself.
    assert displacement("a", even(40_000, 100)) == pytest.approx(1.0, abs=0.1)


@pytest.fixture(scope="module")
def large():
    """Three groups of eight shards of 5,000, in batches of 128."""
    return measure({"a": [5000] * 24}, batch=128, batches=100)[0]


def test_a_batch_holds_samples_of_all_eight_shards_of_its_group(large):
    assert large.fewest_shards >= 8  # one is absent by 8 (7/8)^128 = 3e-7


def test_an_eighth_of_a_batch_s_pairs_come_from_one_shard(large):
    assert large.same_shard == pytest.approx(1 / 8, abs=0.01)


def test_the_shards_that_are_left_are_mixed_with_the_group_before():
    # A group is eleven shards, and one is left: alone it would fill whole batches.
    assert measure({"a": even(19_000, 12)}, batch=128, batches=100)[0].fewest_shards >= 11


def test_sources_mix_as_in_a_full_permutation():
    ours, full = measure({"a": even(30_000, 20), "b": even(10_000, 8), "c": even(2_000, 2)}, batch=64, batches=200)
    assert ours.off_share < 1.1 * full.off_share
    assert ours.sources > 0.95 * full.sources
