"""How far a figure of a set may be trusted: percentile bootstrap intervals, and whether two means differ.

What was measured on one photograph (its texts, its phrases) is alike, so photographs are drawn with replacement and bring all
that belongs to them: intervals over single phrases would be too narrow. Most figures of a resample are means over the items
drawn; others (medians, areas under curves) are made of how often each photograph is drawn. Equal seeds and as many photographs
give the same draws, so that figures can be added up, draw by draw. Sources: Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13 (percentiles); Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8 (groups).

What an interval does not say: of few photographs it is too narrow (in a trial one of 5 held the truth 85 times in 100, of 10 89
times, of 40 93 times; `covers` in tests/evaluation/test_bootstrap.py); where all items score the same it has no width; and it is
about other photographs from the same source, with the checkpoint and, in retrieval, the gallery as they are. What is
chosen because it is greatest (the best head of many) is chosen on one half of the photographs and told of the other (`halves`).

Axes: P items, F figures, G photographs, R resamples.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
PERCENT = 95
"""Of the resamples, the middle ones that an interval holds."""
DRAWS = 1 << 20
"""Photographs drawn at once, about 32 MB: 1,000 resamples of 100,000 photographs would be 800 MB."""

Figures = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""[R, F] the figures of resamples, of how often each has each photograph, [R, G]."""


def intervals(
    values: Mapping[str, NDArray[np.float64]], groups: NDArray[np.int64], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, list[float]]:
    """[low, high] of the mean of each figure; {} for one photograph, which says nothing of others.

    Args:
        values: [P] of each figure.
        groups: [P] the photograph of each item.
    """
    if len(np.unique(groups)) < 2:
        return {}
    draws = resampled_means(np.stack(list(values.values()), axis=1), groups, seed, resamples)
    return dict(zip(values, percentiles(draws).tolist(), strict=True))


def halves(groups: NDArray[np.int64], seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[P] the items of a random half of the photographs, to choose by, and those of the others, to tell of what was chosen; both
    are all items where there is one photograph. Of an odd number the second half is the larger."""
    known = np.unique(groups)
    if len(known) < 2:
        return np.ones(len(groups), dtype=bool), np.ones(len(groups), dtype=bool)
    first = np.isin(groups, np.random.default_rng(seed).permutation(known)[: len(known) // 2])
    return first, ~first


def stated(groups: NDArray[np.int64], seed: int, resamples: int) -> dict[str, Any]:
    """What intervals are of, to stand beside them: {"percent", "resamples", "seed", "photographs"}."""
    return {"percent": PERCENT, "resamples": resamples, "seed": seed, "photographs": len(np.unique(groups))}


def resampled_means(
    values: NDArray[np.float64], groups: NDArray[np.int64], seed: int, resamples: int, draws: int = DRAWS
) -> NDArray[np.float64]:
    """[R, F] the mean of every figure in every resample, the same for equal arguments and one version of numpy.

    Args:
        values: [P, F].
        groups: [P] the photograph of each item.
        draws: photographs drawn at once; of no effect but on the last digit.

    A photograph that is drawn c times counts c times: items are added up by photograph once, and no index of items is made.
    """
    known, group = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(group, weights=column, minlength=len(known)) for column in values.T], axis=1)
    sizes = np.bincount(group, minlength=len(known)).astype(np.float64)
    return resampled(lambda times: (times @ sums) / (times @ sizes)[:, None], len(known), seed, resamples, draws)


def resampled(figures: Figures, photographs: int, seed: int, resamples: int, draws: int = DRAWS) -> NDArray[np.float64]:
    """[R, F] `figures` of every resample of G `photographs`, which it numbers from 0; draws as in `resampled_means`."""
    if resamples < 1:
        raise ValueError(f"expected one or more resamples, found {resamples}")
    random = np.random.default_rng(seed)
    at_once = max(1, draws // photographs)
    found = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = random.integers(photographs, size=(rows, photographs)) + photographs * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * photographs).reshape(rows, photographs)
        found.append(figures(times.astype(np.float64)))
    return np.concatenate(found)


def percentiles(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """[F, 2] low and high ends of the middle `PERCENT` of `draws` [R, F], interpolated between neighbours."""
    beyond = (1 - PERCENT / 100) / 2
    return np.quantile(draws, (beyond, 1 - beyond), axis=0).T


def other_sign(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """[F] twice the share of resampled differences [R, F] on the rarer side of 0, at most 1: what is read as a p-value.

    A difference of 0 counts to both sides, and one resample is added to each count, so that p is 1 where nothing differs and
    never 0. It is below 0.05 about where the interval leaves out 0. Sources: the test that goes with a percentile interval,
    Efron and Tibshirani 1993, section 15.4; the count of resamples of the other sign as in Koehn, W04-3250, which is the one of
    Berg-Kirkpatrick et al., D12-1091 (more than twice the difference found) where resamples lie evenly around it; the added
    resample, Davison and Hinkley 1997, section 4.2.
    """
    rarer = np.minimum((draws <= 0).sum(axis=0), (draws >= 0).sum(axis=0))
    return np.minimum(1.0, 2 * (1 + rarer) / (1 + len(draws)))
