"""Means over sets: their intervals are those of a slow bootstrap that draws each photograph for all sets at once."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bitgen.evaluation.items import Items
from bitgen.evaluation.over_sets import (
    ends,
    resampled_set_means,
    with_grounding_intervals,
    with_retrieval_intervals,
)

A = np.array([1, 1, 2, 3, 3, 3, 4, 5]), np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
B = np.array([6, 2, 4, 4, 7, 8]), np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
"""Photographs and values of two sets, which share photographs 2 and 4."""


def slow(sets: tuple[tuple[NDArray[np.int64], NDArray[np.float64]], ...], resamples: int) -> list[float]:
    random, known = np.random.default_rng(3), np.unique(np.concatenate([photographs for photographs, _ in sets]))
    found = []
    for _ in range(resamples):
        drawn = known[random.integers(len(known), size=len(known))]
        rows = [np.concatenate([np.flatnonzero(photographs == each) for each in drawn]) for photographs, _ in sets]
        if all(map(len, rows)):
            found.append(np.mean([values[own].mean() for own, (_, values) in zip(rows, sets, strict=True)]))
    return np.quantile(found, (0.025, 0.975)).tolist()


def test_a_mean_over_sets_is_that_of_photographs_drawn_for_all_of_them() -> None:
    draws = resampled_set_means([(values[:, None], photographs) for photographs, values in (A, B)], 3, 400)
    assert ends(draws, ["acc50"])["acc50"] == pytest.approx(slow((A, B), 400))


def test_a_set_that_stands_twice_is_no_surer_than_once() -> None:
    twice, once = (resampled_set_means([(A[1][:, None], A[0])] * times, 3, 200) for times in (2, 1))
    assert twice == pytest.approx(once)


def test_a_resample_without_a_photograph_of_a_set_does_not_count() -> None:
    draws = resampled_set_means([(np.ones((1, 1)), np.array([1])), (np.ones((1, 1)), np.array([2]))], 0, 50)
    assert np.isnan(draws).any()
    assert ends(draws, ["acc50"]) == {"acc50": [1.0, 1.0]}
    assert ends(draws[np.isnan(draws[:, 0])], ["acc50"]) == {}


def items(photographs: NDArray[np.int64], **values: NDArray[np.float64]) -> Items:
    return Items(tuple(str(n) for n in range(len(photographs))), photographs, values)


def test_figures_that_all_sets_have_get_an_interval() -> None:
    sets = [items(A[0], acc50=A[1], pointing=A[1]), items(B[0], acc50=B[1])]
    found = with_grounding_intervals({"acc50": 0.55, "phrases": 14}, sets, 3)
    assert (found["acc50"], found["phrases"], set(found["interval"])) == (0.55, 14, {"acc50"})
    assert found["interval"]["acc50"] == pytest.approx(slow((A, B), 1000))


def test_a_sum_of_recalls_is_of_the_same_photographs_both_ways() -> None:
    direction = {"r1": 0.5, "r5": 0.5}
    mean = {"t2i": direction, "i2t": direction, "rsum": 2.0, "reranked": {"t2i": direction, "i2t": direction}}
    t2i = [items(p, r1=v, r5=1 - v, reranked_r1=v) for p, v in (A, B)]
    i2t = [items(p, r1=v, r5=v, reranked_r1=1 - v) for p, v in (A, B)]
    found = with_retrieval_intervals(mean, t2i, i2t, 3)
    assert found["t2i"]["interval"]["r1"] == pytest.approx(slow((A, B), 1000))
    # r1 and r5 of texts add up to 1, those of images to twice r1; re-ranked r1 of both to 1, whatever is drawn.
    assert found["interval"]["rsum"] == pytest.approx([1 + 2 * end for end in slow((A, B), 1000)])
    assert found["reranked"]["interval"]["rsum"] == pytest.approx([1.0, 1.0])
    assert found["reranked"]["t2i"]["interval"]["r1"] == pytest.approx(slow((A, B), 1000))
    assert "interval" not in mean["reranked"]
