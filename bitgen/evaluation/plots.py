"""Curves as inline SVG: small, sharp at any size, readable without colour; the colours are the page's own.

A series is a list of (x, y) pairs; values that are not finite are left out and counted in the figure's description.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 18, 34
COLUMNS = 230
"""Points drawn of one series at most: about one for two pixels; more are binned into their mean, least and greatest."""
DOTS = 40
"""Points up to which each is marked."""
COLOURS = 6
DASHES = ("", "7 4", "2 3", "9 3 2 3")
"""Series of one colour differ by their dashes."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[Point]
    colour: int | None = None
    """One of `COLOURS`; by default its place in the chart."""


@dataclass(frozen=True)
class Marker:
    """Something that happened at an x, drawn as a vertical line."""

    x: float
    label: str


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels; logarithmic where `log`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (at - low) / (high - low) * (self.stop - self.start)


def line_chart(
    title: str,
    series: Sequence[Series],
    markers: Sequence[Marker] = (),
    *,
    x_label: str = "step",
    log: bool = False,
    x_range: tuple[float, float] | None = None,
    doubling: bool = False,
    with_legend: bool = True,
) -> str:
    """A `<figure>` with one line a series and numbered markers, which `legend` explains once for several charts.

    Args:
        log: logarithmic y axis; values of 0 and below are left out, as those that are not finite are.
        x_range: of the axis, so that charts can be compared; by default that of the points.
        doubling: every tick of the x axis is twice the one before it; for x of 1 and more.
        with_legend: false where the page says once for several charts what the colours mean.
    """
    coloured = [Series(s.name, s.points, n if s.colour is None else s.colour) for n, s in enumerate(series)]
    kept = [Series(s.name, [p for p in s.points if _drawable(p, log)], s.colour) for s in coloured]
    left_out = sum(len(s.points) for s in series) - sum(len(s.points) for s in kept)
    kept = [s for s in kept if s.points]
    if not kept:
        return f'<figure class="chart"><h4>{escape(title)}</h4><p class="muted">no finite values</p></figure>'
    ys = [y for s in kept for _, y in s.points]
    xs = [x for s in kept for x, _ in s.points]
    first, last = x_range or (min(xs), max(xs))
    across = Scale(*_range(first, last), LEFT, WIDTH - RIGHT, doubling)
    down = Scale(*_y_range(min(ys), max(ys), log), HEIGHT - BOTTOM, TOP, log)
    lines = [_line(s, across, down) for s in kept]
    events = [_marker(m, n, across) for n, m in enumerate(markers, start=1) if first <= m.x <= last]
    note = f' <span class="muted">{left_out} values cannot be drawn</span>' if left_out else ""
    label = escape(f"{title}. {_describe(kept)}")
    key = legend(kept, ()) if with_legend and len(kept) > 1 else ""
    return (
        f'<figure class="chart"><h4>{escape(title)}{" <small>log scale</small>" if log else ""}</h4>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{_grid(across, down, x_label)}{''.join(lines)}{''.join(events)}</svg>"
        f'<figcaption>{key}<span class="ends">{_ends_of(kept)}{note}</span></figcaption></figure>'
    )


