"""Our figures as PNG: a drawing of the few kinds of SVG elements that they are made of, by Pillow and in Pillow's own font.

Colours are those of the style sheet's light half. A figure is the `<figure>` that goes into a page: its heading, its SVG and the
words under it. Pictures that are no SVG are not drawn here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import pairwise
from math import hypot
from xml.etree import ElementTree

from PIL import Image, ImageDraw, ImageFont

from bitgen.evaluation.letters import drawable, wrapped
from bitgen.evaluation.page import Html
from bitgen.evaluation.style import STYLE

WIDTH_PX = 560
"""Of a figure on the page; a PNG has `SCALE` times as many pixels."""
SCALE = 2
_SMOOTH = 2
"""Drawn this many times larger, then shrunk: Pillow's lines have hard edges."""
_MARGIN, _TITLE_PX, _TEXT_PX, _NARROW_PX = 12, 14, 12.5, 420

Point = tuple[float, float]
Colour = tuple[int, int, int]


def colours() -> dict[str, Colour]:
    """The style sheet's named colours, as red, green and blue."""
    light = STYLE[: STYLE.index("@media")]
    found = re.findall(r"--([\w-]+): #([0-9a-f]{3,6})\b", light)
    return {name: _rgb(digits if len(digits) == 6 else "".join(2 * d for d in digits)) for name, digits in found}


def png(figure: Html) -> bytes:
    """A figure as PNG; of one that has words in the place of its SVG, as where nothing is finite, the words.

    Raises `ValueError` where it holds neither, or an element that our figures do not have.
    """
    root = ElementTree.fromstring(figure.replace("&nbsp;", "&#160;"))
    svg, words = root.find("svg"), root.find("p")
    if root.tag != "figure" or (svg is None and words is None):
        raise ValueError(f"expected a <figure> with an <svg>, found {figure[:80]!r}")
    paper = _Paper(colours())
    heading = root.find("h4")
    y = paper.write(_runs(heading, "ink") if heading is not None else (), _MARGIN, _TITLE_PX) + 6
    if svg is None:
        return paper.png(paper.write(_runs(words, "ink") if words is not None else (), y, _TEXT_PX) + _MARGIN)
    is_narrow = {"vectors", "density"} & set(root.get("class", "").split())
    _, _, wide, high = map(float, svg.get("viewBox", "").split())
    zoom = (_NARROW_PX if is_narrow else WIDTH_PX - 2 * _MARGIN) / wide
    paper.grow(y + high * zoom)
    paper.draw(svg, _Place(_MARGIN, y, zoom, "ink", is_vectors=bool(is_narrow)))
    caption = root.find("figcaption")
    y += high * zoom + 4
    if caption is not None:
        y = paper.write(_runs(caption, "ink"), y, _TEXT_PX)
    return paper.png(y + _MARGIN)


@dataclass(frozen=True)
class _Run:
    """Words of one colour; with `swatch` a short line of that colour before them; `begins` a line of its own."""

    words: str
    colour: str
    swatch: str = ""
    begins: bool = False


def _runs(element: ElementTree.Element, colour: str, swatch: str = "") -> Iterator[_Run]:
    kinds = element.get("class", "").split()
    named = next((kind for kind in kinds if re.fullmatch(r"s\d", kind)), "")
    if element.tag == "i":
        return
    if element.tag == "small" or "muted" in kinds:
        colour = "muted"
    if named and "key" not in kinds:
        colour = named
    inner = element.find("i")
    if inner is not None:
        swatch = next(iter(inner.get("class", "").split()), "")
    if "ends" in kinds:
        yield _Run("", colour, begins=True)
    if element.text and element.text.strip():
        yield _Run(element.text.strip(), colour, swatch)
        swatch = ""
    for child in element:
        yield from _runs(child, colour)
        if child.tail and child.tail.strip():
            yield _Run(child.tail.strip(), colour, swatch)
            swatch = ""


