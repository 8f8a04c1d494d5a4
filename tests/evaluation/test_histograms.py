import re
from xml.etree import ElementTree

import numpy as np
import pytest

from bitgen.evaluation.histograms import (
    Axis,
    Histogram,
    bar,
    bar_chart,
    density,
    histogram,
    percent,
    reach,
    short,
    spark,
    spark_axis,
    stack,
    together,
)

EDGES = (0.0, 10.0, 20.0, 40.0)
AXIS = Axis("width, px", lambda v: f"{v:.0f}", EDGES)
SCRIPT = "<script>alert(1)</script>"


def drawn(figure: str) -> ElementTree.Element:
    """The chart's SVG, which must be well-formed."""
    found = re.search(r"<svg.*</svg>", figure)
    assert found is not None
    return ElementTree.fromstring(found.group())


def test_a_value_on_an_edge_is_in_the_bin_that_begins_there():
    assert histogram(np.array([0, 9, 10, 19, 20, 39]), EDGES).counts == (2, 2, 2)


def test_values_outside_the_edges_are_in_the_outermost_bins():
    assert histogram(np.array([-5, 40, 1000]), EDGES).counts == (1, 0, 2)


def test_a_histogram_of_nothing_is_empty():
    assert histogram(np.empty(0), EDGES).counts == (0, 0, 0)


def test_histograms_add_up_bin_by_bin():
    several = [Histogram(EDGES, (1, 2, 3)), Histogram(EDGES, (10, 0, 5))]
    assert together(several) == Histogram(EDGES, (11, 2, 8))


def test_the_reach_of_several_histograms_holds_all_their_values():
    assert reach([Histogram(EDGES, (0, 0, 3)), Histogram(EDGES, (0, 1, 0))]) == (1, 3)


def test_the_reach_of_nothing_is_one_bin():
    assert reach([Histogram(EDGES, (0, 0, 0))]) == (0, 1)


def test_bars_are_as_high_as_their_counts():
    svg = drawn(bar_chart("Width", Histogram(EDGES, (1, 4, 2)), AXIS, of="images"))
    heights = [float(each.get("height", "")) for each in svg.findall("rect")]
    assert heights == pytest.approx([heights[1] / 4, heights[1], heights[1] / 2], abs=0.1)


def test_every_bar_says_what_it_holds():
    svg = drawn(bar_chart("Width", Histogram(EDGES, (1, 4, 2)), AXIS, of="images"))
    said = [each.findtext("title") for each in svg.findall("rect")]
    assert said == ["below 10: 1 images", "10 to 20: 4 images", "20 and more: 2 images"]


def test_a_chart_has_labels_on_both_axes():
    said = [
        each.text for each in drawn(bar_chart("Width", Histogram(EDGES, (1, 4, 2)), AXIS, of="images")).findall("text")
    ]
    assert said == ["0", "2", "4", "0", "10", "20", "40", "width, px", "images"]


def test_a_chart_of_nothing_says_so():
    assert "no values" in bar_chart("Width", Histogram(EDGES, (0, 0, 0)), AXIS, of="images")


def test_a_mark_stands_between_its_edges_in_proportion():
    svg = drawn(bar_chart("Width", Histogram(EDGES, (1, 1, 1)), AXIS, of="images", marks=(30,)))
    left, right = (float(each.get("x", "")) for each in svg.findall("rect")[1:])
    line = next(each for each in svg.findall("line") if each.get("class") == "event")
    assert float(line.get("x1", "")) == pytest.approx(right + (right - left) / 2, abs=1)


def test_a_small_distribution_has_one_bar_for_each_bin_with_values():
    found = spark(Histogram(EDGES, (0, 4, 2)), (0, 3), AXIS.say)
    assert len(re.findall(r"M\d", found)) == 2


def test_the_head_of_small_distributions_names_its_ends_and_a_place_between():
    assert [each.text for each in drawn(spark_axis(EDGES, AXIS, (0, 3))).findall("text")] == ["0", "40", "20"]


def test_a_density_says_how_many_lie_in_each_cell():
    counts = np.zeros((3, 3), np.int64)
    counts[1, 0], counts[2, 2] = 3, 7
    svg = drawn(density("Sizes", counts, EDGES, AXIS, AXIS))
    assert [each.text for each in svg.iter("title")] == ["10 × 0 and up: 3", "20 × 20 and up: 7"]


def test_the_parts_of_a_stack_share_it_as_their_numbers_do():
    found = stack([("kept", 3, "s2"), ("refused", 1, "s1"), ("held out", 0, "s0")])
    assert re.findall(r"flex-grow:(\d+)", found) == ["3", "1"]
    assert 'title="kept: 3, 75%"' in found


def test_a_bar_is_no_longer_than_its_track():
    assert "width:100.0%" in bar(30, 10)
    assert "width:25.0%" in bar(2.5, 10)


def test_a_bar_of_nothing_draws_nothing():
    assert "<i" not in bar(0, 10)


def test_percentages_say_neither_none_nor_all_of_what_is_only_nearly_so():
    found = [percent(part, 10_000) for part in (0, 1, 2500, 3333, 9999, 10_000)]
    assert found == ["0%", "< 0.1%", "25%", "33.3%", "> 99.9%", "100%"]


def test_a_share_of_nothing_is_a_dash():
    assert percent(0, 0) == "–"


def test_short_numbers_have_three_digits():
    found = [short(v) for v in (0, 7, 950, 999.7, 12_345, 999_700, 4_000_000, 3.2e9)]
    assert found == ["0", "7", "950", "1k", "12.3k", "1M", "4M", "3.2G"]


def test_whatever_is_said_in_a_chart_is_escaped():
    odd = Axis(SCRIPT, lambda _: SCRIPT, EDGES)
    shown = Histogram(EDGES, (1, 1, 1))
    parts = [
        bar_chart(SCRIPT, shown, odd, of=SCRIPT, marks=(15,)),
        spark(shown, (0, 3), odd.say),
        spark_axis(EDGES, odd, (0, 3)),
        density(SCRIPT, np.ones((3, 3), np.int64), EDGES, odd, odd),
        stack([(SCRIPT, 1, "s0")]),
    ]
    assert "<script" not in "".join(parts)