def legend(series: Sequence[Series], markers: Sequence[Marker]) -> str:
    """What the colours of `series` and the numbers of `markers` mean."""
    names = [f'<span class="key"><i class="s{_colour(s)}"></i>{escape(s.name)}</span>' for s in series]
    events = [f'<span class="key"><b>{n}</b>{escape(m.label)}</span>' for n, m in enumerate(markers, start=1)]
    return "".join(names + events)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`, at most `most` of them."""
    if not low < high:
        raise ValueError(f"expected low < high, found {low} and {high}")
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20):
        step = power * factor
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            break
    return [n * step for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within `low`..`high`, every one or as many as stay readable; ordinary ticks within one decade."""
    exponents = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    if len(exponents) < 2:
        return [t for t in ticks(low, high, 5) if t > 0]
    return [10.0**e for e in exponents[:: 1 + len(exponents) // 7]]


def doublings(low: float, high: float) -> list[float]:
    """Powers of two within `low`..`high`, every one or as many as stay readable."""
    found = [2.0**e for e in range(math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9) + 1)]
    return found[:: 1 + len(found) // 12]


def thin(points: Sequence[Point], columns: int = COLUMNS) -> list[tuple[float, float, float, float]]:
    """(x, mean, least, greatest) of at most `columns` runs of neighbouring points, ordered by x."""
    ordered = sorted(points)
    size = math.ceil(len(ordered) / columns)
    runs = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    return [
        (sum(x for x, _ in r) / len(r), sum(y for _, y in r) / len(r), min(y for _, y in r), max(y for _, y in r))
        for r in runs
    ]


def number(value: float) -> str:
    """For people: 12,000 and 0.0002 and 3.14."""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:.2g}"


def _drawable(point: Point, log: bool) -> bool:
    return all(math.isfinite(v) for v in point) and (not log or point[1] > 0)


def _range(low: float, high: float) -> tuple[float, float]:
    if low < high:
        return low, high
    margin = abs(low) * 0.1 or 1.0
    return low - margin, high + margin


def _y_range(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        return (low / 1.15, high * 1.15) if low < high else (low / 2, high * 2)
    low, high = _range(low, high)
    margin = 0.06 * (high - low)
    # A curve that is never negative does not get an axis that is.
    return (0.0 if 0 <= low < 0.4 * high else low - margin), high + margin


def _grid(across: Scale, down: Scale, x_label: str) -> str:
    parts = []
    for y in log_ticks(down.low, down.high) if down.log else ticks(down.low, down.high, 5):
        at = down(y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{number(y)}</text>')
    for x in doublings(across.low, across.high) if across.log else ticks(across.low, across.high, 6):
        parts.append(f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number(x)}</text>')
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(x_label)}</text>')
    return "".join(parts)


def _colour(series: Series) -> int:
    return (series.colour or 0) % COLOURS


def _line(series: Series, across: Scale, down: Scale) -> str:
    runs = thin(series.points)
    colour = _colour(series)
    dots = "".join(
        f'<circle class="s{colour} dot" cx="{across(x):.1f}" cy="{down(y):.1f}" r="{3.5 if len(runs) == 1 else 2}"/>'
        for x, y, _, _ in runs
    )
    line = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y, _, _ in runs)
    dashes = DASHES[(series.colour or 0) // COLOURS % len(DASHES)]
    drawn = f'<polyline class="s{colour}" stroke-dasharray="{dashes}" points="{line}"/>'
    if len(runs) < len(series.points):
        above = [f"{across(x):.1f},{down(high):.1f}" for x, _, _, high in runs]
        below = [f"{across(x):.1f},{down(low):.1f}" for x, _, low, _ in reversed(runs)]
        return f'<polygon class="s{colour} band" points="{" ".join(above + below)}"/>{drawn}'
    return drawn + (dots if len(runs) <= DOTS else "")


def _marker(marker: Marker, number_: int, across: Scale) -> str:
    at = across(marker.x)
    return (
        f'<line class="event" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<circle class="event" cx="{at:.1f}" cy="{TOP - 8}" r="7.5"/>'
        f'<text class="event" x="{at:.1f}" y="{TOP - 4.5}" text-anchor="middle">{number_}</text>'
    )


def _ends(series: Series) -> str:
    first, last = min(series.points)[1], max(series.points)[1]
    return number(first) if len(series.points) == 1 else f"{number(first)} → {number(last)}"


def _ends_of(series: Sequence[Series]) -> str:
    """First and last value of each, in its colour."""
    return " &nbsp; ".join(f'<span class="s{_colour(s)}">{_ends(s)}</span>' for s in series)


def _describe(series: Sequence[Series]) -> str:
    return "; ".join(f"{s.name} {_ends(s)}" for s in series)
