from bitgen.evaluation.compare_figures import difference_figures

UP = {"a": 0.25, "b": 0.5, "difference": 0.25, "interval": [0.125, 0.375], "p": 0.01}
ONE = {"a": 0.5, "b": 0.25, "difference": -0.25}


def test_directions_of_retrieval_share_a_chart():
    found = difference_figures({"t2i": {"figures": {"r1": UP, "r5": UP}}, "i2t": {"figures": {"r1": UP}}}, "one", "two")
    assert list(found) == ["differences-retrieval"]
    chart = found["differences-retrieval"]
    assert "Retrieval: two less one" in chart
    assert "image to text, R@1 +25.0" in chart
    assert chart.count("<polyline") == chart.count("<circle") == 3


def test_captions_have_a_chart_of_their_own():
    found = difference_figures({"t2i": {"figures": {"r1": UP}}, "captioning": {"figures": {"cider_d": ONE}}}, "a", "b")
    assert list(found) == ["differences-retrieval", "differences-captioning"]
    assert "CIDEr-D -25.0" in found["differences-captioning"]


def test_a_difference_without_an_interval_is_a_dot():
    chart = difference_figures({"grounding": {"figures": {"acc50": ONE}}}, "a", "b")["differences-grounding"]
    assert (chart.count("<circle"), chart.count("<polyline")) == (1, 0)
