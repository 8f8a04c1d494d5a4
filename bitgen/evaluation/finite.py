"""What is said of figures that are not numbers: a checkpoint that gives NaN is evaluated like any other, and the result says so."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

NAMED = 6
"""Figures that a sentence names."""


class NotFiniteError(ValueError):
    """What a task measures from is not all numbers, so that it has no figures."""


def check_finite(what: str, values: Tensor) -> None:
    """Raises `NotFiniteError` unless every row of `values` [N, ...] is all numbers; `what` names the rows."""
    wrong = int((~values.flatten(1).isfinite().all(dim=1)).sum())
    if wrong:
        raise NotFiniteError(f"expected finite {what}, found {wrong:,} of {len(values):,} that are not")


def without_nonfinite(found: Any, place: str = "") -> tuple[Any, list[str]]:
    """A copy for JSON, which has no NaN and no infinity, with None in their place, and where those were: `t2i.r1`, `in_box[3]`."""
    if isinstance(found, float) and not math.isfinite(found):
        return None, [place]
    if isinstance(found, Mapping):
        parts = {name: without_nonfinite(each, f"{place}.{name}".removeprefix(".")) for name, each in found.items()}
        return {name: each for name, (each, _) in parts.items()}, [w for _, where in parts.values() for w in where]
    if isinstance(found, (list, tuple)):
        inner = [without_nonfinite(each, f"{place}[{number}]") for number, each in enumerate(found)]
        return [each for each, _ in inner], [w for _, where in inner for w in where]
    return found, []


def named(places: list[str]) -> str:
    """The first few of them, for a sentence."""
    rest = len(places) - NAMED
    return ", ".join(places[:NAMED]) + (f" and {rest:,} more" if rest > 0 else "")
