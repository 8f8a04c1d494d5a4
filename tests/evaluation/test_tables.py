import pytest

from bitgen.evaluation.tables import (
    Table,
    captioning_table,
    comparison_table,
    grounding_table,
    mean,
    plain,
    retrieval_table,
)

DIRECTION = {"r1": 0.125, "r5": 0.5, "r10": 1.0, "median_rank": 5.5}
CHANCE = {"r1": 0.01, "r5": 0.05, "r10": 0.1}
RETRIEVAL = {
    "t2i": DIRECTION, "i2t": DIRECTION, "rsum": 3.25, "images": 1200, "texts": 6000, "chance": {"t2i": CHANCE, "i2t": CHANCE}
}  # fmt: skip
SHARES = {
    "acc25": 0.9,
    "acc50": 0.5,
    "acc75": 0.1,
    "mean_iou": 0.45,
    "giou50": 0.4,
    "any_box_acc50": 0.6,
    "pointing": 0.7,
}
GROUNDING = {
    **SHARES, "phrases": 10, "dropped": {}, "not_finite": 0,
    "controls": {"constant_box": {**SHARES, "phrases": 10, "box": [0.0] * 4, "fitted_on": "train"}},
}  # fmt: skip
SCORES = {"bleu1": 0.7, "bleu2": 0.5, "bleu3": 0.4, "bleu4": 0.3, "rouge_l": 0.55, "cider_d": 1.125}
CAPTIONING = {
    **SCORES, "images": 1000, "references": 5003, "empty": 2, "distinct": 900, "missing": {"spice": "expected Java"},
    "controls": {"shuffled_captions": {**SCORES, "cider_d": 0.05, "seed": 0}, "constant_caption": {**SCORES, "fitted_on": "train"}},
}  # fmt: skip
RESULTS = {
    "train": {"retrieval": RETRIEVAL, "datasets": {"coarse/a": {"retrieval": RETRIEVAL, "samples": 1200}}},
    "heldout": {"grounding": GROUNDING, "datasets": {"eval/b": {"grounding": GROUNDING, "samples": 5}}},
}


def test_the_mean_of_one_set_is_the_set():
    assert mean([RETRIEVAL]) == RETRIEVAL


def test_shares_are_averaged_and_counts_added():
    other = {**RETRIEVAL, "t2i": {**DIRECTION, "r1": 0.375}, "images": 800}
    found = mean([RETRIEVAL, other])
    assert found["t2i"]["r1"] == pytest.approx(0.25)
    assert found["images"] == 2000
    assert found["chance"]["t2i"]["r5"] == pytest.approx(0.05)


def test_what_is_neither_a_share_nor_a_count_has_no_mean():
    found = mean([GROUNDING, GROUNDING])
    assert "box" not in found["controls"]["constant_box"]
    assert "fitted_on" not in found["controls"]["constant_box"]
    assert found["controls"]["constant_box"]["phrases"] == 20


def test_retrieval_is_shown_in_percent_with_chance_under_it():
    found = retrieval_table(RESULTS)
    assert found.rows[0] == (
        "train: coarse/a", "1,200", "6,000", "12.5", "50.0", "100.0", "5.5", "12.5", "50.0", "100.0", "5.5", "325.0"
    )  # fmt: skip
    assert found.rows[1] == ("chance", "", "", "1.0", "5.0", "10.0", "", "1.0", "5.0", "10.0", "", "32.0")
    assert found.lesser == (1,)


def test_grounding_is_shown_with_its_controls_under_it():
    found = grounding_table(RESULTS)
    assert found.rows[0] == ("held out: eval/b", "10", "50.0", "45.0", "90.0", "10.0", "40.0", "60.0", "70.0")
    assert found.header[6] == "GIoU ≥ 0.5"
    assert found.rows[1][0] == "constant box, fitted on train"


def test_captioning_is_shown_times_100_with_its_controls_under_it():
    found = captioning_table({"train": {"datasets": {"coarse/a": {"captioning": CAPTIONING}}}})
    assert found.rows[0] == ("train: coarse/a", "1,000", "5,003", "112.5", "70.0", "30.0", "55.0", "900", "2")
    assert found.rows[1] == ("captions of other images", "", "", "5.0", "70.0", "30.0", "55.0", "", "")
    assert found.rows[2][0] == "one caption for all, from train"
    assert found.lesser == (1, 2)


