"""Two checkpoints on the same held-out sets, side by side, by the paired bootstrap."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitgen.evaluation.compare import compare
from bitgen.evaluation.items import Items
from pipeline.measuring import SCORED, Beside
from pipeline.official import Official
from pipeline.results import Choice, evaluate_checkpoint
from pipeline.sets import ResultsError

FORMAT_VERSION = 1
_ABOUT = ("run", "checkpoint", "phase", "step", "parameters", "holdout_sha256", "other_holdout", "notes")


def compare_checkpoints(
    a: str, b: str, root: str | Path | None, choice: Choice, official: Official | None = None
) -> dict[str, Any]:
    """Both are evaluated on everything that was held out, and what each scored on each text or phrase is compared.

    Args:
        a, b, root, official: as `evaluate_checkpoint` takes them.
        choice: of its tasks those that are scored by item, retrieval, grounding and captioning.

    Returns {"format_version", "a", "b": what each is, "seed", "sets": {NAME: {KIND: as `compare` returns}}}. Raises `ResultsError`
    where they have no set and task in common; what evaluating raises comes through.
    """
    wrong = [task for task in choice.tasks if task not in SCORED]
    if wrong:
        raise ResultsError(f"expected tasks to compare among {', '.join(SCORED)}, found {', '.join(wrong)}")
    choice = replace(choice, splits=("heldout",), java=False)  # which scores no image by itself
    abouts: list[dict[str, Any]] = []
    items: list[dict[tuple[str, str], Items]] = []
    for checkpoint in (a, b):
        beside = Beside()
        results = evaluate_checkpoint(checkpoint, root, choice, official, beside)
        abouts.append({name: results[name] for name in _ABOUT})
        items.append(beside.items)
    sets = compared(items[0], items[1], choice.seed)
    if not sets:
        raise ResultsError(f"expected a held-out set that both were measured on, found none: {a} and {b}")
    return {"format_version": FORMAT_VERSION, "a": abouts[0], "b": abouts[1], "seed": choice.seed, "sets": sets}


def compared(
    a: Mapping[tuple[str, str], Items], b: Mapping[tuple[str, str], Items], seed: int
) -> dict[str, dict[str, Any]]:
    """By set and by kind of items, of those that both have."""
    found: dict[str, dict[str, Any]] = {}
    for (name, kind), items in a.items():
        if (name, kind) in b:
            found.setdefault(name, {})[kind] = compare(items, b[name, kind], seed)
    return found
