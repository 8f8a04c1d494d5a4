"""Two checkpoints on the same held-out sets, side by side, by the paired bootstrap."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitgen.evaluation.compare import compare
from bitgen.evaluation.items import Items
from pipeline.measuring import SCORED, Beside
from pipeline.official import Official
from pipeline.ready import Choice, asked, prepare
from pipeline.results import evaluate
from pipeline.sets import ResultsError

FORMAT_VERSION = 1
_ABOUT = ("run", "checkpoint", "phase", "step", "parameters", "holdout_sha256", "other_holdout", "notes")


def compare_checkpoints(
    a: str, b: str, root: str | Path | None, choice: Choice, official: Official | None = None
) -> dict[str, Any]:
    """Both are evaluated on everything that was held out, and what each scored on each text or phrase is compared.

    Args:
        a, b, root, official: as `prepare` takes them.
        choice: of its tasks those that are scored by item, retrieval, grounding and captioning.

    Returns {"format_version", "a", "b": what each is, "seed", "sets": {NAME: {KIND: as `compare` returns}}, "notes": what a reader
    must know}. Raises `ResultsError` where they have no set and task in common, or sets of one name that are not the same,
    before either is measured, as for everything else that either lacks; what evaluating raises comes through.
    """
    wrong = [task for task in choice.tasks if task not in SCORED]
    if wrong:
        raise ResultsError(f"expected tasks to compare among {', '.join(SCORED)}, found {', '.join(wrong)}")
    choice = replace(choice, splits=("heldout",), java=False)  # which scores no image by itself
    both = [prepare(checkpoint, root, choice, official) for checkpoint in (a, b)]
    of_a, of_b = (
        {(name, task) for (_, name), tasks in asked(ready.sets, choice).items() for task in tasks} for ready in both
    )
    if not of_a & of_b:
        raise ResultsError(f"expected a held-out set that both can be measured on, found none: {a} and {b}")
    for name in dict.fromkeys(name for name, _ in sorted(of_a & of_b)):
        shards = [[each["sha256"] for each in ready.sets.heldout[name].dataset["shards"]] for ready in both]
        if shards[0] != shards[1]:
            raise ResultsError(
                f"expected one {name} for both, found two that differ: --data says where both are measured"
            )
    abouts: list[dict[str, Any]] = []
    items: list[dict[tuple[str, str], Items]] = []
    for ready in both:
        beside = Beside()
        results = evaluate(ready, choice, beside)
        abouts.append({name: results[name] for name in _ABOUT})
        items.append(beside.items)
    sets = compared(items[0], items[1], choice.seed)
    found = {"format_version": FORMAT_VERSION, "a": abouts[0], "b": abouts[1], "seed": choice.seed, "sets": sets}
    return {**found, "notes": notes(found)}


def compared(
    a: Mapping[tuple[str, str], Items], b: Mapping[tuple[str, str], Items], seed: int
) -> dict[str, dict[str, Any]]:
    """By set and by kind of items, of those that both have."""
    found: dict[str, dict[str, Any]] = {}
    for (name, kind), items in a.items():
        if (name, kind) in b:
            found.setdefault(name, {})[kind] = compare(items, b[name, kind], seed)
    return found


def names_of(comparison: Mapping[str, Any]) -> tuple[str, str]:
    """Of the two, for a table: their runs, and where those are the same their checkpoints too."""
    a, b = comparison["a"], comparison["b"]
    if a["run"] != b["run"]:
        return a["run"], b["run"]
    return f"{a['run']} {a['checkpoint']}", f"{b['run']} {b['checkpoint']}"


def notes(comparison: Mapping[str, Any]) -> list[str]:
    """What a reader must know of either, and of what could not be compared, as sentences."""
    a, b = names_of(comparison)
    of_a, of_b = comparison["a"]["notes"], comparison["b"]["notes"]
    found = [note for note in of_a if note in of_b]
    found += [
        f"{name}: {note}"
        for name, own, other in ((a, of_a, of_b), (b, of_b, of_a))
        for note in own
        if note not in other
    ]
    for name, kinds in comparison["sets"].items():
        for kind, each in kinds.items():
            if each["only_a"] or each["only_b"] or each["neither"]:
                found.append(
                    f"{name}, {kind}: of {each['items']:,} phrases {each['only_a']:,} that only {a} reads count as misses of {b}, "
                    f"{each['only_b']:,} that only {b} reads as misses of {a}, and {each['neither']:,} that both cut off as misses "
                    "of both."
                )
    return found