def test_figures_from_java_are_shown_where_a_set_has_them():
    sets = {"eval/a": {"captioning": CAPTIONING}, "eval/b": {"captioning": {**CAPTIONING, "meteor": 0.25}}}
    both = mean([found["captioning"] for found in sets.values()])
    found = captioning_table({"heldout": {"datasets": sets, "captioning": both}})
    assert found.header[7] == "METEOR"
    assert [row[7] for row in found.rows[::3]] == ["", "25.0", ""]
    assert found.rows[6][:3] == ("held out: mean of 2", "2,000", "10,006")


def test_several_sets_of_a_split_have_a_mean_row():
    sets = {"eval/a": {"grounding": GROUNDING}, "eval/b": {"grounding": GROUNDING}}
    found = grounding_table({"heldout": {"datasets": sets, "grounding": mean([GROUNDING, GROUNDING])}})
    assert [row[0] for row in found.rows[::2]] == ["held out: eval/a", "held out: eval/b", "held out: mean of 2"]


def test_a_plain_table_is_aligned():
    drawn = plain(Table(("set", "R@1"), (("a", "5.0"), ("chance", "10.0")), (1,)))
    assert drawn.splitlines() == ["set        R@1", "--------------", "a          5.0", "  chance  10.0"]


def test_what_is_reranked_stands_under_what_the_dual_encoder_finds():
    again = {"t2i": {**DIRECTION, "r1": 0.25}, "i2t": DIRECTION, "rsum": 3.375, "k": 64}
    found = retrieval_table({"heldout": {"datasets": {"eval/a": {"retrieval": {**RETRIEVAL, "reranked": again}}}}})
    assert [row[0] for row in found.rows] == ["held out: eval/a", "held out: eval/a, first 64 re-ranked", "chance"]
    assert found.rows[1][1:5] == ("1,200", "6,000", "25.0", "50.0")
    assert found.lesser == (2,)


def test_the_mean_of_what_is_reranked_names_no_number_of_candidates():
    again = {"t2i": DIRECTION, "i2t": DIRECTION, "rsum": 3.25, "k": 64}
    merged = mean([{**RETRIEVAL, "reranked": again}] * 2)
    sets = {name: {"retrieval": {**RETRIEVAL, "reranked": again}} for name in ("eval/a", "eval/b")}
    found = retrieval_table({"heldout": {"datasets": sets, "retrieval": merged}})
    assert found.rows[7][:4] == ("held out: mean of 2, re-ranked", "2,400", "12,000", "12.5")


def test_the_mean_of_several_sets_has_no_interval():
    settings = {"percent": 95, "resamples": 1000, "seed": 0, "photographs": 5}
    one = {**SHARES, "phrases": 10, "interval": {"acc50": [0.4, 0.6]}, "bootstrap": settings}
    assert mean([one, one]) == {**SHARES, "phrases": 20}


def test_the_ends_of_intervals_stand_under_recalls():
    ends = {"r1": [0.1, 0.15], "r10": [0.9, 1.0]}
    sets = {"eval/a": {"retrieval": {**RETRIEVAL, "t2i": {**DIRECTION, "interval": ends}}}}
    found = retrieval_table({"heldout": {"datasets": sets}})
    assert found.rows[1] == ("95% from", "", "", "10.0", "", "90.0", "", "", "", "", "", "")
    assert found.rows[2] == ("95% to", "", "", "15.0", "", "100.0", "", "", "", "", "", "")
    assert [row[0] for row in found.rows[3:]] == ["chance"]
    assert found.lesser == (1, 2, 3)


def test_what_is_reranked_has_its_own_intervals():
    again = {"t2i": DIRECTION, "i2t": {**DIRECTION, "interval": {"r5": [0.25, 0.75]}}, "rsum": 3.25, "k": 4}
    found = retrieval_table({"heldout": {"datasets": {"eval/a": {"retrieval": {**RETRIEVAL, "reranked": again}}}}})
    assert [row[8] for row in found.rows[1:4]] == ["50.0", "25.0", "75.0"]
    assert found.lesser == (2, 3, 4)


def test_the_ends_of_intervals_stand_under_accuracies_and_above_the_controls():
    ends = {"acc50": [0.4, 0.625], "giou50": [0.1, 0.2], "pointing": [0.5, 0.75]}
    found = grounding_table({"heldout": {"datasets": {"eval/b": {"grounding": {**GROUNDING, "interval": ends}}}}})
    assert found.rows[1] == ("95% from", "", "40.0", "", "", "", "10.0", "", "50.0")
    assert found.rows[2] == ("95% to", "", "62.5", "", "", "", "20.0", "", "75.0")
    assert found.rows[3][0] == "constant box, fitted on train"
    assert found.lesser == (1, 2, 3)


