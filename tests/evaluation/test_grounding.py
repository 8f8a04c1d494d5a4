from dataclasses import replace

import pytest
import torch
from torch import Tensor, tensor

from bitgen.evaluation.grounding import (
    constant_answers,
    constant_box,
    encode,
    evaluate_grounding,
    peak,
    predict,
    targets_of,
    to_pixels,
)
from bitgen.evaluation.items import Items
from bitgen.evaluation.phrase_scores import measure
from bitgen.evaluation.phrases import split, text_rows
from tests import fakes
from tests.phrase_targets import targets


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
    answers, about = constant_answers(asked)["constant_box"]
    assert about["fitted_on"] == "this set"
    assert measure(answers, asked)["acc50"] == 1.0


def test_a_constant_box_fitted_on_training_targets_is_used_as_it_is():
    asked = targets([[0, 0, 50, 100]], [0])
    answers, about = constant_answers(asked, tensor([[0.5, 0.0, 1.0, 1.0]]))["constant_box"]
    assert about == {"fitted_on": "train", "box": [0.5, 0.0, 1.0, 1.0]}
    assert measure(answers, asked)["acc50"] == 0.0


def test_the_whole_image_scores_the_area_of_the_target():
    asked = targets([[0, 0, 60, 100]], [0])
    found = measure(constant_answers(asked)["whole_image"][0], asked)
    assert found["mean_iou"] == pytest.approx(0.6)
    assert (found["acc50"], found["pointing"]) == (1.0, 1.0)


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


def test_every_figure_and_every_control_has_an_interval():
    batches = [fakes.fake_batch(3, seed=1), fakes.fake_batch(2, seed=2, position=3)]
    found = evaluate_grounding(fakes.model().eval(), batches, seed=3, resamples=50)
    names = {"acc25", "acc50", "acc75", "mean_iou", "giou50", "any_box_acc50", "pointing"}
    assert all(each["interval"].keys() == names for each in (found, *found["controls"].values()))
    low, high = found["interval"]["mean_iou"]
    assert low < found["mean_iou"] < high
    assert found["bootstrap"] == {"percent": 95, "resamples": 50, "seed": 3, "photographs": 5}


def test_intervals_of_the_model_and_of_the_controls_are_by_photograph():
    model, batch = fakes.model().eval(), fakes.fake_batch(3, seed=1, image_ids=[7, 7, 7])
    found = evaluate_grounding(model, [batch, fakes.fake_batch(2, phrases=0)])
    assert found["interval"] == {}
    assert found["controls"]["constant_box"]["interval"] == {}
    assert found["controls"]["whole_image"]["interval"] == {}


def test_every_phrase_can_be_had_by_name_and_photograph():
    items: dict[str, Items] = {}
    batches = [fakes.fake_batch(1, texts=2, phrases=1, seed=1), fakes.fake_batch(1, texts=1, seed=2, position=3)]
    found = evaluate_grounding(fakes.model().eval(), batches, items=items)
    assert items["grounding"].keys == ("fake-0.0.1", "fake-0.1.1", "fake-3.0.1", "fake-3.0.2")
    assert items["grounding"].photographs.tolist() == [1000, 1000, 1003, 1003]
    assert items["grounding"].means() == {name: found[name] for name in items["grounding"].values}


def test_a_phrase_beyond_the_token_limit_is_among_the_items():
    items: dict[str, Items] = {}
    batch = replace(fakes.fake_batch(1, texts=1, phrases=1), dropped={"span_truncated": 2})
    evaluate_grounding(fakes.model().eval(), [batch], items=items)
    assert items["grounding"].keys == ("fake-0.0.1", "truncated.0", "truncated.1")
    assert items["grounding"].values["mean_iou"][1:].tolist() == [0.0, 0.0]


def test_targets_know_their_photographs():
    found = targets_of(fakes.fake_batch(2, texts=1, phrases=2, position=4))
    assert found.photographs.tolist() == [1004, 1004, 1005, 1005]
    assert found.keys == ("fake-4.0.1", "fake-4.0.2", "fake-5.0.1", "fake-5.0.2")


def test_of_one_resample_both_ends_are_its_mean_for_the_model_and_every_control():
    found = evaluate_grounding(fakes.model().eval(), [fakes.fake_batch(5, seed=1)], resamples=1)
    ends = [each["interval"]["mean_iou"] for each in (found, *found["controls"].values())]
    assert len(ends) == 4
    assert all(low == high for low, high in ends)
