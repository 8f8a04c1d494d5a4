from dataclasses import replace

import pytest
import torch
from torch import Tensor, tensor

from bitgen.boxes import enclose
from bitgen.evaluation.grounding import (
    Answers,
    Targets,
    constant_box,
    constant_controls,
    encode,
    evaluate_grounding,
    join_targets,
    measure,
    peak,
    predict,
    select,
    to_pixels,
)
from bitgen.evaluation.phrases import split, text_rows
from tests import fakes


def targets(boxes: list[list[float]], box_phrase: list[int], side_px: float = 100.0) -> Targets:
    corners = tensor(boxes, dtype=torch.float64)
    phrase = tensor(box_phrase)
    phrases = max(box_phrase) + 1
    sizes = torch.full((phrases, 2), side_px, dtype=torch.float64)
    return Targets(corners, phrase, enclose(corners, phrase, phrases), sizes)


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


def test_a_prediction_in_a_crop_comes_back_to_the_pixels_of_the_stored_image():
    # The crop is the right half of a 200 x 100 image; its left upper quarter is x 100..150, y 0..50.
    crop, size = tensor([[0.5, 0.0, 1.0, 1.0]]), tensor([[200.0, 100.0]])
    assert to_pixels(tensor([[0.0, 0.0, 0.5, 0.5]]), crop, size).tolist() == [[100.0, 0.0, 150.0, 50.0]]


def test_a_point_in_a_crop_comes_back_likewise():
    crop, size = tensor([[0.5, 0.0, 1.0, 1.0]]), tensor([[200.0, 100.0]])
    assert to_pixels(tensor([[0.5, 0.25]]), crop, size).tolist() == [[150.0, 25.0]]


def test_the_peak_is_the_middle_of_the_highest_patch():
    heat = torch.zeros(1, 16)
    heat[0, 6] = 1.0  # Row 1, column 2 of 4 x 4.
    assert peak(heat).tolist() == [[0.625, 0.375]]


def slow_constant_accuracy(box: list[float], fractions: Tensor) -> float:
    hits = 0
    for x0, y0, x1, y1 in fractions.tolist():
        across = max(0.0, min(box[2], x1) - max(box[0], x0))
        down = max(0.0, min(box[3], y1) - max(box[1], y0))
        union = (box[2] - box[0]) * (box[3] - box[1]) + (x1 - x0) * (y1 - y0) - across * down
        hits += across * down / union >= 0.5
    return hits / len(fractions)


def random_fractions(count: int, seed: int) -> Tensor:
    low = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)).double() * 0.6
    return torch.cat((low, low + 0.1 + 0.3 * torch.rand(count, 2).double()), dim=1)


def test_the_constant_box_is_at_least_as_good_as_the_mean_box_and_the_whole_image():
    fractions = random_fractions(200, 0)
    best = slow_constant_accuracy(constant_box(fractions).tolist(), fractions)
    assert best >= slow_constant_accuracy(fractions.mean(dim=0).tolist(), fractions)
    assert best >= slow_constant_accuracy([0.0, 0.0, 1.0, 1.0], fractions)


def test_the_constant_box_finds_the_more_common_of_two_places():
    left, right = [0.0, 0.0, 0.3, 1.0], [0.7, 0.0, 1.0, 1.0]
    assert constant_box(tensor([left, right, right])).tolist() == pytest.approx(right)


def test_no_targets_give_no_constant_box():
    with pytest.raises(ValueError, match="expected one or more target boxes"):
        constant_box(torch.empty(0, 4))


def test_a_constant_box_fitted_on_the_set_itself_says_so():
    asked = targets([[0, 0, 50, 100], [0, 0, 50, 100]], [0, 1])
    found = constant_controls(asked, None)["constant_box"]
    assert found["fitted_on"] == "this set"
    assert found["acc50"] == 1.0


def test_a_constant_box_fitted_on_training_targets_is_used_as_it_is():
    asked = targets([[0, 0, 50, 100]], [0])
    found = constant_controls(asked, tensor([[0.5, 0.0, 1.0, 1.0]]))["constant_box"]
    assert (found["fitted_on"], found["box"], found["acc50"]) == ("train", [0.5, 0.0, 1.0, 1.0], 0.0)


