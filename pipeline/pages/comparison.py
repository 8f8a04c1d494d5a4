"""What bitgen-eval --compare leaves beside comparison.json: a page, and every figure of it as PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitgen.evaluation.compare_figures import difference_figures
from bitgen.evaluation.page import Html, count, document, join, paragraph, table, text
from bitgen.evaluation.raster import png
from bitgen.evaluation.tables import comparison_table
from pipeline.comparing import names_of
from pipeline.files import replacing, write_text
from pipeline.measuring import file_name
from pipeline.pages.evaluation import PAGE, clear


def write_comparison(folder: Path, comparison: Mapping[str, Any]) -> None:
    """`index.html` and SET-NAME.png into `folder`, in place of those of an earlier comparison; the page comes last."""
    clear(folder)
    for name, figures in _figures(comparison).items():
        for kind, figure in figures.items():
            with replacing(folder / f"{file_name(name)}-{kind}.png") as path:
                path.write_bytes(png(figure))
    a, b = names_of(comparison)
    sections = [("Comparison", comparison_parts(comparison))]
    write_text(
        folder / PAGE, document(f"Comparison: {a} and {b}", "on what was held out", sections, "made by bitgen-eval")
    )


def comparison_parts(comparison: Mapping[str, Any]) -> Html:
    """Who is compared, notes, the table, and a chart for each set and task. Raises `KeyError`, `TypeError` or `AttributeError` for
    what is no comparison."""
    words, numbers = ("run", "checkpoint", "phase"), ("step", "parameters")
    rows = [
        (*(str(about[name]) for name in words), *(count(about[name]) for name in numbers))
        for about in (comparison["a"], comparison["b"])
    ]
    notes = [paragraph(str(note), "warning") for note in comparison["notes"]]
    found = comparison_table(comparison["sets"], *names_of(comparison))
    charts = [
        Html(f'<h3>{text(name)}</h3><div class="charts">{join(figures.values())}</div>')
        for name, figures in _figures(comparison).items()
    ]
    return join((table((*words, *numbers), rows), *notes, table(found.header, found.rows), *charts))


def _figures(comparison: Mapping[str, Any]) -> dict[str, dict[str, Html]]:
    names = names_of(comparison)
    return {name: difference_figures(kinds, *names) for name, kinds in comparison["sets"].items()}
