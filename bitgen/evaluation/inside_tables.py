"""What was found inside a checkpoint as tables, for the terminal and for the page.

Each takes sets: a label and what the function of that name found on it. The lesser rows are the ends of the intervals of the row
above them, and what only stands for comparison.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bitgen.evaluation.efficiency_figures import PARTS
from bitgen.evaluation.heads import LOSSES
from bitgen.evaluation.page import count, figure, share, size
from bitgen.evaluation.tables import Ends, Table, end_rows, ends_of

Sets = Sequence[tuple[str, Mapping[str, Any]]]
HEADS = 10
"""Of a ranking."""
_READ = ("held_out_key", "written_key", "nearest_key", "empty", "shuffled")
_TOLD = ("auc", "evidence", "nearest_key")
_NAMED = ("recall", "reading", "cache", "nearest", "empty", "shuffled")
_TIMES = ("median_ms", "p90_ms")
_LOOKED = ("in_box", "shuffled", "peak_in_box", "patches")


Line = tuple[tuple[str, ...], Sequence[Ends | None]]
"""A row, and under it the ends of its intervals; of none, None."""


def memory_table(sets: Sets) -> Table:
    """Texts of other photographs recalled, and the doubt about unwritten ones, by the number written."""
    lines: list[Line] = []
    for label, found in sets:
        for pairs, shares in found["recall"]["other"].items():
            doubt = found["novelty"].get(pairs, {})
            told = [share(doubt[name]) if doubt else "" for name in _TOLD]
            row = (f"{label}: {pairs} written", *(share(shares[name]) for name in (*_READ, "chance")), *told)
            lines.append((row, [*ends_of(shares, _READ), None, *ends_of(doubt, _TOLD)]))
    header = ("memory, %", "by other half", "by written half", "nearest key", "nothing written")
    return _table((*header, "another memory", "chance", "novelty AUC", "by evidence", "by nearest key"), lines)


def naming_table(sets: Sets) -> Table:
    """Photographs named right after one view of each, by the number of names."""
    lines: list[Line] = [
        (
            (f"{label}: {ways} names", count(shares["asked"]), *(share(shares[who]) for who in (*_NAMED, "chance"))),
            [None, *ends_of(shares, _NAMED), None],
        )
        for label, found in sets
        for ways, shares in found["naming"].items()
    ]
    header = (
        "naming, %",
        "asked",
        "memory and keys",
        "memory alone",
        "cache of its size",
        "nearest key",
        "nothing written",
    )
    return _table((*header, "shuffled", "chance"), lines)


def forgetting_table(sets: Sets) -> Table:
    """What is recalled before and after half of an episode is forgotten, and where that half was never written."""
    when = ("before", "after", "never")
    lines: list[Line] = []
    lesser: list[int] = []
    for label, found in sets:
        forgot = found["forgetting"]
        for half, pairs in (("forgotten", forgot["forgotten"]), ("kept", forgot["written"] - forgot["forgotten"])):
            shares = forgot["recall"][half]
            asked = count(pairs * forgot["episodes"])
            row = (f"{label}: {half}", asked, *(share(shares[name]) for name in when))
            lines.append((row, [None, *ends_of(shares, when)]))
        lesser.append(len(lines))
        lines.append((("chance", "", *3 * [share(forgot["chance"])]), []))
    return _table(("forgetting, % recalled", "asked", "before", "after", "never written"), lines, lesser)


def attention_table(sets: Sets) -> Table:
    """How much of the attention of the best head of each way lies in a phrase's boxes, and with another phrase's words; the best
    is chosen on one half of the photographs, and this is of the other."""
    lines: list[Line] = []
    lesser: list[int] = []
    for label, found in sets:
        for way, figures in found["ways"].items():
            own = figures["best"]  # there is no "shuffled" of a set of one image
            shares = [share(own[name]) if name in own else "" for name in _LOOKED[:3]]
            row = (
                f"{label}: {way}, head {own['head']}",
                count(found["told_phrases"]),
                *shares,
                figure(own["patches"], ".1f"),
            )
            ends = [*ends_of(own, _LOOKED[:3]), *ends_of(own, _LOOKED[3:], _form(".1f"))]
            lines.append((row, [None, *ends]))
        lesser.append(len(lines))
        lines.append((("everywhere alike", "", share(found["area"]), "", "", ""), [None, *ends_of(found, ["area"])]))
    header = (
        "attention, heads that are best on the other half",
        "phrases",
        "in the boxes, %",
        "with other words, %",
        "peak in a box, %",
        "patches",
    )
    return _table(header, lines, lesser)


def vectors_table(sets: Sets) -> Table:
    """How near images and their own texts are, beside those of others."""
    names = ("own_cosine", "other_cosine", "gap")
    lines: list[Line] = [
        (
            (label, count(found["pairs"]), *(figure(found[name], ".3f") for name in names)),
            [None, *ends_of(found, names, _form(".3f"))],
        )
        for label, found in sets
    ]
    return _table(("vectors", "pairs", "cosine with its own text", "with another's", "gap between the means"), lines)


def heads_table(sets: Sets) -> Table:
    """The heads without which a loss rises most, and under each its control, without as many channels at random."""
    lines: list[Line] = []
    lesser: list[int] = []
    for label, found in sets:
        for each in found["heads"][:HEADS]:
            images = count(found["images"]) if "images" in found else ""
            row = (f"{label}: {each['way']}, head {each['head']}", images, share(each["importance"]))
            ends = [*ends_of(each, ["importance"]), *ends_of(each, LOSSES, _form("+.3f"))]
            lines.append(((*row, *_rises(each["rise"])), [None, *ends]))
            if (control := found.get("random", {}).get(each["way"])) is not None:
                lesser.append(len(lines))
                ends = [None, None, *ends_of(control, LOSSES, _form("+.3f"))]
                lines.append((("channels at random", "", "", *_rises(control)), ends))
    return _table(("without a head", "images", "rise on the other half, %", *LOSSES), lines, lesser)


def _rises(found: Mapping[str, Any]) -> list[str]:
    return [figure(found[loss], "+.3f") if loss in found else "" for loss in LOSSES]


def _table(header: tuple[str, ...], lines: Iterable[Line], lesser: Iterable[int] = ()) -> Table:
    """Args: lesser: numbers of the lines that only stand for comparison."""
    rows: list[tuple[str, ...]] = []
    faint, behind = set(lesser), list[int]()
    for number, (row, cells) in enumerate(lines):
        under = end_rows(cells)
        padded = [(*each, *[""] * (len(header) - len(each))) for each in under]
        behind += range(len(rows) + (number not in faint), len(rows) + 1 + len(under))
        rows += [row, *padded]
    return Table(header, tuple(rows), tuple(behind))


def _form(form: str) -> Callable[[float | None], str]:
    return lambda value: figure(value, form)


def efficiency_table(found: Mapping[str, Any]) -> Table:
    """Operations and latencies of one image and one text; the ends of intervals of the latencies stand under each."""
    lines: list[Line] = []
    for part, name in PARTS.items():
        latency = found["latency"][part]
        times = [figure(latency[each], ".2f") for each in _TIMES]
        row = (name, count(found["flops"][part]), *times, count(latency["repetitions"]))
        lines.append((row, [None, *ends_of(latency, _TIMES, _form(".2f")), None]))
    return _table(("at batch 1", "operations", "median, ms", "90%, ms", "repetitions"), lines)


def size_table(found: Mapping[str, Any]) -> Table:
    """Parameters and bytes."""
    numbers = found["parameters"]
    rows = [(name, count(numbers[kind])) for kind, name in (("total", "parameters"), ("trained", "trained"))]
    rows.append(("of ternary layers", count(numbers["ternary"])))
    names = {
        "on_disk": "weights on disk",
        "fp32": "fp32, arithmetic",
        "ternary_2": "ternary layers at 2 bits, arithmetic",
    }
    names["ternary_1_58"] = "ternary layers at 1.58 bits, arithmetic"
    rows += [(name, size(found["bytes"][kind])) for kind, name in names.items() if kind in found["bytes"]]
    return Table(("size", ""), tuple(rows), ())
