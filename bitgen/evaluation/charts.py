"""Rankings and matrices as inline SVG: bars with a name each, cells as dark as their value. No script, and no colour alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from bitgen.evaluation.page import Html, text
from bitgen.evaluation.plots import number, ticks

WIDTH = 520
ROW_PX = 19
MOST_CELL_PX = 30
"""A cell's greatest height."""
MOST_LABELS = 14
"""Of columns."""
_TOP, _BOTTOM, _CHARACTER_PX, _VALUE_PX = 6, 22, 6.4, 54
_NAMES_PX = 250.0
"""The most room that names get."""
_DOT_PX = 4
_WIDE_PX = 7.4
"""Of a character of names that hold more capitals and signs than others."""
_WRITTEN_PX = 34
"""Cells at least this wide have their value written in them."""

Say = Callable[[float], str]


@dataclass(frozen=True)
class Bar:
    name: str
    value: float
    colour: int = 0
    """0 to 5."""
    note: str = ""
    """Said where the pointer rests on it."""


def bar_ranking(
    title: str,
    bars: Sequence[Bar],
    *,
    small: str = "",
    mark: float | None = None,
    say: Say = number,
    most: float | None = None,
) -> Html:
    """A `<figure>` of horizontal bars from 0, in the order given; values below 0 go to the left, and of those that are not finite
    it says so.

    Args:
        small: stands beside the title.
        mark: a value at which a line stands, such as chance.
        most: where the axis ends at least, so that figures can be compared.
    """
    if not bars:
        return _empty(title, small)
    left = min(_NAMES_PX, 12 + _CHARACTER_PX * max(len(bar.name) for bar in bars))
    values = [bar.value for bar in bars if isfinite(bar.value)]
    low, high = min([0.0, *values]), max([0.0, most or 0.0, *values])
    high = high if high > low else low + 1
    shift = _VALUE_PX if low < 0 else 0  # room for the value of a bar that goes to the left
    scale = (WIDTH - left - shift - _VALUE_PX) / (high - low)

    def at(value: float) -> float:
        return left + shift + (value - low) * scale

    base = _TOP + ROW_PX * len(bars)
    parts = _grid(low, high, at, base, say)
    for row, bar in enumerate(bars):
        y, end = _TOP + row * ROW_PX, at(bar.value if isfinite(bar.value) else 0)
        beside, anchor = (end - 5, "end") if bar.value < 0 else (end + 5, "start")
        words = say(bar.value) if isfinite(bar.value) else "not finite"
        if isfinite(bar.value):
            parts.append(
                f'<rect class="s{bar.colour} bar" x="{min(end, at(0)):.1f}" y="{y + 3}" '
                f'width="{max(abs(end - at(0)), 0.6):.1f}" height="{ROW_PX - 6}">'
                f"<title>{text(bar.note or bar.name)}: {text(words)}</title></rect>"
            )
        parts.append(
            f'<text x="{left - 7:.1f}" y="{y + 13.5:.1f}" text-anchor="end">{text(bar.name)}</text>'
            f'<text class="mark" x="{beside:.1f}" y="{y + 13.5:.1f}" text-anchor="{anchor}">{text(words)}</text>'
        )
    parts.append(f'<line class="axis" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="{_TOP}" y2="{base}"/>')
    if mark is not None:
        parts.append(f'<line class="event" x1="{at(mark):.1f}" x2="{at(mark):.1f}" y1="{_TOP - 4}" y2="{base}"/>')
    said = "; ".join(f"{bar.name} {say(bar.value) if isfinite(bar.value) else 'not finite'}" for bar in bars)
    return _figure(title, small, "".join(parts), base + _BOTTOM, said)


@dataclass(frozen=True)
class Span:
    """A value and the ends of its interval, where it has one."""

    name: str
    value: float
    ends: tuple[float, float] | None = None


def interval_chart(title: str, spans: Sequence[Span], *, small: str = "", say: Say = number) -> Html:
    """A `<figure>` of values as dots, each with its interval as a line, beside a line at 0."""
    if not spans:
        return _empty(title, small)
    left = min(_NAMES_PX, 12 + _WIDE_PX * max(len(span.name) for span in spans))
    values = [0.0, *(value for span in spans for value in (span.value, *(span.ends or ())))]
    low, high = min(values), max(values)
    low, high = (low, high) if high > low else (-1.0, 1.0)
    scale = (WIDTH - left - _VALUE_PX - 2 * _DOT_PX) / (high - low)

    def at(value: float) -> float:
        return left + _DOT_PX + (value - low) * scale

    base = _TOP + ROW_PX * len(spans)
    parts = _grid(low, high, at, base, say)
    parts.append(f'<line class="axis" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="{_TOP}" y2="{base}"/>')
    for row, span in enumerate(spans):
        y = _TOP + (row + 0.5) * ROW_PX
        if span.ends:
            first, last = (f"{at(end):.1f},{y:.1f}" for end in span.ends)
            parts.append(f'<polyline class="s0" points="{first} {last}"/>')
        parts.append(
            f'<circle class="s0 dot" cx="{at(span.value):.1f}" cy="{y:.1f}" r="{_DOT_PX}"/>'
            f'<text x="{left - 7:.1f}" y="{y + 4.3:.1f}" text-anchor="end">{text(span.name)}</text>'
            f'<text class="mark" x="{WIDTH - 4}" y="{y + 4.3:.1f}" text-anchor="end">{text(say(span.value))}</text>'
        )
    said = "; ".join(f"{span.name} {say(span.value)}" for span in spans)
    return _figure(title, small, "".join(parts), base + _BOTTOM, said)


