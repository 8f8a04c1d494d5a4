"""What bitgen-eval wrote into a run's folder, as sections of its report."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from bitgen.evaluation.page import Html, join, paragraph, size_warning, table, text
from pipeline.measuring import Task
from pipeline.pages.comparison import comparison_parts
from pipeline.pages.evaluation import PAGE, tables

RESULTS, OFFICIAL, COMPARISON = "results.json", "official.json", "comparison.json"
_HEADINGS = {RESULTS: "Results", OFFICIAL: "Results on official files", COMPARISON: "Comparison"}
_TASK = f"(?:{'|'.join(get_args(Task))})"
_OURS = re.compile(rf"(results|official(-{_TASK})*|comparison|{_TASK}(-{_TASK})*)(-earlier-\d+)?\.json")
"""What bitgen-eval calls its files, unless told otherwise."""
_MEASURED = ("train", "heldout", "efficiency")
_WRONG = (LookupError, TypeError, AttributeError, ValueError)
"""What a file of another shape leads to."""


def result_sections(folder: Path) -> list[tuple[str, Html]]:
    """Heading and body: of results.json always; then of official.json, comparison.json and those of single tasks, where they are,
    and of every other file of bitgen-eval's, whatever it is called. One that cannot be read says so."""
    sections = []
    if not (folder / RESULTS).exists():
        sections.append(("Results", paragraph(f"None yet: bitgen-eval {folder} makes them.", "muted")))
    found = {path.name: path for path in sorted(folder.glob("*.json"))}
    first = [name for name in _HEADINGS if name in found]
    for name in (*first, *(name for name in found if name not in first)):
        if body := _body(found[name]):
            sections.append((_HEADINGS.get(name, name), body))
    return sections


def _body(path: Path) -> Html:
    """Empty where the file is no result."""
    is_named_so = _OURS.fullmatch(path.name) is not None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # which names what is wrong, and where in the file
        return _unreadable(path, f"found {error}") if is_named_so else Html("")
    is_one = isinstance(found, dict) and "format_version" in found
    is_comparison = is_one and "sets" in found
    if not is_named_so and not is_comparison and not (is_one and any(name in found for name in _MEASURED)):
        return Html("")
    draw: Callable[[Mapping[str, Any]], Html] = (
        comparison_parts if is_comparison or path.name.startswith("comparison") else _results
    )
    try:
        return join((draw(found), _link(path)))
    except _WRONG as error:
        return _unreadable(path, f"found {error!r}")


def _results(results: Mapping[str, Any]) -> Html:
    said = size_warning(results.get("train_photographs", 0))  # stands at the top of the page already
    notes = [paragraph(str(note), "warning") for note in results.get("notes", []) if note != said]
    lead = f"Of {results['checkpoint']}, by bitgen-eval. Rows set back are intervals, chance levels and controls."
    drawn = [table(each.header, each.rows, each.lesser) for each in tables(results)]
    return join((paragraph(lead, "muted"), *notes, *drawn))


def _link(path: Path) -> Html:
    """To the page with its figures, where that is."""
    page = path.with_suffix(".page") / PAGE
    there = f"{page.parent.name}/{page.name}"
    return Html(f'<a class="part" href="{text(there)}">figures: {text(there)}</a>') if page.is_file() else Html("")


def _unreadable(path: Path, what: str) -> Html:
    size = path.stat().st_size if path.exists() else 0
    return paragraph(
        f"{path.name} cannot be read: expected what bitgen-eval writes, {what}, in {size:,} bytes: {path}", "warning"
    )
