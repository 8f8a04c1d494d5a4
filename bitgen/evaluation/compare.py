"""Two checkpoints on the same items: by how much the second is better, and whether other photographs would say so too."""

from typing import Any

import numpy as np

from bitgen.evaluation.bootstrap import RESAMPLES, other_sign, percentiles, resampled_means, stated
from bitgen.evaluation.items import Items, ItemsError


def compare(a: Items, b: Items, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """What `b` scores beside `a`, by the paired bootstrap: each resample takes the same photographs of both.

    Returns {"items", "bootstrap": as `bootstrap.stated`, "figures": {NAME: {"a", "b", "difference" (b - a), "interval" (of the
    difference), "p"}}} for the figures that both have. With one photograph there is neither "interval" nor "p". How p is
    defined: `bootstrap.other_sign`; it is of one figure by itself, so of twenty figures that do not differ one falls below 0.05.
    Raises `ItemsError` where the items are not the same in the same order, or no figure is.
    """
    check_same(a, b)
    names = [name for name in a.values if name in b.values]
    if not names:
        raise ItemsError(f"expected a figure that both have, found {list(a.values)} and {list(b.values)}")
    differences = np.stack([b.values[name] - a.values[name] for name in names], axis=1)
    settings = stated(a.photographs, seed, resamples)
    means = zip(names, differences.mean(axis=0).tolist(), strict=True)
    a_means, b_means = a.means(), b.means()
    figures: dict[str, dict[str, Any]] = {
        name: {"a": a_means[name], "b": b_means[name], "difference": difference} for name, difference in means
    }
    if settings["photographs"] > 1:
        draws = resampled_means(differences, a.photographs, seed, resamples)
        ends, p = percentiles(draws).tolist(), other_sign(draws).tolist()
        for number, found in enumerate(figures.values()):
            found |= {"interval": ends[number], "p": p[number]}
    return {"items": len(a.keys), "bootstrap": settings, "figures": figures}


def check_same(a: Items, b: Items) -> None:
    """Raises `ItemsError` unless both hold the same items of the same photographs in the same order."""
    if len(a.keys) != len(b.keys):
        raise ItemsError(f"expected the same items of both checkpoints, found {len(a.keys):,} and {len(b.keys):,}")
    pairs = zip(a.keys, b.keys, a.photographs.tolist(), b.photographs.tolist(), strict=True)
    for number, (key, other, photograph, another) in enumerate(pairs):
        if key != other or photograph != another:
            raise ItemsError(
                f"expected the same items of both checkpoints, found {key} of photograph {photograph} and {other} of {another} "
                f"as item {number:,}"
            )
