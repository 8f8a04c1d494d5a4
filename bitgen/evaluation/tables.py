"""results.json as tables, for the terminal and for the page, and the mean over several sets.

A result: {"train": {"retrieval": {...}, "grounding": {...}, "datasets": {NAME: {"retrieval": {...}}}}, "heldout": ...};
what lies under "retrieval" is what `retrieval.summarise` returns, under "grounding" what `evaluate_grounding` returns, and under
"captioning" what `evaluate_captioning` returns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitgen.evaluation.bootstrap import PERCENT
from bitgen.evaluation.page import figure, share

SPLITS = {"train": "train", "heldout": "held out"}
CONTROLS = {"constant_box": "constant box", "whole_image": "whole image", "shuffled_text": "shuffled text"}
CAPTION_CONTROLS = {"shuffled_captions": "captions of other images", "constant_caption": "one caption for all"}
CAPTION_FIGURES = {"cider_d": "CIDEr-D", "bleu1": "BLEU-1", "bleu4": "BLEU-4", "rouge_l": "ROUGE-L"}
JAVA_FIGURES = {"meteor": "METEOR", "spice": "SPICE"}
"""Shown where a set has them."""
DIRECTIONS = {"t2i": "text→image", "i2t": "image→text"}
FIGURES = {
    **{f"r{k}": f"R@{k}" for k in (1, 5, 10)},
    **{f"reranked_r{k}": f"R@{k} re-ranked" for k in (1, 5, 10)},
    "acc25": "IoU ≥ 0.25",
    "acc50": "IoU ≥ 0.5",
    "acc75": "IoU ≥ 0.75",
    "mean_iou": "mean IoU",
    "giou50": "GIoU ≥ 0.5",
    "any_box_acc50": "any box",
    "pointing": "pointing",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
}
"""What items are measured by (`bitgen.evaluation.items`), in words; others stand under their own names."""
_RECALLS = ("r1", "r5", "r10")
_ACCURACIES = ("acc50", "mean_iou", "acc25", "acc75", "giou50", "any_box_acc50", "pointing")
ADDED = ("images", "texts", "phrases", "truncated", "not_finite", "references", "repeated", "unfinished", "empty")
"""Counts, which are added up over sets where shares are averaged."""

Ends = tuple[str, str]
"""The ends of an interval, as they stand in a table."""


@dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lesser: tuple[int, ...]
    """Numbers of the rows that only stand for comparison."""


def mean(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shares averaged over sets, each set counting once; counts added up; what is neither is left out."""
    if len(found) == 1:
        return dict(found[0])
    result: dict[str, Any] = {}
    for name, value in found[0].items():
        values = [each[name] for each in found if name in each]
        if len(values) < len(found):
            continue
        if isinstance(value, Mapping):
            inner = mean(values)
            if inner:
                result[name] = inner
        elif name in ADDED:
            result[name] = sum(values)
        elif isinstance(value, float):
            result[name] = sum(values) / len(values)
    return result


def retrieval_table(results: Mapping[str, Any]) -> Table:
    """Recalls in percent, their sum (rsum) and median ranks; under a set the ends of its intervals, re-ranking, and chance."""
    rows: list[tuple[str, ...]] = []
    lesser = []
    for label, found in _sets(results, "retrieval"):
        counts = f"{found['images']:,}", f"{found['texts']:,}"
        own = [(label, found)]
        if again := found.get("reranked"):
            which = f"first {again['k']:,} re-ranked" if "k" in again else "re-ranked"
            own.append((f"{label}, {which}", again))
        for name, each in own:
            rows.append((name, *counts, *_direction(each["t2i"]), *_direction(each["i2t"]), share(each["rsum"])))
            directions = [cell for way in DIRECTIONS for cell in _direction_ends(each[way])]
            under = end_rows([None, None, *directions, *ends_of(each, ["rsum"])])
            lesser += range(len(rows), len(rows) + len(under))
            rows += under
        chance = found["chance"]
        lesser.append(len(rows))
        rsum = sum(chance[direction][name] for direction in DIRECTIONS for name in _RECALLS)
        rows.append(("chance", "", "", *_direction(chance["t2i"]), *_direction(chance["i2t"]), share(rsum)))
    header = ("retrieval, %", "images", "texts", "text→image R@1", "R@5", "R@10", "median")
    return Table((*header, "image→text R@1", "R@5", "R@10", "median", "rsum"), tuple(rows), tuple(lesser))


def captioning_table(results: Mapping[str, Any]) -> Table:
    """Figures times 100, and how many captions differ and are empty; under a set the ends of its intervals, and its controls."""
    found = _sets(results, "captioning")
    names = CAPTION_FIGURES | {k: v for k, v in JAVA_FIGURES.items() if any(k in entry for _, entry in found)}
    rows: list[tuple[str, ...]] = []
    lesser = []
    for label, entry in found:
        counts = [f"{entry[name]:,}" for name in ("images", "references")]
        said = [f"{entry[name]:,}" if name in entry else "" for name in ("distinct", "empty")]
        rows.append((label, *counts, *_hundredths(entry, names), *said))
        under = end_rows([None, None, *ends_of(entry, names), None, None])
        lesser += range(len(rows), len(rows) + len(under))
        rows += under
        for name, control in entry["controls"].items():
            lesser.append(len(rows))
            fitted = f", from {control['fitted_on']}" if "fitted_on" in control else ""
            rows.append((f"{CAPTION_CONTROLS[name]}{fitted}", "", "", *_hundredths(control, names), "", ""))
    header = ("captioning, × 100", "images", "references", *names.values(), "different", "empty")
    return Table(header, tuple(rows), tuple(lesser))


