"""Figures as PNG: what is drawn lies where the SVG says, in the page's colours."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from bitgen.evaluation.charts import Bar, bar_ranking, matrix_chart
from bitgen.evaluation.histograms import Axis, bar_chart, histogram
from bitgen.evaluation.page import Html
from bitgen.evaluation.plots import Marker, Series, line_chart
from bitgen.evaluation.raster import colours, png
from bitgen.evaluation.vectors import plane_figure, similarity_figure
from tests import fakes


def _opened(figure: str) -> Image.Image:
    return Image.open(BytesIO(png(Html(figure)))).convert("RGB")


def _drawing(inner: str) -> Image.Image:
    """A unit of the drawing is 5.36 pixels of the page, so 10.72 of the PNG; it starts at (12, 6 and more)."""
    return _opened(f'<figure class="chart"><svg viewBox="0 0 100 40">{inner}</svg></figure>')


def _share(image: Image.Image, colour: str) -> float:
    return float((np.asarray(image) == colours()[colour]).all(axis=2).mean())


def test_colours_are_the_light_half_of_the_style_sheet() -> None:
    assert colours()["s0"] == (0x1F, 0x6F, 0xC4)
    assert colours()["ground"] == (255, 255, 255)


def test_a_bar_covers_its_place_in_its_colour() -> None:
    image = _drawing('<rect class="s1 bar" x="50" y="10" width="50" height="20"/>')
    wide, high = image.size
    assert wide == 1120
    box = image.convert("L").point(lambda v: 255 * (v < 200)).getbbox()
    assert box == pytest.approx((560, box[1], 1096, box[1] + 214), abs=2) if box else False
    assert image.getpixel((800, box[1] + 100)) == colours()["s1"]
    assert high > 400


def test_a_long_heading_takes_several_lines() -> None:
    bars = [Bar("a", 1.0)]
    short, long = (_opened(bar_ranking("of a run with a name " * n, bars)) for n in (1, 8))
    assert long.height > short.height + 40
    assert np.asarray(long)[: long.height - short.height, -20:].min() == 255


def test_opacity_lightens() -> None:
    image = _drawing('<g class="s0"><rect x="0" y="0" width="100" height="40" fill-opacity="0.5"/></g>')
    expected = tuple((255 + each) / 2 for each in colours()["s0"])
    assert image.getpixel((500, 200)) == pytest.approx(expected, abs=2)


def test_dashes_leave_gaps() -> None:
    line = '<polyline class="s0" stroke-dasharray="{}" points="0,20 50,20 100,20"/>'
    whole, dashed = (_share(_drawing(line.format(dashes)), "s0") for dashes in ("", "6 6"))
    assert 0.4 * whole < dashed < 0.6 * whole


@pytest.mark.parametrize(
    "figure",
    [
        line_chart("t", [Series("a", [(1, 0.1), (2, 0.9)]), Series("b", [(1, 0.5)])], [Marker(2, "m")], doubling=True),
        line_chart("many", [Series("a", [(n, n % 7) for n in range(1000)])]),
        bar_ranking("t", [Bar("a", 1), Bar("b", -1)], mark=0.5),
        matrix_chart("t", [[1, -1], [0.5, None]], ["a", "b"], ["x", "y"]),
        plane_figure(fakes.unit(5), fakes.unit(5, seed=1), "abcde"),
        similarity_figure(fakes.noise(4, 4), "abcd"),
        bar_chart("t", histogram(fakes.noise(50).numpy(), (-2, -1, 0, 1, 2)), Axis("x", str, (0,)), of="images"),
    ],
    ids=["lines", "band", "bars", "matrix", "plane", "similarity", "histogram"],
)
def test_every_kind_of_figure_is_drawn_with_its_title(figure: str) -> None:
    image = _opened(figure)
    red, _, blue = np.asarray(image).astype(int).transpose(2, 0, 1)
    assert (blue - red > 40).mean() > 0.0005
    assert np.asarray(image.crop((0, 0, 400, 40)).convert("L")).min() < 100  # the title


def test_a_longer_caption_makes_a_higher_picture() -> None:
    series = [Series(f"a series of a long name, number {n}", [(1, n), (2, 0)]) for n in range(8)]
    assert _opened(line_chart("t", series)).height > _opened(line_chart("t", series[:2])).height + 100


def test_what_is_no_figure_of_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a <figure> with an <svg>, found '<p>no</p>'"):
        png(Html("<p>no</p>"))
    with pytest.raises(ValueError, match=r"expected one of rect, .* in a figure, found ellipse"):
        _drawing("<ellipse/>")


def test_a_figure_without_a_finite_value_is_a_picture_of_its_words() -> None:
    image = _opened(line_chart("nothing here", [Series("a", [(1, float("nan"))])]))
    grey = np.asarray(image.convert("L"))
    assert grey[:40].min() < 100  # the title
    assert grey[40:].min() < 160  # "no finite values"
    assert image.height < 150