def matrix_chart(
    title: str,
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    small: str = "",
    x_label: str = "",
    say: Say = number,
    most: float | None = None,
) -> Html:
    """A `<figure>` of cells, the darker the farther from 0: the first colour above 0, the second below; None is left white.

    So are values that are not finite, which are counted beside the title.

    Args:
        values: a line for each of `rows`, with a value for each of `columns`.
        most: the value that is darkest; by default the greatest.
    """
    known = [abs(value) for line in values for value in line if value is not None and isfinite(value)]
    wrong = sum(value is not None for line in values for value in line) - len(known)
    small = f"{small or 'cells left white'}; {wrong} not finite" if wrong else small
    darkest = most or max(known, default=0.0) or 1.0
    left = min(_NAMES_PX, 12 + _CHARACTER_PX * max((len(name) for name in rows), default=0))
    wide = (WIDTH - left - 8) / max(1, len(columns))
    high = min(MOST_CELL_PX, max(wide, 12.0)) if len(rows) <= 24 else max(4.0, 480 / len(rows))
    base = _TOP + high * len(rows)
    parts = []
    for row, (name, line) in enumerate(zip(rows, values, strict=True)):
        y = _TOP + row * high
        if high >= 11 or row % max(1, round(14 / high)) == 0:
            parts.append(f'<text x="{left - 7:.1f}" y="{y + high / 2 + 4.3:.1f}" text-anchor="end">{text(name)}</text>')
        for column, value in enumerate(line):
            x = left + column * wide
            if value is None or not isfinite(value):
                continue
            shade = 0.8 * min(1.0, abs(value) / darkest)
            parts.append(
                f'<rect class="s{0 if value >= 0 else 1} bar" fill-opacity="{shade:.3f}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{wide:.1f}" height="{high:.1f}">'
                f"<title>{text(name)}, {text(columns[column])}: {text(say(value))}</title></rect>"
            )
            if wide >= _WRITTEN_PX and high >= 14:
                parts.append(
                    f'<text class="mark" x="{x + wide / 2:.1f}" y="{y + high / 2 + 4.3:.1f}" text-anchor="middle">'
                    f"{text(say(value))}</text>"
                )
    for column in range(0, len(columns), -(-len(columns) // MOST_LABELS) or 1):
        at = left + (column + 0.5) * wide
        parts.append(f'<text x="{at:.1f}" y="{base + 15:.1f}" text-anchor="middle">{text(columns[column])}</text>')
    parts.append(
        f'<rect class="field" x="{left:.1f}" y="{_TOP}" width="{wide * len(columns):.1f}" height="{high * len(rows):.1f}"/>'
    )
    if x_label:
        parts.append(f'<text x="{WIDTH - 8}" y="{base + 30:.1f}" text-anchor="end">{text(x_label)}</text>')
    note = f"{len(rows)} by {len(columns)}, darkest at {say(darkest)}"
    return _figure(
        title, small or f"darkest at {say(darkest)}", "".join(parts), base + _BOTTOM + 14 * bool(x_label), note
    )


def _grid(low: float, high: float, at: Callable[[float], float], base: float, say: Say) -> list[str]:
    """Lines at round values from `low` to `high`, which lie `at` a place, and under `base` what they are."""
    return [
        f'<line class="grid" x1="{at(x):.1f}" x2="{at(x):.1f}" y1="{_TOP}" y2="{base}"/>'
        f'<text x="{at(x):.1f}" y="{base + 15}" text-anchor="middle">{text(say(x))}</text>'
        for x in ticks(low, high, 5)
    ]


def _empty(title: str, small: str) -> Html:
    beside = f" <small>{text(small)}</small>" if small else ""
    return Html(f'<figure class="chart"><h4>{text(title)}{beside}</h4><p class="muted">no values</p></figure>')


def _figure(title: str, small: str, inner: str, height: float, said: str) -> Html:
    beside = f" <small>{text(small)}</small>" if small else ""
    return Html(
        f'<figure class="chart"><h4>{text(title)}{beside}</h4><svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{text(title)}. {text(said)}">{inner}</svg></figure>'
    )
