"""Bars as long as their values, cells as dark as theirs."""

import re
from math import inf, nan
from xml.etree import ElementTree

import pytest

from bitgen.evaluation.charts import Bar, Span, bar_ranking, interval_chart, matrix_chart


def _svg(figure: str) -> ElementTree.Element:
    found = re.search(r"<svg.*</svg>", figure)
    assert found is not None
    return ElementTree.fromstring(found.group())


def test_bars_are_as_long_as_their_values_and_start_at_zero() -> None:
    svg = _svg(bar_ranking("t", [Bar("a", 2.0), Bar("b", 1.0, 3), Bar("<c>", -1.0)]))
    bars = svg.findall("rect")
    wide = [float(bar.get("width", "")) for bar in bars]
    assert wide[0] == pytest.approx(2 * wide[1], abs=0.2)
    assert wide[2] == pytest.approx(wide[1], abs=0.2)
    zero = float(bars[0].get("x", ""))
    assert float(bars[1].get("x", "")) == zero
    assert float(bars[2].get("x", "")) + wide[2] == pytest.approx(zero, abs=0.2)
    assert [bar.get("class") for bar in bars] == ["s0 bar", "s3 bar", "s0 bar"]
    assert bars[2][0].text == "<c>: -1"


def test_a_mark_stands_at_its_value() -> None:
    svg = _svg(bar_ranking("t", [Bar("a", 0.5), Bar("b", 0.25)], mark=0.25, most=1))
    bar = svg.findall("rect")[1]
    end = float(bar.get("x", "")) + float(bar.get("width", ""))
    assert float(svg.findall("line[@class='event']")[0].get("x1", "")) == pytest.approx(end, abs=0.2)


def test_bars_of_zero_have_a_figure_too() -> None:
    assert "NaN" not in bar_ranking("t", [Bar("a", 0.0)])
    assert "no values" in bar_ranking("t", [])


def test_cells_are_as_dark_as_their_values_and_negative_ones_have_another_colour() -> None:
    figure = matrix_chart("t", [[1.0, 0.5, None], [-1.0, 0.0, 0.25]], ["r0", "r1"], ["x", "y", "z"])
    cells = [cell for cell in _svg(figure).findall("rect") if cell.get("class") != "field"]
    assert [float(cell.get("fill-opacity", "")) for cell in cells] == pytest.approx([0.8, 0.4, 0.8, 0, 0.2])
    assert [cell.get("class") for cell in cells] == ["s0 bar", "s0 bar", "s1 bar", "s0 bar", "s0 bar"]
    assert cells[2][0].text == "r1, x: -1"
    assert "darkest at 1" in figure


def test_many_columns_have_few_labels() -> None:
    svg = _svg(matrix_chart("t", [[0.5] * 64], ["r"], [f"c{n}" for n in range(64)]))
    labels = [label.text for label in svg.findall("text")]
    assert labels == ["r", *(f"c{n}" for n in range(0, 64, 5))]


def test_values_and_ends_lie_where_they_are_on_one_axis() -> None:
    svg = _svg(interval_chart("t", [Span("a", 2.0, (1.0, 4.0)), Span("<b>", -1.0)], say=str))
    zero = float(svg.findall("line[@class='axis']")[0].get("x1", ""))
    first, second = (float(dot.get("cx", "")) - zero for dot in svg.findall("circle"))
    assert second == pytest.approx(-first / 2, abs=0.2)
    (line,) = svg.findall("polyline")
    low, high = (float(point.split(",")[0]) - zero for point in line.get("points", "").split())
    assert (low, high) == (pytest.approx(first / 2, abs=0.2), pytest.approx(2 * first, abs=0.2))
    assert [name.text for name in svg.findall("text[@class='mark']")] == ["2.0", "-1.0"]


def test_a_bar_that_is_not_finite_is_named_and_not_drawn() -> None:
    figure = bar_ranking("t", [Bar("a", 2.0), Bar("b", nan), Bar("c", inf), Bar("d", 1.0)])
    assert [float(bar.get("width", "")) > 100 for bar in _svg(figure).findall("rect")] == [True, True]
    assert [mark.text for mark in _svg(figure).findall("text[@class='mark']")] == ["2", "not finite", "not finite", "1"]
    assert "nan" not in figure
    assert "inf" not in bar_ranking("t", [Bar("a", inf)]).replace("finite", "")


def test_cells_that_are_not_finite_are_left_white_and_counted() -> None:
    figure = matrix_chart("t", [[1.0, nan], [None, -inf]], ["a", "b"], ["x", "y"], small="of 3")
    (cell,) = _svg(figure).findall("rect[@class='s0 bar']")
    assert float(cell.get("fill-opacity", "")) == 0.8  # the greatest of what is finite
    assert "of 3; 2 not finite</small>" in figure
