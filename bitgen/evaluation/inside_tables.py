"""What was found inside a checkpoint as tables, for the terminal and for the page.

Each takes sets: a label and what the function of that name found on it. Rows that only stand for comparison are the lesser ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bitgen.evaluation.efficiency_figures import PARTS
from bitgen.evaluation.page import count, figure, share, size
from bitgen.evaluation.tables import Table

Sets = Sequence[tuple[str, Mapping[str, Any]]]
HEADS = 10
"""Of a ranking."""
_READ = ("held_out_key", "written_key", "nearest_key", "empty", "shuffled", "chance")
_NAMED = ("recall", "reading", "cache", "nearest", "empty", "shuffled", "chance")


def memory_table(sets: Sets) -> Table:
    """Texts of other photographs recalled, and the doubt about unwritten ones, by the number written."""
    rows: list[tuple[str, ...]] = []
    for label, found in sets:
        for pairs, shares in found["recall"]["other"].items():
            ends = shares.get("interval", {}).get("held_out_key")
            low, high = map(share, ends) if ends else ("", "")
            doubt = found["novelty"].get(pairs)
            told = [share(doubt[name]) if doubt else "" for name in ("auc", "evidence", "nearest_key")]
            figures = [share(shares[name]) for name in _READ]
            rows.append((f"{label}: {pairs} written", figures[0], low, high, *figures[1:], *told))
    header = ("memory, %", "by other half", "from", "to", "by written half", "nearest key", "nothing written")
    return Table((*header, "another memory", "chance", "novelty AUC", "by evidence", "by nearest key"), tuple(rows), ())


def naming_table(sets: Sets) -> Table:
    """Photographs named right after one view of each, by the number of names."""
    rows = [
        (f"{label}: {ways} names", count(shares["asked"]), *(share(shares[who]) for who in _NAMED))
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
    return Table((*header, "shuffled", "chance"), tuple(rows), ())


def forgetting_table(sets: Sets) -> Table:
    """What is recalled before and after half of an episode is forgotten, and where that half was never written."""
    rows, lesser = [], []
    for label, found in sets:
        for half in ("forgotten", "kept"):
            shares = found["forgetting"]["recall"][half]
            rows.append((f"{label}: {half}", *(share(shares[when]) for when in ("before", "after", "never"))))
        lesser.append(len(rows))
        rows.append(("chance", *3 * [share(found["forgetting"]["chance"])]))
    return Table(("forgetting, % recalled", "before", "after", "never written"), tuple(rows), tuple(lesser))


def attention_table(sets: Sets) -> Table:
    """How much of the attention of the best head of each way lies in a phrase's boxes; means over heads for the control."""
    rows, lesser = [], []
    for label, found in sets:
        for way, figures in found["ways"].items():
            best = max(range(len(figures["in_box"])), key=lambda head: figures["in_box"][head] or 0)
            others = figures.get("shuffled")
            rows.append(
                (
                    f"{label}: {way}, head {best}",
                    count(found["phrases"]),
                    share(figures["in_box"][best]),
                    share(others[best]) if others else "",
                    share(figures["peak_in_box"][best]),
                    figure(figures["patches"][best], ".1f"),
                )
            )
        lesser.append(len(rows))
        rows.append(("everywhere alike", "", share(found["area"]), "", "", ""))
    header = (
        "attention, best heads",
        "phrases",
        "in the boxes, %",
        "with other words, %",
        "peak in a box, %",
        "patches",
    )
    return Table(header, tuple(rows), tuple(lesser))


def vectors_table(sets: Sets) -> Table:
    """How near images and their own texts are, beside those of others."""
    rows = [
        (label, count(found["pairs"]), *(figure(found[name], ".3f") for name in ("own_cosine", "other_cosine", "gap")))
        for label, found in sets
    ]
    header = ("vectors", "pairs", "cosine with its own text", "with another's", "gap between the means")
    return Table(header, tuple(rows), ())


def heads_table(sets: Sets) -> Table:
    """The heads without which a loss rises most."""
    rows = [
        (
            f"{label}: {each['way']}, head {each['head']}",
            share(each["importance"]),
            *(
                figure(each["rise"][loss], "+.3f") if loss in each["rise"] else ""
                for loss in ("contrast", "caption", "grounding")
            ),
        )
        for label, found in sets
        for each in found["heads"][:HEADS]
    ]
    return Table(("without a head", "rise, %", "contrast", "caption", "grounding"), tuple(rows), ())


def efficiency_table(found: Mapping[str, Any]) -> Table:
    """Operations and latencies of one image and one text."""
    rows = [
        (
            name,
            count(found["flops"][part]),
            f"{found['latency'][part]['median_ms']:.2f}",
            f"{found['latency'][part]['p90_ms']:.2f}",
            count(found["latency"][part]["repetitions"]),
        )
        for part, name in PARTS.items()
    ]
    return Table(("at batch 1", "operations", "median, ms", "90%, ms", "repetitions"), tuple(rows), ())


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