@dataclass(frozen=True)
class _Place:
    """Where a drawing's origin lies on the page, how large its unit is, and what its currentColor is."""

    x: float
    y: float
    zoom: float
    colour: str
    is_vectors: bool

    def __call__(self, x: float, y: float) -> Point:
        return self.x + x * self.zoom, self.y + y * self.zoom


@dataclass
class _Paper:
    colours: dict[str, Colour]
    image: Image.Image = field(default_factory=lambda: Image.new("RGB", (WIDTH_PX * SCALE * _SMOOTH, 400), "white"))

    def grow(self, height: float) -> None:
        """To at least `height` pixels of the page."""
        needed = round(height * SCALE * _SMOOTH) + 1
        if needed > self.image.height:
            larger = Image.new("RGB", (self.image.width, needed), "white")
            larger.paste(self.image)
            self.image = larger

    def png(self, height: float) -> bytes:
        file = BytesIO()
        self.grow(height)
        cut = self.image.crop((0, 0, self.image.width, round(height * SCALE) * _SMOOTH))
        cut.reduce(_SMOOTH).save(file, "PNG", optimize=True)
        return file.getvalue()

    def write(self, runs: Iterator[_Run] | tuple[()], y: float, size: float) -> float:
        """Words from left to right and down; where the next thing begins."""
        font, x, line = _font(size), float(_MARGIN), size * 1.45
        self.grow(y + line)
        for run in (part for whole in runs for part in _lines(whole, font)):
            words = run.words  # the two marks of a scatter are drawn below
            width = font.getlength(words) / (SCALE * _SMOOTH) + 22 * bool(run.swatch)
            if x > _MARGIN and (run.begins or x + width > WIDTH_PX - _MARGIN):
                x, y = float(_MARGIN), y + line
                self.grow(y + line)
            if run.swatch:
                self._stroke([(x, y + size * 0.6), (x + 16, y + size * 0.6)], run.swatch, 3)
                x += 22
            if words in _MARKS:
                corners = [*self._at((x, y + size * 0.3)), *self._at((x + size * 0.6, y + size * 0.9))]
                _MARKS[words](self._pen())(corners, fill=self.colours[run.colour])
                x += size * 0.6 + 4
            elif words:
                self._pen().text(self._at((x, y)), words, fill=self.colours[run.colour], font=font)
                x += width - 22 * bool(run.swatch) + 12
        return y + line

    def draw(self, element: ElementTree.Element, place: _Place) -> None:
        """An element and what is in it."""
        kinds = element.get("class", "").split()
        named = next((kind for kind in kinds if re.fullmatch(r"s\d", kind)), "")
        place = replace(place, colour=named or place.colour)
        if element.tag in ("svg", "g"):
            for child in element:
                self.draw(child, place)
        elif element.tag in _DRAWN:
            _DRAWN[element.tag](self, element, kinds, place)
        else:
            raise ValueError(f"expected one of {', '.join(_DRAWN)} in a figure, found {element.tag}")

    def _rect(self, element: ElementTree.Element, kinds: list[str], place: _Place) -> None:
        x, y, wide, high = (float(element.get(name, "0")) for name in ("x", "y", "width", "height"))
        corners = [self._at(place(x, y)), self._at(place(x + wide, y + high))]
        if "field" in kinds:
            self._pen().rectangle(corners, outline=self.colours["rule"], width=SCALE * _SMOOTH)
        else:
            (x0, y0), (x1, y1) = corners
            self._pen().rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), fill=self._fill(element, place.colour))

    def _circle(self, element: ElementTree.Element, kinds: list[str], place: _Place) -> None:
        x, y = self._at(place(float(element.get("cx", "0")), float(element.get("cy", "0"))))
        r = float(element.get("r", "0")) * place.zoom * SCALE * _SMOOTH
        self._pen().ellipse(
            (x - r, y - r, x + r, y + r), fill=self._fill(element, "ink" if "event" in kinds else place.colour)
        )

    def _line(self, element: ElementTree.Element, kinds: list[str], place: _Place) -> None:
        ends = [place(float(element.get(f"x{n}", "0")), float(element.get(f"y{n}", "0"))) for n in "12"]
        if "event" in kinds:
            self._dashed(ends, "ink", 1, (2.0, 3.0))
        else:
            self._stroke(ends, "rule" if "grid" in kinds or place.is_vectors else "muted", 1)

    def _polyline(self, element: ElementTree.Element, kinds: list[str], place: _Place) -> None:
        points = _points(element, place)
        dashes = tuple(float(each) for each in element.get("stroke-dasharray", "").split())
        if dashes:
            self._dashed(points, place.colour, 2, dashes)
        else:
            self._stroke(points, place.colour, 2)

    def _polygon(self, element: ElementTree.Element, kinds: list[str], place: _Place) -> None:
        opacity = round(255 * (0.16 if "band" in kinds else 1))
        points = [self._at(point) for point in _points(element, place)]
        self._pen().polygon(points, fill=(*self.colours[place.colour], opacity))

    def _text(self, element: ElementTree.Element, kinds: list[str], place: _Place) -> None:
        at = self._at(place(float(element.get("x", "0")), float(element.get("y", "0"))))
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[element.get("text-anchor", "start")]
        colour = "ground" if "event" in kinds else "ink" if "mark" in kinds else "muted"
        size = 10 if "event" in kinds else 12 if "mark" in kinds else _TEXT_PX
        words = drawable("".join(element.itertext()))
        self._pen().text(at, words, fill=self.colours[colour], font=_font(size * place.zoom), anchor=anchor)

    def _fill(self, element: ElementTree.Element, colour: str) -> tuple[int, int, int, int]:
        return (*self.colours[colour], round(255 * float(element.get("fill-opacity", "1"))))

    def _stroke(self, points: list[Point], colour: str, width: float) -> None:
        pixels = [self._at(point) for point in points]
        self._pen().line(pixels, fill=self.colours[colour], width=round(width * SCALE * _SMOOTH), joint="curve")

    def _dashed(self, points: list[Point], colour: str, width: float, dashes: tuple[float, ...]) -> None:
        for part in _cut(points, dashes):
            self._stroke(part, colour, width)

    def _pen(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.image, "RGBA")

    def _at(self, point: Point) -> Point:
        return point[0] * SCALE * _SMOOTH, point[1] * SCALE * _SMOOTH


