"""What `evaluate_memory` found, as figures by name."""

from collections.abc import Mapping
from typing import Any

from bitgen.evaluation.charts import Bar, bar_ranking, matrix_chart
from bitgen.evaluation.page import Html, share
from bitgen.evaluation.plots import Marker, Series, line_chart

_RECALL = {
    "held_out_key": "by the other half",
    "written_key": "by the written half",
    "nearest_key": "nearest key, no memory",
    "empty": "nothing written",
    "shuffled": "another memory",
    "chance": "chance",
}
_NOVELTY = {
    "auc": "the memory's doubt",
    "evidence": "its evidence",
    "nearest_key": "nearest key, no memory",
    "empty": "nothing written",
    "shuffled": "another memory",
    "chance": "chance",
}
_NAMING = {
    "recall": "memory and keys",
    "reading": "memory alone",
    "cache": "cache of the memory's size",
    "nearest": "nearest key of all",
    "empty": "nothing written",
    "shuffled": "names shuffled",
}
_WHEN = {"before": "before", "after": "after forgetting", "never": "never written"}


def memory_figures(found: Mapping[str, Any]) -> dict[str, Html]:
    """Each a `<figure>`, by a name fit for a file; of a small set those that it allows."""
    photographs, slots = found["photographs"], found["slots"]
    titles = {"other": "Another photograph's text recalled", "own": "The photograph's own text recalled"}
    figures = {
        f"memory-recall-{kind}": _curves(
            f"{title}, among {found['searched']}; 1: {slots} slots", found["recall"][kind], _RECALL, slots
        )
        for kind, title in titles.items()
        if found["recall"][kind]
    }
    if found["novelty"]:
        title = f"Told from unwritten photographs (area under the curve); 1: {slots} slots"
        figures["memory-novelty"] = _curves(title, found["novelty"], _NOVELTY, slots)
    for ways, shares in found["naming"].items():
        bars = [Bar(name, shares[who], int(who in ("empty", "shuffled"))) for who, name in _NAMING.items()]
        figures[f"memory-naming-{ways}"] = bar_ranking(
            f"Named right of {ways} names, one view written of each",
            bars,
            small=f"percent of {shares['asked']:,}; the line: chance",
            mark=shares["chance"],
            say=share,
            most=1,
        )
    return figures | {"memory-forgetting": _forgetting(found["forgetting"]), "memory-slots": _slots(found, photographs)}


def _curves(title: str, curves: Mapping[str, Mapping[str, float]], names: Mapping[str, str], slots: int) -> Html:
    series = [
        Series(name, [(float(pairs), found[figure]) for pairs, found in curves.items()])
        for figure, name in names.items()
    ]
    marker = Marker(float(slots), f"as many as {slots} slots")
    return Html(line_chart(title, series, [marker], x_label="photographs written", doubling=True))


def _forgetting(found: Mapping[str, Any]) -> Html:
    bars = [
        Bar(f"{half}, {name}", found["recall"][half][when], int(half == "forgotten"))
        for half in ("forgotten", "kept")
        for when, name in _WHEN.items()
    ]
    title = f"Recalled of {found['written']} written, {found['forgotten']} of which are forgotten"
    small = f"percent, among {found['searched']}, {found['episodes']} times; the line: chance"
    return bar_ranking(title, bars, small=small, mark=found["chance"], say=share, most=1)


def _slots(found: Mapping[str, Any], photographs: int) -> Html:
    use = found["slot_use"]
    by_slot = [list(line) for line in zip(*use["shares"], strict=True)]
    title = "Share of what is written that each slot takes, episode after episode"
    small = f"percent; as even as {use['effective']:.1f} slots used alike; random keys {use['effective_random']:.1f}"
    names = [str(slot) for slot in range(found["slots"])]
    episodes = [str(n + 1) for n in range(use["episodes"])]
    x_label = f"episode, of {photographs} photographs"
    return matrix_chart(title, by_slot, names, episodes, small=small, x_label=x_label, say=share)
