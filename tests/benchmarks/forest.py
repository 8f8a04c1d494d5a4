"""Differences as an SVG file of its own: a dot each with its standard deviation, left or right of nought."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bitgen.evaluation.plots import Scale, number, ticks

WIDTH, ROW_PX, LABEL_PX, TOP_PX, BOTTOM_PX = 900, 18, 330, 30, 34
COLOURS = {"held": "#2b7d4f", "not held": "#c2541b", "not told apart": "#777777"}
"""By verdict."""


@dataclass(frozen=True)
class Row:
    """One difference; without a verdict it is a heading."""

    label: str
    mean: float = 0.0
    spread: float = 0.0
    verdict: str = ""


def forest(rows: Sequence[Row], title: str) -> str:
    """The rows, one below the other. Lengths are cut at the edge where one spread is far beyond the others' means."""
    reach = 1.15 * max((abs(row.mean) + min(row.spread, abs(row.mean) + 0.05) for row in rows), default=1.0) or 1.0
    across = Scale(-reach, reach, LABEL_PX, WIDTH - 20)
    height = TOP_PX + ROW_PX * len(rows) + BOTTOM_PX
    base = height - BOTTOM_PX
    grid = "".join(
        f'<line x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{TOP_PX}" y2="{base}" stroke="{"#777" if x == 0 else "#ddd"}"/>'
        f'<text x="{across(x):.1f}" y="{base + 16}" text-anchor="middle">{number(x)}</text>'
        for x in ticks(-reach, reach)
    )
    drawn = "".join(_row(row, TOP_PX + ROW_PX * (i + 0.5), across) for i, row in enumerate(rows))
    key = "".join(f'<tspan fill="{colour}" dx="14">{name}</tspan>' for name, colour in COLOURS.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        "<style>text{font:12px sans-serif;fill:#555}.head{font-weight:bold;fill:#111}</style>"
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/><text class="head" x="10" y="18">{escape(title)}{key}</text>'
        f"{grid}{drawn}</svg>\n"
    )


def _row(row: Row, y: float, across: Scale) -> str:
    if not row.verdict:
        return f'<text class="head" x="10" y="{y + 4:.1f}">{escape(row.label)}</text>'
    colour = COLOURS[row.verdict]
    low, high = (min(max(row.mean + side * row.spread, across.low), across.high) for side in (-1, 1))
    return (
        f'<text x="24" y="{y + 4:.1f}">{escape(row.label)}</text>'
        f'<line x1="{across(low):.1f}" x2="{across(high):.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="2"/>'
        f'<circle cx="{across(row.mean):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    )