def test_the_whole_image_scores_the_area_of_the_target():
    found = constant_controls(targets([[0, 0, 60, 100]], [0]), None)["whole_image"]
    assert found["mean_iou"] == pytest.approx(0.6)
    assert (found["acc50"], found["pointing"]) == (1.0, 1.0)


def test_selected_phrases_keep_their_own_boxes():
    three = targets([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5], [6, 6, 7, 7]], [0, 1, 1, 2])
    kept = select(three, tensor([1, 2]))
    assert kept.boxes[:, 0].tolist() == [2, 4, 6]
    assert kept.box_phrase.tolist() == [0, 0, 1]
    assert kept.merged[:, 2].tolist() == [5, 7]


def test_joined_targets_number_their_phrases_on():
    joined = join_targets([targets([[0, 0, 1, 1], [0, 0, 2, 2]], [0, 1]), targets([[0, 0, 3, 3]], [0])])
    assert joined.box_phrase.tolist() == [0, 1, 2]
    assert joined.merged[:, 2].tolist() == [1, 2, 3]


def test_a_model_is_asked_for_every_phrase_and_every_control():
    batches = [fakes.fake_batch(3, seed=1), fakes.fake_batch(2, seed=2, position=3)]
    found = evaluate_grounding(fakes.model().eval(), batches)
    assert found["phrases"] == 20
    assert found["controls"]["shuffled_text"]["phrases"] == 20
    assert found["controls"]["whole_image"]["phrases"] == 20


def test_batches_without_phrases_are_passed_over():
    batches = [fakes.fake_batch(2, phrases=0), fakes.fake_batch(2, seed=2)]
    assert evaluate_grounding(fakes.model().eval(), batches)["phrases"] == 8


def test_nothing_to_ground_is_refused():
    with pytest.raises(ValueError, match="expected one or more phrases"):
        evaluate_grounding(fakes.model().eval(), [fakes.fake_batch(2, phrases=0)])


def test_equal_seeds_give_equal_results():
    model, batches = fakes.model().eval(), [fakes.fake_batch(4, seed=1)]
    assert evaluate_grounding(model, batches, seed=4) == evaluate_grounding(model, batches, seed=4)


def test_dropped_phrases_are_added_up_over_batches():
    batches = [replace(fakes.fake_batch(2, seed=s), dropped={"box_cropped": s}) for s in (1, 2)]
    assert evaluate_grounding(fakes.model().eval(), batches)["dropped"] == {"box_cropped": 3}


def test_a_phrase_beyond_the_token_limit_is_a_miss():
    model, batches = fakes.model().eval(), [fakes.fake_batch(2, seed=s) for s in (1, 2)]
    whole = evaluate_grounding(model, batches)
    cut = evaluate_grounding(model, [replace(batch, dropped={"span_truncated": 8}) for batch in batches])
    assert (whole["phrases"], cut["phrases"], cut["truncated"]) == (16, 32, 16)
    assert cut["mean_iou"] == pytest.approx(whole["mean_iou"] / 2)
    assert cut["pointing"] == pytest.approx(whole["pointing"] / 2)
    assert cut["controls"] == whole["controls"]


def test_predictions_are_the_models_own():
    model, batch = fakes.model().eval(), fakes.fake_batch(3, seed=1)
    image = encode(model, batch)
    text = model.encode_text(batch.token_ids, batch.token_mask)
    found = model.ground(
        image, text, batch.text_image, batch.phrase_text, batch.phrase_slot, batch.phrase_tokens, batch.max_slots
    )
    boxes, heat = predict(model, image, text_rows(batch))
    torch.testing.assert_close(boxes, found.boxes)
    torch.testing.assert_close(heat, found.heat)


def test_predictions_do_not_depend_on_how_many_texts_go_at_once():
    model, batch = fakes.model().eval(), fakes.fake_batch(3, seed=1)
    image, rows = encode(model, batch), text_rows(batch)
    apart = torch.cat([predict(model, image, part)[0] for part in split(rows, 1)])
    torch.testing.assert_close(apart, predict(model, image, rows)[0])


def test_a_model_that_gives_nan_scores_nothing():
    model = fakes.model().eval()
    with torch.no_grad():
        model.grounding.regression.fill_(torch.nan)
    found = evaluate_grounding(model, [fakes.fake_batch(2, seed=1)])
    assert (found["not_finite"], found["mean_iou"], found["pointing"]) == (8, 0.0, 0.0)
