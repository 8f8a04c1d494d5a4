"""What `evaluate_heads` found, as figures by name."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from bitgen.evaluation.charts import Bar, bar_ranking, matrix_chart
from bitgen.evaluation.page import Html, count, figure, share

MOST = 20
"""Heads of a ranking."""
_COUNTED = {"contrast": "images", "caption": "tokens", "grounding": "phrases"}


def head_figures(found: Mapping[str, Any]) -> dict[str, Html]:
    """Each a `<figure>`, by a name fit for a file: for each loss all heads, and a ranking of the most important."""
    figures = {f"heads-{loss}": _matrix(found, loss) for loss in found["base"]}
    losses = list(found["base"])
    bars = [
        Bar(f"{each['way']}, head {each['head']}: {most}", each["importance"], losses.index(most))
        for each in found["heads"][:MOST]
        if isfinite(each["importance"]) and (most := _hit(found, each))
    ]
    title = f"The {len(bars)} heads without which a loss rises most"
    wrong = sum(not isfinite(each["importance"]) for each in found["heads"])
    small = "percent of that loss" + (f"; {wrong} heads left out, without which one is not finite" if wrong else "")
    return figures | {"heads-ranking": bar_ranking(title, bars, small=small, say=share)}


def _hit(found: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    """The loss that rises most; empty where none was asked for that the head can change."""
    rises = {loss: rise / max(found["base"][loss], 1e-12) for loss, rise in head["rise"].items()}
    return max(rises, key=lambda loss: rises[loss], default="")


def _matrix(found: Mapping[str, Any], loss: str) -> Html:
    rises = {(each["way"], each["head"]): each["rise"][loss] for each in found["heads"] if loss in each["rise"]}
    ways = [way for way, rise in found["ways"].items() if loss in rise]
    heads = 1 + max(head for _, head in rises)
    lines = [[*(rises.get((way, head)) for head in range(heads)), found["ways"][way][loss]] for way in ways]
    many = f"{count(found['counts'][loss])} {_COUNTED[loss]}"
    title = f"Rise of {loss} from {figure(found['base'][loss], '.3f')} without a head"
    columns = [*(f"head {head}" for head in range(heads)), "all"]
    darkest = max((abs(value) for value in rises.values() if isfinite(value)), default=0.0)
    return matrix_chart(
        title, lines, ways, columns, small=f"of {many}", say=lambda v: f"{v:+.3f}", most=darkest or None
    )
