import numpy as np
import pytest
import torch
from torch import tensor

from bitgen.evaluation.items import Items
from bitgen.evaluation.phrase_scores import (
    Answers,
    join_answers,
    join_targets,
    measure,
    scores,
    select,
    shares,
)
from tests.phrase_targets import targets


def answers(boxes: list[list[float]], peaks: list[list[float]]) -> Answers:
    corners = tensor(boxes, dtype=torch.float64)
    return Answers(corners, tensor(peaks, dtype=torch.float64), torch.ones(len(corners), dtype=torch.bool))


def test_accuracy_at_three_thresholds_by_hand():
    # Overlaps 1, 0.8, 0.5 and 0.3 with a square of 100 x 100.
    square = [0.0, 0.0, 100.0, 100.0]
    given = answers([square, [0, 0, 100, 80], [0, 0, 100, 50], [0, 0, 100, 30]], [[50, 50]] * 4)
    found = measure(given, targets([square] * 4, [0, 1, 2, 3]))
    assert (found["acc25"], found["acc50"], found["acc75"]) == (1.0, 0.75, 0.5)
    assert found["mean_iou"] == pytest.approx((1 + 0.8 + 0.5 + 0.3) / 4)
    assert found["phrases"] == 4


def test_a_phrase_with_two_boxes_is_measured_against_their_union_and_against_either():
    two = targets([[0, 0, 40, 40], [60, 60, 100, 100]], [0, 0])
    one_of_them = measure(answers([[0, 0, 40, 40]], [[80, 80]]), two)
    around_both = measure(answers([[0, 0, 100, 100]], [[50, 50]]), two)
    assert (one_of_them["acc50"], one_of_them["any_box_acc50"], one_of_them["pointing"]) == (0.0, 1.0, 1.0)
    assert (around_both["acc50"], around_both["any_box_acc50"], around_both["pointing"]) == (1.0, 0.0, 0.0)


def test_what_was_not_asked_is_a_miss():
    square = [0.0, 0.0, 100.0, 100.0]
    found = measure(answers([square], [[50, 50]]), targets([square], [0]), unasked=3)
    assert (found["acc50"], found["mean_iou"], found["pointing"], found["phrases"]) == (0.25, 0.25, 0.25, 4)


def test_generalised_accuracy_is_stricter():
    # 75 x 100 shifted by 15 and 15: common 60 x 85 = 5100, union 9900, enclosed by 90 x 115 = 10350.
    # IoU 5100 / 9900 = 0.515; GIoU 0.515 - 450 / 10350 = 0.472.
    found = measure(answers([[15, 15, 90, 115]], [[0, 0]]), targets([[0, 0, 75, 100]], [0]))
    assert found["mean_iou"] == pytest.approx(5100 / 9900)
    assert (found["acc50"], found["giou50"]) == (1.0, 0.0)


def test_an_answer_that_is_not_a_number_is_a_miss_and_not_a_nan():
    given = Answers(torch.zeros(1, 4).double(), torch.full((1, 2), -1.0).double(), tensor([False]))
    found = measure(given, targets([[0, 0, 40, 40]], [0]))
    assert (found["mean_iou"], found["pointing"]) == (0.0, 0.0)


def test_selected_phrases_keep_their_own_boxes():
    three = targets([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5], [6, 6, 7, 7]], [0, 1, 1, 2])
    kept = select(three, tensor([1, 2]))
    assert kept.boxes[:, 0].tolist() == [2, 4, 6]
    assert kept.box_phrase.tolist() == [0, 0, 1]
    assert kept.merged[:, 2].tolist() == [5, 7]
    assert kept.photographs.tolist() == [101, 102]
    assert kept.keys == ("phrase-1", "phrase-2")


def test_joined_targets_number_their_phrases_on():
    joined = join_targets([targets([[0, 0, 1, 1], [0, 0, 2, 2]], [0, 1]), targets([[0, 0, 3, 3]], [0])])
    assert joined.box_phrase.tolist() == [0, 1, 2]
    assert joined.merged[:, 2].tolist() == [1, 2, 3]
    assert joined.photographs.tolist() == [100, 101, 100]
    assert joined.keys == ("phrase-0", "phrase-1", "phrase-0")


def test_every_phrase_has_a_score_of_its_own():
    square = [0.0, 0.0, 100.0, 100.0]
    found = scores(answers([square, [0, 0, 100, 40]], [[50, 50], [500, 50]]), targets([square] * 2, [0, 1]), unasked=1)
    assert found.keys == ("phrase-0", "phrase-1", "truncated.0")
    assert found.values["mean_iou"] == pytest.approx([1.0, 0.4, 0.0])
    assert found.values["acc25"].tolist() == [1.0, 1.0, 0.0]
    assert found.values["acc50"].tolist() == [1.0, 0.0, 0.0]
    assert found.values["pointing"].tolist() == [1.0, 0.0, 0.0]


def test_what_was_not_asked_is_as_if_of_photographs_of_its_own():
    square = [0.0, 0.0, 100.0, 100.0]
    found = scores(answers([square], [[50, 50]]), targets([square], [0]), unasked=2)
    assert found.photographs.tolist() == [100, -1, -2]


def test_phrases_of_one_photograph_are_drawn_together():
    # Ten phrases of a photograph are found, ten of another are not: drawn one by one, none or all would never come.
    values = {"acc50": np.repeat([1.0, 0.0], 10)}
    found = shares(Items(tuple("abcdefghijklmnopqrst"), np.repeat([1, 2], 10), values))
    assert found == {"acc50": 0.5, "phrases": 20, "interval": {"acc50": [0.0, 1.0]}}


def test_joined_answers_stay_in_order():
    joined = join_answers([answers([[0, 0, 1, 1]], [[1, 2]]), answers([[0, 0, 2, 2]], [[3, 4]])])
    assert joined.boxes[:, 2].tolist() == [1, 2]
    assert joined.peaks.tolist() == [[1, 2], [3, 4]]


def test_an_overlap_of_exactly_a_threshold_counts():
    square = [0.0, 0.0, 100.0, 100.0]
    given = answers([[0, 0, 100, 25], [0, 0, 100, 50], [0, 0, 100, 75]], [[0, 0]] * 3)
    found = scores(given, targets([square] * 3, [0, 1, 2])).values
    assert [found[name].tolist() for name in ("acc25", "acc50", "acc75")] == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]


def test_of_one_resample_both_ends_are_its_mean_and_its_seed_is_the_one_asked_for():
    items = Items(tuple("abcdefgh"), np.arange(8), {"mean_iou": np.arange(8.0)})
    ends = [shares(items, seed, resamples=1)["interval"]["mean_iou"] for seed in (0, 1)]
    assert [low == high for low, high in ends] == [True, True]
    assert ends[0] != ends[1]