def test_the_ends_of_intervals_stand_under_scores_of_captions():
    ends = {"cider_d": [1.0, 1.25], "bleu2": [0.1, 0.2], "rouge_l": [0.5, 0.625]}
    found = captioning_table({"heldout": {"datasets": {"eval/a": {"captioning": {**CAPTIONING, "interval": ends}}}}})
    assert found.rows[1] == ("95% from", "", "", "100.0", "", "", "50.0", "", "")
    assert found.rows[2] == ("95% to", "", "", "125.0", "", "", "62.5", "", "")
    assert found.lesser == (1, 2, 3, 4)


def test_a_set_of_one_photograph_has_no_rows_of_intervals():
    found = grounding_table({"heldout": {"datasets": {"eval/b": {"grounding": {**GROUNDING, "interval": {}}}}}})
    assert [row[0] for row in found.rows] == ["held out: eval/b", "constant box, fitted on train"]


def compared(**figures: dict) -> dict:
    return {"items": 1500, "bootstrap": {}, "figures": figures}


def test_a_comparison_is_shown_in_percent_with_signs():
    r1 = {"a": 0.5, "b": 0.4375, "difference": -0.0625, "interval": [-0.125, 0.015], "p": 0.0199}
    found = comparison_table({"held out: eval/a": {"t2i": compared(r1=r1)}}, "fine", "joint")
    assert found.header == ("comparison, %", "items", "fine", "joint", "difference", "95% from", "to", "p")
    row = ("held out: eval/a text→image: R@1", "1,500", "50.0", "43.8", "-6.2", "-12.5", "+1.5", "0.020")
    assert found.rows == (row,)


def test_every_kind_of_items_has_its_rows():
    acc50 = {"a": 0.0, "b": 1.0, "difference": 1.0}
    kinds = {"i2t": compared(reranked_r5=acc50), "grounding": compared(acc50=acc50, other=acc50)}
    assert [row[0] for row in comparison_table({"eval/a": kinds}).rows] == [
        "eval/a image→text: R@5 re-ranked",
        "eval/a: IoU ≥ 0.5",
        "eval/a: other",
    ]


def test_a_difference_on_one_photograph_is_shown_without_an_interval():
    acc50 = {"a": 0.0, "b": 1.0, "difference": 1.0}
    row = comparison_table({"eval/a": {"grounding": compared(acc50=acc50)}}).rows[0]
    assert row[2:] == ("0.0", "100.0", "+100.0", "", "", "")


def test_items_that_one_has_not_have_a_column_where_there_are_some():
    acc50 = {"a": 0.0, "b": 1.0, "difference": 1.0}
    kinds = {
        "grounding": {**compared(acc50=acc50), "only_a": 0, "only_b": 1200},
        "t2i": {**compared(r1=acc50), "only_b": 0},
    }
    found = comparison_table({"eval/a": kinds}, "fine", "joint")
    assert found.header[:4] == ("comparison, %", "items", "only joint", "fine")
    assert [row[1:3] for row in found.rows] == [("1,500", "1,200"), ("1,500", "0")]


def test_what_is_null_in_results_is_a_dash():
    direction = {**DIRECTION, "r5": None, "interval": {"r1": [None, 0.5]}}
    found = retrieval_table({"heldout": {"datasets": {"eval/a": {"retrieval": {**RETRIEVAL, "t2i": direction}}}}})
    assert [row[3:5] for row in found.rows[:3]] == [("12.5", "–"), ("–", ""), ("50.0", "")]


@pytest.mark.parametrize(("rank", "said"), [(1.0, "1"), (209.4875, "209.5"), (12345.5, "12345.5"), (None, "–")])
def test_a_rank_has_no_more_digits_than_it_needs(rank: float | None, said: str):
    direction = {**DIRECTION, "median_rank": rank}
    entry = {**RETRIEVAL, "t2i": {**DIRECTION, "interval": {"median_rank": [rank, rank]}}, "i2t": direction}
    table = retrieval_table({"heldout": {"datasets": {"eval/a": {"retrieval": entry}}}})
    assert table.rows[1][6] == said