_MARKS = {"●": lambda pen: pen.ellipse, "■": lambda pen: pen.rectangle}
_DRAWN = {
    "rect": _Paper._rect,
    "circle": _Paper._circle,
    "line": _Paper._line,
    "polyline": _Paper._polyline,
    "polygon": _Paper._polygon,
    "text": _Paper._text,
}


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size * SCALE * _SMOOTH)


def _lines(run: _Run, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Iterator[_Run]:
    """A run, or the several that its words become where they are too long for a line."""
    room = WIDTH_PX - 2 * _MARGIN - 22 * bool(run.swatch)
    first, *rest = wrapped(run.words, font, room * SCALE * _SMOOTH)
    yield replace(run, words=first)
    for words in rest:
        yield replace(run, words=words, swatch="", begins=True)


def _points(element: ElementTree.Element, place: _Place) -> list[Point]:
    pairs = (pair.split(",") for pair in element.get("points", "").split())
    return [place(float(x), float(y)) for x, y in pairs]


def _cut(points: list[Point], dashes: tuple[float, ...]) -> Iterator[list[Point]]:
    """The drawn parts of a line, from the lengths of dashes and gaps in turn."""
    turn, left, part = 0, dashes[0], points[:1]
    for (x0, y0), (x1, y1) in pairwise(points):
        length, done = hypot(x1 - x0, y1 - y0), 0.0
        while length - done > left:
            done += left
            at = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length)
            if turn % 2 == 0:
                yield [*part, at]
            turn += 1
            left, part = dashes[turn % len(dashes)], [at]
        left -= length - done
        part = [*part, (x1, y1)]
    if turn % 2 == 0 and len(part) > 1:
        yield part


def _rgb(digits: str) -> Colour:
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
