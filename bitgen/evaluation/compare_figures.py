"""Differences between two checkpoints, as figures."""

from collections.abc import Mapping
from typing import Any

from bitgen.evaluation.bootstrap import PERCENT
from bitgen.evaluation.charts import Span, interval_chart
from bitgen.evaluation.page import Html
from bitgen.evaluation.tables import FIGURES

_TOGETHER: Mapping[str, tuple[str, ...]] = {
    "retrieval": ("t2i", "i2t"),
    "grounding": ("grounding",),
    "captioning": ("captioning",),
}
"""Kinds of items that share an axis. CIDEr-D, which goes to 1,000%, has not that of recalls."""

_WAYS = {"t2i": "text to image, ", "i2t": "image to text, "}


def difference_figures(kinds: Mapping[str, Mapping[str, Any]], a: str, b: str) -> dict[str, Html]:
    """Each a `<figure>`, by a name fit for a file.

    Args:
        kinds: of one set, what `compare.compare` returns by kind of items; a, b: names of the two.
    """
    figures = {}
    for name, together in _TOGETHER.items():
        spans = [
            Span(f"{_WAYS.get(kind, '')}{figure}", 100 * found["difference"], ends)
            for kind in together
            if kind in kinds
            for each, found in kinds[kind]["figures"].items()
            for figure, ends in [(FIGURES.get(each, each), _ends(found))]
        ]
        if spans:
            small = f"percentage points, with {PERCENT}% intervals; to the right {b} is better"
            figures[f"differences-{name}"] = interval_chart(
                f"{name.capitalize()}: {b} less {a}", spans, small=small, say=lambda points: f"{points:+.1f}"
            )
    return figures


def _ends(found: Mapping[str, Any]) -> tuple[float, float] | None:
    if "interval" not in found:
        return None
    low, high = found["interval"]
    return 100 * low, 100 * high
