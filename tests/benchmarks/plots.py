"""Charts as an SVG file of their own, for a page that has no style sheet."""

import re
from collections.abc import Mapping, Sequence

from bitgen.evaluation.plots import HEIGHT, WIDTH, Series, line_chart

COLUMNS = 2
_TITLE_PX = 24
_COLOURS = ("#1f5fa8", "#c2541b", "#2b7d4f", "#8a3d8f", "#8a6d00", "#555555")
_STYLE = (
    "text{font:12px sans-serif;fill:#555}.title{font-size:14px;fill:#111}.grid{stroke:#ddd}.axis{stroke:#777}"
    "polyline{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}.dot{fill:currentColor}"
    ".band{fill:currentColor;opacity:.16}" + "".join(f".s{i}{{color:{colour}}}" for i, colour in enumerate(_COLOURS))
)


def sheet(charts: Mapping[str, Sequence[Series]], x_labels: Mapping[str, str] | None = None) -> str:
    """The charts, by their titles, two beside each other. A title names the series of its chart, in their colours.

    `x_labels`, by titles, say what runs across, where that is not the step.
    """
    rows, labels = -(-len(charts) // COLUMNS), x_labels or {}
    drawn = [_chart(title, series, i, labels.get(title, "step")) for i, (title, series) in enumerate(charts.items())]
    width, height = COLUMNS * WIDTH, rows * (HEIGHT + _TITLE_PX)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{_STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>{"".join(drawn)}</svg>\n'
    )


def _chart(title: str, series: Sequence[Series], number: int, x_label: str) -> str:
    row, column = divmod(number, COLUMNS)
    found = re.search(r"<svg[^>]*>(.*)</svg>", line_chart(title, series, x_label=x_label))
    names = "".join(
        f'<tspan class="s{i}" fill="currentColor" dx="12">{each.name}</tspan>' for i, each in enumerate(series)
    )
    return (
        f'<g transform="translate({column * WIDTH} {row * (HEIGHT + _TITLE_PX)})"><text class="title" x="10" y="18">{title}'
        f'{names if len(series) > 1 else ""}</text><g transform="translate(0 {_TITLE_PX})">'
        f"{found.group(1) if found else ''}</g></g>"
    )