def grounding_table(results: Mapping[str, Any]) -> Table:
    """Accuracies in percent; under a set the ends of its intervals, and its controls."""
    rows: list[tuple[str, ...]] = []
    lesser = []
    for label, found in _sets(results, "grounding"):
        rows.append((label, *_accuracies(found)))
        under = end_rows([None, *ends_of(found, _ACCURACIES)])
        lesser += range(len(rows), len(rows) + len(under))
        rows += under
        for name, control in found["controls"].items():
            lesser.append(len(rows))
            fitted = f", fitted on {control['fitted_on']}" if "fitted_on" in control else ""
            rows.append((f"{CONTROLS[name]}{fitted}", *_accuracies(control)))
    header = ("grounding, %", "phrases", *(FIGURES[name] for name in _ACCURACIES))
    return Table(header, tuple(rows), tuple(lesser))


def comparison_table(comparisons: Mapping[str, Mapping[str, Mapping[str, Any]]], a: str = "A", b: str = "B") -> Table:
    """Two checkpoints by the names `a` and `b`: figures in percent, their differences in percentage points.

    Args:
        comparisons: by set and by kind of items (`t2i`, `i2t`, `grounding`, `captioning`), what `compare.compare` returns.
    """
    rows: list[tuple[str, ...]] = []
    lacks = [
        name
        for name in ("only_a", "only_b")
        if any(each.get(name) for kinds in comparisons.values() for each in kinds.values())
    ]
    for label, kinds in comparisons.items():
        for kind, compared in kinds.items():
            counts = [f"{compared.get(name, 0):,}" for name in ("items", *lacks)]
            place = f"{label} {DIRECTIONS[kind]}" if kind in DIRECTIONS else label
            for name, found in compared["figures"].items():
                low, high = (f"{100 * end:+.1f}" for end in found["interval"]) if "interval" in found else ("", "")
                figures = f"{100 * found['a']:.1f}", f"{100 * found['b']:.1f}", f"{100 * found['difference']:+.1f}"
                p = f"{found['p']:.3f}" if "p" in found else ""
                rows.append((f"{place}: {FIGURES.get(name, name)}", *counts, *figures, low, high, p))
    others = [{"only_a": f"only {a}", "only_b": f"only {b}"}[name] for name in lacks]
    header = ("comparison, %", "items", *others, a, b, "difference", f"{PERCENT}% from", "to", "p")
    return Table(header, tuple(rows), ())


def plain(table: Table) -> str:
    """Aligned columns for a terminal; the rows of comparison are indented."""
    rows = [(f"  {row[0]}", *row[1:]) if n in table.lesser else row for n, row in enumerate(table.rows)]
    lines = [table.header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    drawn = [
        "  ".join((line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))))
        for line in lines
    ]
    return "\n".join((drawn[0], "-" * len(drawn[0]), *drawn[1:]))


def ends_of(
    found: Mapping[str, Any], names: Iterable[str], say: Callable[[float | None], str] = share
) -> list[Ends | None]:
    """The ends of the "interval" of each of `names` as `say` writes them; None for a figure without one."""
    known = found.get("interval") or {}
    return [(say(known[name][0]), say(known[name][1])) if name in known else None for name in names]


def end_rows(cells: Sequence[Ends | None]) -> list[tuple[str, ...]]:
    """Two rows that stand under figures, of the low and of the high ends of their intervals; none where no figure has one."""
    if not any(cells):
        return []
    columns = [cell or ("", "") for cell in cells]
    return [(f"{PERCENT}% {name}", *(column[end] for column in columns)) for end, name in enumerate(("from", "to"))]


def _sets(results: Mapping[str, Any], task: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Label and result of every set, and of the mean where a split has several."""
    found = []
    for split, label in SPLITS.items():
        sets = results.get(split, {}).get("datasets", {})
        names = [name for name in sets if task in sets[name]]
        found += [(f"{label}: {name}", sets[name][task]) for name in names]
        if len(names) > 1:
            found.append((f"{label}: mean of {len(names)}", results[split][task]))
    return found


def _direction_ends(found: Mapping[str, Any]) -> list[Ends | None]:
    return [*ends_of(found, _RECALLS), *ends_of(found, ["median_rank"], _rank)]


def _rank(value: float | None) -> str:
    return figure(value, ".1f").removesuffix(".0")


def _direction(found: Mapping[str, Any]) -> tuple[str, ...]:
    middle = found.get("median_rank")
    return (*(share(found[name]) for name in _RECALLS), "" if middle is None else _rank(middle))


def _accuracies(found: Mapping[str, Any]) -> tuple[str, ...]:
    return (f"{found['phrases']:,}", *(share(found[name]) for name in _ACCURACIES))


def _hundredths(found: Mapping[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    return tuple(share(found[name]) if name in found else "" for name in names)
