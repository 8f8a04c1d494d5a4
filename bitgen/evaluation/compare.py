"""Two checkpoints on the same items: by how much the second is better, and whether other photographs would say so too."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgen.evaluation.bootstrap import RESAMPLES, other_sign, percentiles, resampled_means, stated
from bitgen.evaluation.items import Items, ItemsError


def compare(a: Items, b: Items, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """What `b` scores beside `a` on the items that both have, by the paired bootstrap: each resample takes the same photographs of
    both.

    Returns {"items", "only_a", "only_b" (items that one has and the other has not: phrases beyond the token limit of one of them),
    "bootstrap": as `bootstrap.stated`, "figures": {NAME: {"a", "b", "difference" (b - a), "interval" (of the difference), "p"}}}
    for the figures that both have. With one photograph there is neither "interval" nor "p". How p is defined:
    `bootstrap.other_sign`; it is of one figure by itself, so of twenty figures that do not differ one falls below 0.05.
    Of phrases beyond the token limits, which have no names but numbers, as many are in both as the one with fewer has: what a
    longer text loses a shorter one has lost, and both miss it. Raises `ItemsError` where no item or no figure is in both, or an
    item is of another photograph.
    """
    of_a, of_b = common(a, b)
    names = [name for name in a.values if name in b.values]
    if not names:
        raise ItemsError(f"expected a figure that both have, found {list(a.values)} and {list(b.values)}")
    values = [np.stack([each.values[name][rows] for name in names], axis=1) for each, rows in ((a, of_a), (b, of_b))]
    differences, photographs = values[1] - values[0], a.photographs[of_a]
    settings = stated(photographs, seed, resamples)
    means = zip(names, *(each.mean(axis=0).tolist() for each in (*values, differences)), strict=True)
    figures: dict[str, dict[str, Any]] = {name: {"a": x, "b": y, "difference": more} for name, x, y, more in means}
    if settings["photographs"] > 1:
        draws = resampled_means(differences, photographs, seed, resamples)
        ends, p = percentiles(draws).tolist(), other_sign(draws).tolist()
        for number, found in enumerate(figures.values()):
            found |= {"interval": ends[number], "p": p[number]}
    only = {"only_a": len(a.keys) - len(of_a), "only_b": len(b.keys) - len(of_b)}
    return {"items": len(of_a), **only, "bootstrap": settings, "figures": figures}


def common(a: Items, b: Items) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of the items that both have, in `a` (ascending) and in `b`.

    Raises `ItemsError` where there is none, where one has an item twice, or where an item is of another photograph.
    """
    row_in_b = {key: row for row, key in enumerate(b.keys)}
    for each, known in ((a, len(set(a.keys))), (b, len(row_in_b))):
        if known < len(each.keys):
            raise ItemsError(f"expected every item once, found {len(each.keys):,} of {known:,} names")
    pairs = [(row, row_in_b[key]) for row, key in enumerate(a.keys) if key in row_in_b]
    if not pairs:
        raise ItemsError(
            f"expected items that both checkpoints have, found none: {a.keys[0]} and {b.keys[0]}, among others"
        )
    for row, other in pairs:
        if a.photographs[row] != b.photographs[other]:
            raise ItemsError(
                f"expected the same photographs of both checkpoints, found {a.keys[row]} of {a.photographs[row]} and "
                f"of {b.photographs[other]}"
            )
    rows = np.array(pairs, dtype=np.int64)
    return rows[:, 0], rows[:, 1]
