"""Two checkpoints on the same items: by how much the second is better, and whether other photographs would say so too.

Axes: P items, F figures.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgen.evaluation.bootstrap import RESAMPLES, other_sign, percentiles, resampled_means, stated
from bitgen.evaluation.items import CUT, Items, ItemsError


def compare(a: Items, b: Items, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """What `b` scores beside `a` on the same items, by the paired bootstrap: each resample takes the same photographs of both.

    Returns {"items", "only_a", "only_b", "neither" (phrases, of these, that the other or both of them cut off, as `paired` says),
    "bootstrap": as `bootstrap.stated`, "figures": {NAME: {"a", "b", "difference" (b - a), "interval" (of the difference), "p"}}}
    for the figures that both have. With one photograph there is neither "interval" nor "p". How p is defined:
    `bootstrap.other_sign`; it is of one figure by itself, so of twenty figures that do not differ one falls below 0.05. Raises
    `ItemsError` where no figure is in both, and as `paired`.
    """
    names = [name for name in a.values if name in b.values]
    if not names:
        raise ItemsError(f"expected a figure that both have, found {list(a.values)} and {list(b.values)}")
    pairs = paired(a, b)
    values = [
        # A row of -1, of an item that is cut off, is the 0 at the end.
        np.stack([np.append(each.values[name], 0.0)[rows] for name in names], axis=1)
        for each, rows in ((a, pairs.of_a), (b, pairs.of_b))
    ]
    differences = values[1] - values[0]
    settings = stated(pairs.photographs, seed, resamples)
    means = zip(names, *(each.mean(axis=0).tolist() for each in (*values, differences)), strict=True)
    figures: dict[str, dict[str, Any]] = {name: {"a": x, "b": y, "difference": more} for name, x, y, more in means}
    if settings["photographs"] > 1:
        draws = resampled_means(differences, pairs.photographs, seed, resamples)
        ends, p = percentiles(draws).tolist(), other_sign(draws).tolist()
        for number, found in enumerate(figures.values()):
            found |= {"interval": ends[number], "p": p[number]}
    a_cuts, b_cuts = pairs.of_a < 0, pairs.of_b < 0
    counts = {"only_a": b_cuts & ~a_cuts, "only_b": a_cuts & ~b_cuts, "neither": a_cuts & b_cuts}
    return {
        "items": len(pairs.photographs),
        **{name: int(rows.sum()) for name, rows in counts.items()},
        "bootstrap": settings,
        "figures": figures,
    }


@dataclass(frozen=True, eq=False)
class Paired:
    """The items of two checkpoints."""

    of_a: NDArray[np.int64]
    """[P] rows in a; -1 where it cuts the item off."""
    of_b: NDArray[np.int64]
    """[P] likewise."""
    photographs: NDArray[np.int64]
    """[P] as in `Items`."""


def paired(a: Items, b: Items) -> Paired:
    """Every item of either. One that the other lacks is a phrase beyond the other's token limit, one of its `CUT` items, which
    count as misses there, and so here; as many of those as are left over lie beyond both limits, each as if of a photograph of its
    own.

    Raises `ItemsError` where one has an item twice, where one lacks an item and has no such miss in its place, or where an item is
    of another photograph.
    """
    rows_a, rows_b = ({key: row for row, key in enumerate(each.keys) if not _is_cut(key)} for each in (a, b))
    cut_a, cut_b = (sum(map(_is_cut, each.keys)) for each in (a, b))
    for each, known in ((a, len(rows_a) + cut_a), (b, len(rows_b) + cut_b)):
        if known < len(each.keys):
            raise ItemsError(f"expected every item once, found {len(each.keys):,} of {known:,} names")
    only_a, only_b = [key for key in rows_a if key not in rows_b], [key for key in rows_b if key not in rows_a]
    left = cut_a - len(only_b), cut_b - len(only_a)
    if left[0] != left[1] or left[0] < 0:
        raise ItemsError(
            "expected the same items of both checkpoints, or a miss in the place of each that one lacks, found "
            f"{len(only_a):,} that only the first has for {cut_b:,} misses of the second, and {len(only_b):,} for {cut_a:,}: "
            f"{', '.join([*only_a[:1], *only_b[:1]]) or 'none by name'}, among others"
        )
    for key in (key for key in rows_a if key in rows_b):
        of_a, of_b = a.photographs[rows_a[key]], b.photographs[rows_b[key]]
        if of_a != of_b:
            raise ItemsError(f"expected the same photographs of both checkpoints, found {key} of {of_a} and of {of_b}")
    keys, beyond = [*rows_a, *only_b], [-1] * left[0]
    photographs = [a.photographs[rows_a[key]] if key in rows_a else b.photographs[rows_b[key]] for key in keys]
    return Paired(
        of_a=np.array([rows_a.get(key, -1) for key in keys] + beyond, dtype=np.int64),
        of_b=np.array([rows_b.get(key, -1) for key in keys] + beyond, dtype=np.int64),
        photographs=np.concatenate([np.array(photographs, dtype=np.int64), -1 - np.arange(left[0])]),
    )


def _is_cut(key: str) -> bool:
    return key.startswith(f"{CUT}.")
