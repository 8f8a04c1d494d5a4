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
        Bar(f"{each['way']}, head {each['head']}: {each['loss']}", each["importance"], losses.index(each["loss"]))
        for each in found["heads"][:MOST]
        if isfinite(each["importance"]) and each["loss"]
    ]
    title = f"The {len(bars)} heads without which a loss rises most"
    wrong = sum(not isfinite(each["importance"]) for each in found["heads"])
    small = "percent of that loss, in the order of one half of the photographs, measured on the other"
    small += f"; {wrong} heads left out, without which one is not finite" if wrong else ""
    return figures | {"heads-ranking": bar_ranking(title, bars, small=small, say=share)}


def _matrix(found: Mapping[str, Any], loss: str) -> Html:
    rises = {(each["way"], each["head"]): each["rise"][loss] for each in found["heads"] if loss in each["rise"]}
    ways = [way for way, rise in found["ways"].items() if loss in rise]
    heads = 1 + max(head for _, head in rises)
    lines = [
        [*(rises.get((way, head)) for head in range(heads)), found["random"][way][loss], found["ways"][way][loss]]
        for way in ways
    ]
    many = f"{count(found['counts'][loss])} {_COUNTED[loss]}"
    title = f"Rise of {loss} from {figure(found['base'][loss], '.3f')} without a head"
    columns = [*(f"head {head}" for head in range(heads)), "random", "all"]
    darkest = max((abs(value) for value in rises.values() if isfinite(value)), default=0.0)
    small = f"of {many}; random: as many channels as one head has"
    return matrix_chart(title, lines, ways, columns, small=small, say=lambda v: f"{v:+.3f}", most=darkest or None)
