"""How values are distributed, and that as inline SVG and HTML: bars, small bars for a line of a table, a density, shares.

Like `plots`: sharp at any size, no script, colours by the style sheet. What a bar stands for is said when the pointer
rests on it, and in words for those who do not see it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitgen.evaluation.page import Html, count, join, text
from bitgen.evaluation.plots import ticks

WIDTH, HEIGHT = 400, 216
LEFT, RIGHT, TOP, BOTTOM = 46, 20, 24, 40
"""Pixels of a chart and of its margins."""
SPARK_WIDTH, SPARK_HEIGHT = 150, 24
"""Pixels of a distribution in a line of a table."""
DENSITY_PX = 210
"""Sides of a density's field."""
LABEL_PX = 48
"""Room for a label over such a distribution."""
LEAST_BINS = 6
"""Bins that a chart shows at least, so that two bars do not fill it."""
MOST_LABELS = 8
"""Labels along an axis at most."""

Say = Callable[[float], str]
"""Writes a value for people, unit and all."""


@dataclass(frozen=True)
class Histogram:
    """How many values lie between neighbouring edges: `counts[i]` in [edges[i], edges[i + 1])."""

    edges: tuple[float, ...]
    """Rising. The first bin also holds what is smaller, the last what is as large as the last edge or larger."""
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Of all values."""
        return sum(self.counts)


@dataclass(frozen=True)
class Axis:
    """What the edges of a histogram are."""

    label: str
    """With the unit: `shorter side, px`."""
    say: Say
    marked: tuple[float, ...]
    """Edges that may carry a label; where there are many, some of them do."""
    is_whole: bool = False
    """The values are whole numbers, a bin each: a label stands under the middle of its bar."""


def histogram(values: NDArray[np.number], edges: Sequence[float]) -> Histogram:
    """Counts `values` [any number] between `edges`."""
    places = np.clip(np.searchsorted(np.asarray(edges), values, side="right") - 1, 0, len(edges) - 2)
    return Histogram(tuple(edges), tuple(np.bincount(places, minlength=len(edges) - 1).tolist()))


def together(found: Iterable[Histogram]) -> Histogram:
    """The values of all; they have equal edges."""
    several = list(found)
    return Histogram(several[0].edges, tuple(sum(bins) for bins in zip(*(h.counts for h in several), strict=True)))


def reach(found: Iterable[Histogram]) -> tuple[int, int]:
    """The bins [first, last) outside which none of them has values; (0, 1) where none has any."""
    filled = [n for each in found for n, many in enumerate(each.counts) if many]
    return (min(filled), max(filled) + 1) if filled else (0, 1)


def bar_chart(
    title: str, shown: Histogram, axis: Axis, *, of: str, colour: int = 0, marks: Sequence[float] = ()
) -> Html:
    """A `<figure>` of bars, as wide as the values reach.

    Args:
        of: what is counted: `images`.
        marks: values at which a line stands.
    """
    first, last = reach([shown])
    first = max(0, min(first, last - LEAST_BINS))
    last = min(len(shown.counts), max(last, first + LEAST_BINS))
    most = max(shown.counts, default=0)
    if not most:
        return Html(f'<figure class="chart"><h4>{text(title)}</h4><p class="muted">no values</p></figure>')
    step, base = (WIDTH - LEFT - RIGHT) / (last - first), HEIGHT - BOTTOM
    parts = []
    for y in ticks(0, most, 4):
        at = base - y / most * (base - TOP)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{text(short(y))}</text>')
    for n in range(first, last):
        height = shown.counts[n] / most * (base - TOP)
        if height:
            parts.append(
                f'<rect class="s{colour} bar" x="{LEFT + (n - first) * step + 0.5:.1f}" y="{base - height:.1f}" '
                f'width="{max(step - 1, 0.8):.1f}" height="{max(height, 0.8):.1f}">'
                f"<title>{_said(shown, n, axis.say)}: {count(shown.counts[n])} {text(of)}</title></rect>"
            )
    for value in marks:
        if shown.edges[first] <= value <= shown.edges[last]:
            at = LEFT + (_place(shown.edges, value) - first) * step
            parts.append(f'<line class="event" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 8}" y2="{base}"/>')
            parts.append(f'<text class="mark" x="{at + 4:.1f}" y="{TOP - 6}">{text(axis.say(value))}</text>')
    for n in _labelled(shown.edges, axis.marked, first, last - axis.is_whole):
        at = LEFT + (n - first + axis.is_whole / 2) * step
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{base}" y2="{base + 4}"/>')
        parts.append(f'<text x="{at:.1f}" y="{base + 17}" text-anchor="middle">{text(axis.say(shown.edges[n]))}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{text(axis.label)}</text>')
    parts.append(f'<text x="0" y="12">{text(of)}</text>')
    peak = max(range(first, last), key=lambda n: shown.counts[n])
    label = f"{text(title)}: {count(shown.total)} {text(of)}, most at {_said(shown, peak, axis.say)}"
    return Html(
        f'<figure class="chart"><h4>{text(title)}</h4>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg></figure>'
    )


def spark(shown: Histogram, bins: tuple[int, int], say: Say, colour: int = 0) -> Html:
    """Small bars for a line of a table; `bins` [first, last) are those of the whole column, so that lines compare."""
    first, last = bins
    most, step = max(shown.counts, default=0) or 1, SPARK_WIDTH / (last - first)
    heights = {n: max(shown.counts[n] / most * SPARK_HEIGHT, 0.7) for n in range(first, last) if shown.counts[n]}
    bars = "".join(
        f"M{(n - first) * step:.1f} {SPARK_HEIGHT}v-{height:.1f}h{max(step - 0.4, 0.7):.1f}v{height:.1f}z"
        for n, height in heights.items()
    )
    peak = max(range(first, last), key=lambda n: shown.counts[n])
    return Html(
        f'<svg class="spark s{colour}" viewBox="0 0 {SPARK_WIDTH} {SPARK_HEIGHT}" role="img" '
        f'aria-label="most at {_said(shown, peak, say)}"><path d="{bars}"/>'
        f'<line class="axis" x1="0" x2="{SPARK_WIDTH}" y1="{SPARK_HEIGHT}" y2="{SPARK_HEIGHT}"/></svg>'
    )


def spark_axis(edges: Sequence[float], axis: Axis, bins: tuple[int, int]) -> Html:
    """The head of a column of `spark`: its name, and three labels of its common axis."""
    first, last = bins
    step, labels = SPARK_WIDTH / (last - first), []
    places = {
        n: (n - first + axis.is_whole / 2) * step for n in _labelled(edges, axis.marked, first, last - axis.is_whole)
    }
    ends = [min(places), max(places)]
    between = [n for n, at in places.items() if all(abs(at - places[end]) > LABEL_PX for end in ends)]
    for n in dict.fromkeys([*ends, *between[len(between) // 2 :][:1]]):
        at = places[n]
        anchor = "start" if at < 20 else "end" if at > SPARK_WIDTH - 20 else "middle"
        labels.append(f'<text x="{at:.1f}" y="11" text-anchor="{anchor}">{text(axis.say(edges[n]))}</text>')
    return Html(
        f'{text(axis.label)}<svg class="spark-axis" viewBox="0 0 {SPARK_WIDTH} 14" aria-hidden="true">{"".join(labels)}</svg>'
    )


def density(title: str, counts: NDArray[np.int64], edges: Sequence[float], across: Axis, up: Axis) -> Html:
    """A square field whose cells are the stronger the more values they hold, on a root scale; one to one is dashed.

    Args:
        counts: [x bins, y bins], both between `edges`.
    """
    filled = np.argwhere(counts)
    if not len(filled):
        return Html(f'<figure class="chart"><h4>{text(title)}</h4><p class="muted">no values</p></figure>')
    first, last = max(0, int(filled.min()) - 1), min(len(edges) - 1, int(filled.max()) + 2)
    step, base, most = DENSITY_PX / (last - first), TOP + DENSITY_PX, int(counts.max())
    parts = [f'<rect class="field" x="{LEFT}" y="{TOP}" width="{DENSITY_PX}" height="{DENSITY_PX}"/>']
    for x, y in filled.tolist():
        many = int(counts[x, y])
        parts.append(
            f'<rect class="s0 bar" fill-opacity="{0.12 + 0.88 * (many / most) ** 0.5:.2f}" x="{LEFT + (x - first) * step:.1f}" '
            f'y="{base - (y + 1 - first) * step:.1f}" width="{step:.1f}" height="{step:.1f}">'
            f"<title>{text(across.say(edges[x]))} × {text(up.say(edges[y]))} and up: {count(many)}</title></rect>"
        )
    for n in _labelled(edges, across.marked, first, last):
        at = (n - first) * step
        parts.append(
            f'<text x="{LEFT + at:.1f}" y="{base + 16}" text-anchor="middle">{text(across.say(edges[n]))}</text>'
            f'<text x="{LEFT - 7}" y="{base - at + 4:.1f}" text-anchor="end">{text(up.say(edges[n]))}</text>'
        )
    parts.append(f'<line class="event" x1="{LEFT}" y1="{base}" x2="{LEFT + DENSITY_PX}" y2="{TOP}"/>')
    parts.append(f'<text x="{LEFT + DENSITY_PX}" y="{base + 31}" text-anchor="end">{text(across.label)}</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 6}">{text(up.label)}</text>')
    width, height = LEFT + DENSITY_PX + RIGHT, base + 36
    return Html(
        f'<figure class="chart density"><h4>{text(title)} <small>at most {text(short(most))} images a cell</small></h4>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{text(title)}">{"".join(parts)}</svg></figure>'
    )


def stack(parts: Iterable[tuple[str, int, str]]) -> Html:
    """Shares of a whole as one bar; a part is its name, its number and its class in the style sheet."""
    some = [part for part in parts if part[1]]
    whole = sum(many for _, many, _ in some) or 1
    pieces = (
        f'<i class="{kind}" style="flex-grow:{many}" title="{text(name)}: {count(many)}, {text(percent(many, whole))}"></i>'
        for name, many, kind in some
    )
    return Html(f'<span class="stack">{"".join(pieces)}</span>')


def bar(value: float, most: float, kind: str = "s0") -> Html:
    """One bar, as long as `value` is of `most`; the longest is full."""
    length = 100 * min(1.0, value / most) if most > 0 else 0.0
    drawn = f'<i class="{kind}" style="width:{length:.1f}%"></i>' if length else ""
    return Html(f'<span class="bar-track">{drawn}</span>')


def percent(part: float, whole: float) -> str:
    """Of a whole, so that neither "none" nor "all" is said of what is only nearly so."""
    if not whole:
        return "–"
    value = 100 * part / whole
    if 0 < value < 0.1:
        return "< 0.1%"
    if 99.9 < value < 100:
        return "> 99.9%"
    return f"{value:.1f}%" if value % 1 else f"{value:.0f}%"


def short(value: float) -> str:
    """A number in a narrow place: 950, 12.3k, 4M."""
    for power, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * power:  # what three digits would round to a thousand of the smaller unit
            return f"{value / power:.3g}{unit}"
    return f"{value:.3g}"


def key(names: Iterable[tuple[str, str]]) -> Html:
    """What colours mean; a pair is a name and its class."""
    return Html(f'<p class="legend">{join(_key(name, kind) for name, kind in names)}</p>')


def _key(name: str, kind: str) -> Html:
    return Html(f'<span class="key {kind}"><i class="{kind}"></i>{text(name)}</span>')


def _said(shown: Histogram, n: int, say: Say) -> Html:
    """What a bin holds, escaped."""
    low, high = shown.edges[n], shown.edges[n + 1]
    if n == len(shown.counts) - 1:
        return text(f"{say(low)} and more")
    if high - low == 1 and low == int(low):
        return text(say(low))
    return text(f"{say(low)} to {say(high)}" if n else f"below {say(high)}")


def _place(edges: Sequence[float], value: float) -> float:
    """Where a value stands among the edges, in bins."""
    n = max(0, min(int(np.searchsorted(edges, value, side="right")) - 1, len(edges) - 2))
    return n + (value - edges[n]) / (edges[n + 1] - edges[n])


def _labelled(edges: Sequence[float], marked: Sequence[float], first: int, last: int) -> list[int]:
    """Numbers of the edges in [first, last] that get a label."""
    found = [n for n in range(first, last + 1) if edges[n] in marked]
    if len(found) < 2:
        return [first, last]
    return found[:: -(-len(found) // MOST_LABELS)]
