"""Intervals of what is averaged over several sets.

Axes: P items, F figures, R resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgen.evaluation.bootstrap import RESAMPLES, percentiles, resampled
from bitgen.evaluation.items import Items

Scored = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Values [P, F] of the items of a set, and [P] their photographs."""
_RERANKED = "reranked_"


def resampled_set_means(
    sets: Sequence[Scored],
    seed: int,
    resamples: int,
    figures: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda means: means,
) -> NDArray[np.float64]:
    """[R, F'] the mean over `sets` of the `figures` of each set's means, in every resample of the photographs of all of them.

    A photograph that several sets hold, as those of RefCOCO and RefCOCO+, is drawn as often in each. A resample that leaves a set
    without any photograph has NaN.
    """
    known = np.unique(np.concatenate([groups for _, groups in sets]))
    parts = []
    for values, groups in sets:
        group = np.searchsorted(known, groups)
        sums = np.stack([np.bincount(group, weights=each, minlength=len(known)) for each in values.T], axis=1)
        parts.append((sums, np.bincount(group, minlength=len(known)).astype(np.float64)))

    def means(times: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return np.mean([figures((times @ sums) / (times @ sizes)[:, None]) for sums, sizes in parts], axis=0)

    return resampled(means, len(known), seed, resamples)


def ends(draws: NDArray[np.float64], names: Sequence[str]) -> dict[str, list[float]]:
    """[low, high] of each figure, of the draws [R, F] that have all sets."""
    kept = draws[np.isfinite(draws).all(axis=1)]
    return dict(zip(names, percentiles(kept).tolist(), strict=True)) if len(kept) else {}


def with_grounding_intervals(mean: Mapping[str, Any], sets: Sequence[Items], seed: int) -> dict[str, Any]:
    """`mean` over sets as `tables.mean` gives it, with the "interval" of each figure that all have."""
    return {**mean, "interval": ends(*_draws(sets, seed))}


def with_retrieval_intervals(
    mean: Mapping[str, Any], t2i: Sequence[Items], i2t: Sequence[Items], seed: int
) -> dict[str, Any]:
    """Likewise of recalls and their sums; not of median ranks. Both ways are of the same photographs, draw by draw."""
    found, sums = dict(mean), dict[str, NDArray[np.float64]]()
    if "reranked" in mean:
        found["reranked"] = dict(mean["reranked"])
    for way, sets in (("t2i", t2i), ("i2t", i2t)):
        draws, names = _draws(sets, seed)
        for prefix, into in (("", found), (_RERANKED, found.get("reranked"))):
            columns = {name.removeprefix(prefix): n for n, name in enumerate(names) if _is_of(name, prefix)}
            if into is None or not columns:
                continue
            into[way] = {**into[way], "interval": ends(draws[:, list(columns.values())], list(columns))}
            sums[prefix] = sums.get(prefix, np.zeros(len(draws))) + draws[:, list(columns.values())].sum(axis=1)
            into["interval"] = ends(sums[prefix][:, None], ["rsum"])
    return found


def _is_of(name: str, prefix: str) -> bool:
    return name.startswith(_RERANKED) == bool(prefix)


def _draws(sets: Sequence[Items], seed: int) -> tuple[NDArray[np.float64], list[str]]:
    names = [name for name in sets[0].values if all(name in each.values for each in sets)]
    scored = [(np.stack([each.values[name] for name in names], axis=1), each.photographs) for each in sets]
    return resampled_set_means(scored, seed, RESAMPLES), names
