"""What bitgen-eval wrote into a run's folder, as sections of its report."""

from pathlib import Path
from typing import Any

from bitgen.evaluation.page import Html, join, paragraph, size_warning, table
from pipeline.files import read_json
from pipeline.pages.comparison import comparison_parts
from pipeline.pages.evaluation import tables

RESULTS, OFFICIAL, COMPARISON = "results.json", "official.json", "comparison.json"
_WRONG = (LookupError, TypeError, AttributeError, ValueError)
"""What a file of another shape leads to."""


def result_sections(folder: Path) -> list[tuple[str, Html]]:
    """Heading and body: of results.json always; of official.json and comparison.json where they are."""
    sections = [
        ("Results", _results(folder / RESULTS) or paragraph(f"None yet: bitgen-eval {folder} makes them.", "muted"))
    ]
    if official := _results(folder / OFFICIAL):
        sections.append(("Results on official files", official))
    if compared := _comparison(folder / COMPARISON):
        sections.append(("Comparison", compared))
    return sections


def _results(path: Path) -> Html:
    """Empty where there are none."""
    results: dict[str, Any] = read_json(path) or {}
    if not results:
        return Html("")
    try:
        said = size_warning(results.get("train_photographs", 0))  # stands at the top of the page already
        notes = [paragraph(str(note), "warning") for note in results.get("notes", []) if note != said]
        lead = f"Of {results['checkpoint']}, by bitgen-eval. Rows set back are intervals, chance levels and controls."
        drawn = [table(each.header, each.rows, each.lesser) for each in tables(results)]
    except _WRONG as error:
        return _unreadable(path, error)
    return join((paragraph(lead, "muted"), *notes, *drawn))


def _comparison(path: Path) -> Html:
    """Likewise."""
    comparison: dict[str, Any] = read_json(path) or {}
    try:
        return comparison_parts(comparison) if comparison else Html("")
    except _WRONG as error:
        return _unreadable(path, error)


def _unreadable(path: Path, error: Exception) -> Html:
    return paragraph(f"{path.name} cannot be read: expected what bitgen-eval writes, found {error!r}.", "warning")
