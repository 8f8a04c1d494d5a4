import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap

from bitgen.evaluation.bootstrap import halves, intervals, other_sign, percentiles, resampled, resampled_means, stated

FEW = np.array([4, 4, 9, 4, 7, 9, 7, 7, 7, 1])
"""Photographs of ten items: four photographs of one to four items."""


def noise(rows: int, columns: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def slow_means(values: NDArray[np.float64], groups: NDArray[np.int64], seed: int, resamples: int) -> list[list[float]]:
    """Copies the items of every photograph that is drawn, and takes their mean."""
    random = np.random.default_rng(seed)
    known = sorted(set(groups.tolist()))
    means = []
    for _ in range(resamples):
        drawn = [known[number] for number in random.integers(len(known), size=len(known))]
        means.append(np.concatenate([values[groups == photograph] for photograph in drawn]).mean(axis=0).tolist())
    return means


@pytest.mark.parametrize("seed", range(5))
def test_resampled_means_equal_those_of_copied_items(seed: int):
    values = noise(10, 3, seed)
    found = resampled_means(values, FEW, seed, 50)
    np.testing.assert_allclose(found, slow_means(values, FEW, seed, 50), rtol=0, atol=1e-12)


def test_how_many_are_drawn_at_once_does_not_matter():
    values = noise(10, 2)
    whole = resampled_means(values, FEW, 3, 41)
    np.testing.assert_allclose(resampled_means(values, FEW, 3, 41, draws=1), whole, rtol=0, atol=1e-12)
    np.testing.assert_allclose(resampled_means(values, FEW, 3, 41, draws=13), whole, rtol=0, atol=1e-12)


def test_a_figure_of_draws_gets_how_often_each_photograph_is_drawn():
    random = np.random.default_rng(5)
    slow = [np.bincount(random.integers(4, size=4), minlength=4).tolist() for _ in range(30)]
    assert resampled(lambda times: times, 4, 5, 30).tolist() == slow
    assert resampled(lambda times: times, 4, 5, 30, draws=9).tolist() == slow


def test_another_seed_draws_others():
    values = noise(10, 1)
    assert not np.array_equal(resampled_means(values, FEW, 0, 20), resampled_means(values, FEW, 1, 20))


def test_a_photograph_counts_by_its_items():
    # Three items of 0 on one photograph, one item of 1 on the other: twice the first, one of each, twice the second.
    found = resampled_means(np.array([[0.0], [0.0], [0.0], [1.0]]), np.array([5, 5, 5, 6]), 0, 100)
    assert np.unique(found).tolist() == [0.0, 0.25, 1.0]


def test_items_of_one_photograph_say_no_more_than_one_of_them():
    values = noise(30, 1)[:, 0]
    one, five = np.arange(30), np.repeat(np.arange(30), 5)
    assert intervals({"x": np.repeat(values, 5)}, five)["x"] == pytest.approx(intervals({"x": values}, one)["x"])


def test_intervals_agree_with_scipy():
    values = noise(200, 1)[:, 0]
    theirs = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    ours = intervals({"x": values}, np.arange(200), seed=2, resamples=4000)["x"]
    # Ends are quantiles of 4,000 draws: their standard error is 0.003 where the interval is 0.27 wide.
    assert ours == pytest.approx([theirs.low, theirs.high], abs=0.015)


def test_one_photograph_has_no_interval():
    assert intervals({"x": np.array([0.0, 1.0])}, np.array([8, 8])) == {}


def test_every_figure_has_its_own_interval():
    found = intervals({"none": np.zeros(10), "all": np.ones(10)}, FEW)
    assert found == {"none": [0.0, 0.0], "all": [1.0, 1.0]}


def test_no_resamples_are_refused():
    with pytest.raises(ValueError, match="expected one or more resamples, found 0"):
        intervals({"x": np.zeros(10)}, FEW, resamples=0)


def test_an_interval_holds_the_middle_95_of_a_hundred():
    draws = np.stack([np.arange(1001.0)[::-1], np.arange(1001.0) * 2], axis=1)
    np.testing.assert_allclose(percentiles(draws), [[25, 975], [50, 1950]])


def test_what_an_interval_is_of_stands_beside_it():
    assert stated(FEW, 7, 500) == {"percent": 95, "resamples": 500, "seed": 7, "photographs": 4}


def test_the_share_of_the_other_sign_is_doubled_and_never_0():
    # Of 999: none, nine and 990 below 0.
    draws = np.stack([np.ones(999), np.repeat([-1.0, 1.0], (9, 990)), np.repeat([-1.0, 1.0], (990, 9))], axis=1)
    assert other_sign(draws) == pytest.approx([0.002, 0.02, 0.02])


def test_where_nothing_differs_p_is_1():
    assert other_sign(np.zeros((999, 1))).tolist() == [1.0]


def test_no_difference_in_a_resample_counts_to_both_sides():
    assert other_sign(np.repeat([[0.0], [1.0]], (9, 990), axis=0)) == pytest.approx([0.02])


def covers(photographs: int, by_photograph: bool, seed: int, sets: int = 300) -> float:
    """How often the interval holds the true mean, 0.5, of items that are right with a probability of their photograph's."""
    random = np.random.default_rng(seed)
    held = 0
    for number in range(sets):
        sizes = random.integers(1, 10, size=photographs)
        groups = np.repeat(np.arange(photographs), sizes)
        is_right = random.random(len(groups)) < random.beta(0.5, 0.5, size=photographs)[groups]
        drawn_by = groups if by_photograph else np.arange(len(groups))
        low, high = intervals({"x": is_right.astype(np.float64)}, drawn_by, number, 200)["x"]
        held += low <= 0.5 <= high
    return held / sets


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    assert 0.90 <= covers(40, by_photograph=True, seed=0) <= 0.99


def test_of_five_photographs_it_holds_the_truth_too_rarely_as_is_said():
    assert 0.80 <= covers(5, by_photograph=True, seed=0) < 0.90


def test_an_interval_over_single_items_of_photographs_would_hold_it_too_rarely():
    assert covers(40, by_photograph=False, seed=0) < 0.8


def test_halves_share_no_photograph_and_leave_none_out():
    groups = np.array([5, 5, 2, 9, 9, 9, 2, 7, -3])
    first, second = halves(groups, 1)
    assert (first ^ second).all()
    assert len(np.unique(groups[first])) == 2
    assert not set(groups[first]) & set(groups[second])
    assert any((halves(groups, seed)[0] != first).any() for seed in range(5))


def test_one_photograph_is_both_halves():
    assert [half.tolist() for half in halves(np.array([4, 4]), 0)] == [[True, True], [True, True]]
