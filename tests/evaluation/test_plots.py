import re
from xml.etree import ElementTree

import pytest

from bitgen.evaluation.plots import (
    HEIGHT,
    WIDTH,
    Marker,
    Scale,
    Series,
    doublings,
    legend,
    line_chart,
    log_ticks,
    number,
    thin,
    ticks,
)


def drawn(figure: str) -> ElementTree.Element:
    """The chart's SVG, which must be well-formed."""
    found = re.search(r"<svg.*</svg>", figure)
    assert found is not None
    return ElementTree.fromstring(found.group())


def test_ticks_are_round_numbers_within_the_range():
    assert ticks(0.0, 10.0, 6) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.31, 0.78, 5) == pytest.approx([0.4, 0.5, 0.6, 0.7])
    assert ticks(-1.0, 1.0, 5) == pytest.approx([-1, -0.5, 0, 0.5, 1])


def test_ticks_of_an_empty_range_are_refused():
    with pytest.raises(ValueError, match="expected low < high"):
        ticks(1.0, 1.0)


def test_log_ticks_are_powers_of_ten():
    assert log_ticks(0.002, 30) == pytest.approx([0.01, 0.1, 1, 10])


def test_log_ticks_within_a_decade_are_round_numbers():
    assert log_ticks(2.0, 4.1) == pytest.approx([2, 2.5, 3, 3.5, 4])


def test_a_linear_scale_maps_its_ends_and_its_middle():
    scale = Scale(10.0, 20.0, 0.0, 100.0)
    assert (scale(10), scale(15), scale(20)) == (0, 50, 100)


def test_a_logarithmic_scale_maps_a_decade_to_equal_lengths():
    scale = Scale(1.0, 100.0, 0.0, 100.0, log=True)
    assert (scale(1), scale(10), scale(100)) == pytest.approx((0, 50, 100))


def test_a_long_series_is_thinned_to_means_between_the_least_and_the_greatest():
    assert thin([(0, 1.0), (1, 3.0), (2, 5.0), (3, 9.0)], columns=2) == [(0.5, 2.0, 1.0, 3.0), (2.5, 7.0, 5.0, 9.0)]


def test_a_short_series_is_drawn_as_it_is():
    assert thin([(2, 5.0), (1, 4.0)], columns=10) == [(1, 4.0, 4.0, 4.0), (2, 5.0, 5.0, 5.0)]


def test_a_chart_is_well_formed_and_has_one_line_a_series():
    svg = drawn(line_chart("Loss", [Series("a", [(0, 1), (1, 2)]), Series("b", [(0, 2), (1, 1)])], [Marker(0.5, "x")]))
    assert len(svg.findall("polyline")) == 2
    assert svg.get("viewBox") == f"0 0 {WIDTH} {HEIGHT}"
    assert svg.get("aria-label") == "Loss. a 1 → 2; b 2 → 1"


def test_every_point_lies_within_the_chart():
    points = [(step, (-1) ** step * 1000.0 / (step + 1)) for step in range(2000)]
    line = drawn(line_chart("Loss", [Series("a", points)])).find("polyline")
    assert line is not None
    places = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
    assert len(places) <= 230
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)


def test_a_thinned_series_keeps_its_extremes_as_a_band():
    points = [(step, 1.0) for step in range(1000)] + [(1000, 50.0)]
    svg = drawn(line_chart("Loss", [Series("a", points)]))
    assert svg.find("polygon") is not None


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-9, 1e12])
def test_a_constant_series_is_drawn(value: float):
    assert drawn(line_chart("flat", [Series("a", [(0, value), (1, value)])])).find("polyline") is not None


def test_a_single_point_is_a_dot():
    svg = drawn(line_chart("one", [Series("a", [(3, 0.5)])]))
    assert svg.find("circle") is not None


def test_doublings_are_powers_of_two_within_the_range():
    assert doublings(1, 20) == [1, 2, 4, 8, 16]
    assert doublings(3, 2**14) == [4, 16, 64, 256, 1024, 4096, 16384]


def test_doublings_are_as_far_apart_as_one_another():
    figure = line_chart("t", [Series("a", [(1, 0.1), (2, 0.2), (4, 0.3)])], doubling=True)
    places = [float(x) for x in re.findall(r'<circle class="s0 dot" cx="([\d.]+)"', figure)]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)


def test_values_that_are_not_finite_are_left_out_and_counted():
    figure = line_chart("Loss", [Series("a", [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 2.0)])])
    assert "2 values cannot be drawn" in figure
    assert "nan" not in figure.lower()


def test_a_logarithmic_chart_leaves_out_zero():
    figure = line_chart("Rate", [Series("a", [(0, 0.0), (1, 1e-4), (2, 1e-2)])], log=True)
    assert "1 values cannot be drawn" in figure
    assert "log scale" in figure


def test_a_series_without_finite_values_says_so():
    assert "no finite values" in line_chart("Loss", [Series("a", [(0, float("nan"))])])


def test_names_and_labels_are_escaped():
    figure = line_chart('<b>"', [Series("<i>", [(0, 1), (1, 2)]), Series("<u>", [(0, 1)])], [Marker(0.5, "<s>")])
    assert not re.search(r"<(b|i|u|s)>", figure)
    assert "&lt;s&gt;" in legend((), [Marker(0.5, "<s>")])


def test_a_marker_outside_the_axis_is_not_drawn():
    svg = drawn(line_chart("Loss", [Series("a", [(0, 1), (10, 2)])], [Marker(11, "later"), Marker(5, "now")]))
    assert [label.text for label in svg.findall("text") if label.get("class") == "event"] == ["2"]


def test_series_keep_the_colour_that_they_are_given():
    svg = drawn(line_chart("Loss", [Series("b", [(0, 1), (1, 2)], colour=1)]))
    line = svg.find("polyline")
    assert line is not None
    assert line.get("class") == "s1"


def test_numbers_are_short():
    assert [number(v) for v in (12000, 0.0002, 3.14159, 0, 1e-7, 25)] == [
        "12,000",
        "0.0002",
        "3.142",
        "0",
        "1e-07",
        "25",
    ]
