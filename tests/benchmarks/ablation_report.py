"""What `RESULTS.md` says of `results/ablations.json`, and the plot beside it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bitgen.evaluation.plots import Point, Series
from tests.benchmarks.ablation_scores import CLAIMS, MEANINGS
from tests.benchmarks.forest import Row, forest
from tests.benchmarks.plots import sheet

CURVES = {
    "recall": ("held_out_key", "nearest_key", "empty", "shuffled", "written_key", "forgotten", "chance", "known"),
    "naming": ("recall", "reading", "cache", "nearest", "shuffled", "empty", "chance"),
}
ASKED = {
    ("recall", "own"): ("Own captions recalled", "captions written"),
    ("recall", "other"): ("Captions of another scene recalled", "captions written"),
    ("naming", "unseen"): ("Things never trained on named", "pictures written of each of 8 names"),
}
"""By curve: what it is, and what runs across."""
ASKED_ARMS = ("base", "memory_off")
LOSS_ARMS = ("base", "fine_only", "concat", "full_precision", "no_region")


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Tables as Markdown, line by line, without the heading."""
    yield (
        "A claim holds (held) or fails (not held) in a figure where all seeds agree in sign and the mean difference is more than "
        "twice its standard error; where the claim is only not to be worse, it holds unless it is found worse."
    )
    yield ""
    for name, rows in found["claims"].items():
        claim = CLAIMS[name]
        yield f"**{claim.said}** (`{claim.first}` against `{claim.second}`)"
        yield ""
        yield from _table(
            ("figure", claim.first, claim.second, "difference", "seeds", "", "what it is"),
            [_compared(found["arms"], name, figure, each) for figure, each in rows.items()],
        )
    yield "![Differences of all claims](results/ablations-claims.svg)"
    yield ""
    yield "All arms:"
    yield ""
    shown = [name for name in MEANINGS if any(name in arm["mean"] for arm in found["arms"].values())]
    main = [name for name in shown if not name.startswith(("own", "other", "naming"))]
    yield from _table(("arm", *main, "what it is"), [_arm(name, arm, main) for name, arm in found["arms"].items()])
    yield from _curves(found)
    yield from _table(
        ("command", "seconds", ""),
        [(name, f"{found['seconds'][name]}", f"`{command}`") for name, command in found["commands"].items()],
    )
    clip = found["documentation"]["open_clip"]
    yield f"All stages of all seeds: {found['seconds']['all']:,} s. open_clip is set up as in {clip}."
    yield ""
    yield "![Recall, naming and the losses of grounding](results/ablations.svg)"
    yield ""


def plot(found: Mapping[str, Any]) -> str:
    """Recall and naming by what was written, and the losses of the fine phases, as SVG."""
    charts: dict[str, list[Series]] = {}
    labels: dict[str, str] = {}
    for (part, kind), (title, across) in ASKED.items():
        for arm in (arm for arm in ASKED_ARMS if arm in found[part]):
            shown = f"{title} ({arm})"
            ways = ("recall", "reading", "cache", "shuffled") if part == "naming" else CURVES[part][:4]
            charts[shown] = [Series(way, _points(found[part][arm][kind], way)) for way in ways]
            labels[shown] = across
    for loss in ("giou", "l1"):
        series = [Series(arm, _fine(found["curves"][arm], loss)) for arm in LOSS_ARMS if arm in found["curves"]]
        charts[f"Grounding, {loss}"] = [each for each in series if each.points]
    return sheet({title: series for title, series in charts.items() if series}, labels)


def differences(found: Mapping[str, Any]) -> str:
    """Every figure of every claim, as SVG."""
    rows: list[Row] = []
    for name, compared in found["claims"].items():
        claim = CLAIMS[name]
        rows.append(Row(f"{name}: {claim.first} less {claim.second}" if claim.first != claim.second else name))
        for figure, each in compared.items():
            label = next(whole for whole in claim.figures if whole.partition("/")[0] == figure)
            rows.append(Row(label, each["difference"], each["spread"], each["verdict"]))
    return forest(rows, "Differences, seed by seed: mean and standard deviation")


def _compared(arms: Mapping[str, Any], name: str, figure: str, each: Mapping[str, Any]) -> tuple[str, ...]:
    claim = CLAIMS[name]
    whole = next(f for f in claim.figures if f.partition("/")[0] == figure)
    theirs = whole.partition("/")[2] or figure
    return (
        whole,
        _with_spread(arms[claim.first], figure),
        _with_spread(arms[claim.second], theirs),
        f"{each['difference']:+.3f} ± {each['spread']:.3f}",
        str(each["seeds"]),
        each["verdict"],
        MEANINGS[figure],
    )


def _arm(name: str, arm: Mapping[str, Any], shown: Sequence[str]) -> tuple[str, ...]:
    return (name, *(_with_spread(arm, figure) for figure in shown), arm["what"])


def _with_spread(arm: Mapping[str, Any], figure: str) -> str:
    if figure not in arm["mean"]:
        return ""
    mean, spread = arm["mean"][figure], arm["spread"][figure]
    return f"{mean:,.0f} ± {spread:,.0f}" if mean > 2 else f"{mean:.3f} ± {spread:.3f}"


def _points(curve: Mapping[str, Any], way: str) -> list[Point]:
    return [(int(point), each["mean"][way]) for point, each in curve.items()]


def _fine(curves: Mapping[str, Sequence[Mapping[str, float]]], loss: str) -> list[Point]:
    """By the steps of the whole arm: a coarse phase before it shifts the curve."""
    before = curves["coarse"][-1]["step"] if curves.get("coarse") else 0
    return [(before + line["step"], line[loss]) for line in curves.get("fine", ()) if loss in line]


def _curves(found: Mapping[str, Any]) -> Iterator[str]:
    for (part, kind), (title, across) in ASKED.items():
        for arm in (arm for arm in ASKED_ARMS if arm in found[part]):
            yield f"{title}, `{arm}`, by {across}:"
            yield ""
            curve = found[part][arm][kind]
            rows = [(way, *(_with_spread(point, way) for point in curve.values())) for way in CURVES[part]]
            yield from _table(("", *curve), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield f"| {' | '.join(head)} |"
        yield f"|{'---|' * len(head)}"
        yield from (f"| {' | '.join(row)} |" for row in rows)
        yield ""
