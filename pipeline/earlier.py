"""What an evaluation found before stays where a new one of the same name does not find it again."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pipeline.files import read_json
from pipeline.measuring import Task

Measured = frozenset[tuple[str, str, str]]
"""Split, set and task; of a comparison "", set and kind of items."""
_SPLITS, _TASKS = ("train", "heldout"), get_args(Task)


def measured(found: Mapping[str, Any]) -> Measured:
    """Everything that results.json or comparison.json has figures of; of what is neither, nothing."""
    pairs = {("", name, kind) for name, kinds in _parts(found.get("sets")) for kind, _ in _parts(kinds)}
    if found.get("efficiency"):
        pairs.add(("", "", "efficiency"))
    for split in _SPLITS:
        sets = found.get(split)
        for name, entry in _parts(sets.get("datasets") if isinstance(sets, dict) else None):
            pairs |= {(split, name, task) for task, _ in _parts(entry) if task in _TASKS}
    return frozenset(pairs)


def put_aside(path: Path, page: Path, found: Mapping[str, Any]) -> Path | None:
    """Renames `path`, and the folder `page` beside it, where `found`, which is to take their place, lacks something that was
    measured there, or where nobody can tell, as it is broken or no file of bitgen-eval's: NAME-earlier-1.json. Returns where it is
    now; None where nothing would be lost.

    A file that measured the same and no more is no loss, whatever checkpoint it was of: that is what asking again is for.
    """
    if not path.exists():
        return None
    before = read_json(path)
    if before is not None and "format_version" in before and measured(before) <= measured(found):
        return None
    number = 1
    while (kept := path.with_name(f"{path.stem}-earlier-{number}{path.suffix}")).exists():
        number += 1
    os.replace(path, kept)
    if page.is_dir() and not kept.with_suffix(page.suffix).exists():
        os.replace(page, kept.with_suffix(page.suffix))
    return kept


def _parts(found: object) -> list[tuple[str, Any]]:
    return list(found.items()) if isinstance(found, dict) else []
