from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from bitgen.batch import whole
from bitgen.evaluation.breakdown import (
    CountError,
    Said,
    breakdown,
    breakdown_table,
    check_counts,
    check_measured,
    tells_a_side,
    words_in,
)
from bitgen.evaluation.grounding import evaluate_grounding
from bitgen.evaluation.tables import mean
from bitgen.record import Box, Phrase, Text
from bitgen.tokens import shared_tokenizer
from tests import fakes, runs

WHOLE = Box(0.0, 0.0, 1.0, 1.0)


def said(*phrases: str) -> Said:
    found = Said()
    found.phrases, found.texts = list(phrases), len(phrases)
    return found


def square(share: float) -> list[float]:
    """Corners of a square at the upper left that takes that share of the image."""
    return [0.0, 0.0, share**0.5, share**0.5]


def parted(*phrases: str, hits: list[bool], shares: list[float] | None = None, boxes: Tensor | None = None) -> Any:
    shares = shares or [0.5] * len(hits)
    targets = tensor([square(share) for share in shares], dtype=torch.float64)
    return breakdown(tensor(hits), targets, torch.arange(len(hits)) if boxes is None else boxes, said(*phrases))


def test_accuracy_by_the_number_of_words():
    phrases = [
        "dog",
        " the dog",
        "the brown dog",
        "a dog on the grass",
        "a b c d e f",
        "one two three four five six seven",
    ]
    found = parted(*phrases, hits=[True, True, False, False, False, True])
    assert found["words"] == {
        "1": {"phrases": 1, "acc50": 1.0},
        "2-3": {"phrases": 2, "acc50": 0.5},
        "4-6": {"phrases": 2, "acc50": 0.0},
        "7+": {"phrases": 1, "acc50": 1.0},
    }


def test_accuracy_with_and_without_a_side():
    found = parted("man on the LEFT", "the left-most cup", "leftover pizza", hits=[True, False, True])
    assert found["left_right"] == {"with": {"phrases": 2, "acc50": 0.5}, "without": {"phrases": 1, "acc50": 1.0}}


def test_accuracy_by_the_share_of_the_image_that_is_named():
    found = parted("a", "b", "c", "d", hits=[True, False, True, True], shares=[0.049, 0.051, 0.249, 0.251])
    assert found["size"] == {
        "small": {"phrases": 1, "acc50": 1.0},
        "medium": {"phrases": 2, "acc50": 0.5},
        "large": {"phrases": 1, "acc50": 1.0},
    }


def test_accuracy_by_the_number_of_boxes():
    boxes = tensor([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])
    found = parted("a", "b", "c", "d", hits=[True, False, True, False], boxes=boxes)
    assert found["boxes"] == {
        "1": {"phrases": 1, "acc50": 1.0},
        "2": {"phrases": 1, "acc50": 0.0},
        "3+": {"phrases": 2, "acc50": 0.5},
    }


def test_a_group_has_an_interval_by_photograph_and_the_table_its_ends():
    hits, photographs = tensor([True, True, False, True]), tensor([1, 1, 2, 3])
    targets = tensor([square(0.5)] * 4, dtype=torch.float64)
    words = said("a dog", "a cat", "a cow", "one")
    found = breakdown(hits, targets, torch.arange(4), words, photographs, seed=1, resamples=200)
    # Two hits on one photograph and a miss on the other: both, one of each, neither.
    assert found["words"]["2-3"] == {"phrases": 3, "acc50": 2 / 3, "interval": {"acc50": [0.0, 1.0]}}
    assert found["words"]["1"] == {"phrases": 1, "acc50": 1.0, "interval": {}}
    table = breakdown_table({"heldout": {"datasets": {"eval/a": {"grounding": {"breakdown": found}}}}})
    assert [row[:3] for row in table.rows] == [
        ("held out: eval/a", "100.0", "66.7"),
        ("95% from", "", "0.0"),
        ("95% to", "", "100.0"),
        ("phrases", "1", "3"),
    ]
    assert table.lesser == (1, 2, 3)


def test_a_group_has_its_controls_and_the_table_a_line_of_each():
    targets = tensor([square(0.5)] * 3, dtype=torch.float64)
    words, hits = said("a dog", "the left dog", "one"), tensor([True, False, True])
    controls = {
        "whole_image": (tensor([True, True, False]), tensor([0, 1, 2])),
        "shuffled_text": (tensor([True, False]), tensor([1, 0])),  # of the third there is none
    }
    found = breakdown(hits, targets, torch.arange(3), words, controls=controls)
    assert found["left_right"]["with"]["controls"] == {
        "whole_image": {"phrases": 1, "acc50": 1.0},
        "shuffled_text": {"phrases": 1, "acc50": 1.0},
    }
    assert found["words"]["2-3"]["controls"]["shuffled_text"] == {"phrases": 2, "acc50": 0.5}
    assert found["words"]["1"]["controls"] == {"whole_image": {"phrases": 1, "acc50": 0.0}}
    table = breakdown_table({"heldout": {"datasets": {"eval/a": {"grounding": {"breakdown": found}}}}})
    assert [(row[0], *row[1:3], *row[5:7]) for row in table.rows] == [
        ("held out: eval/a", "100.0", "50.0", "0.0", "100.0"),
        ("whole image", "0.0", "100.0", "100.0", "50.0"),
        ("shuffled text", "", "50.0", "100.0", "0.0"),
        ("phrases", "1", "2", "1", "2"),
    ]
    assert table.lesser == (1, 2, 3)


def test_a_group_without_phrases_is_left_out():
    assert list(parted("dog", hits=[True])["words"]) == ["1"]


@pytest.mark.parametrize(("phrase", "words"), [(" the man , alone .", 3), ("man's hat", 2), ("no. 7", 2), ("...", 0)])
def test_a_word_has_a_letter_or_a_digit(phrase: str, words: int):
    assert words_in(phrase) == words


@pytest.mark.parametrize(
    ("phrase", "tells"),
    [("right", True), ("Right-hand one", True), ("rightmost", True), ("bright", False), ("", False)],
)
def test_a_side_is_a_whole_word(phrase: str, tells: bool):
    assert tells_a_side(phrase) is tells


def test_the_phrases_of_a_batch_come_back_from_their_tokens():
    text = "a naïve dog's ball, left of two cats"
    spans = [(0, 13), (14, 18), (28, 36)]
    texts = (Text(text, tuple(Phrase(start, stop, (WHOLE,)) for start, stop in spans)), Text("no phrase"))
    batch = whole([(0, runs.sample(1, texts), runs.photo(1))], 28, shared_tokenizer())
    found = Said()
    found.add(batch)
    assert [phrase.strip() for phrase in found.phrases] == ["a naïve dog's", "ball", "two cats"]
    assert found.texts == 2


def test_grounding_says_which_phrases_it_found():
    batches = [fakes.fake_batch(3, seed=1), fakes.fake_batch(2, seed=2, position=3), fakes.fake_batch(1, phrases=0)]
    found = evaluate_grounding(fakes.model().eval(), batches)
    parts = found["breakdown"]
    one = parts["boxes"]["1"]
    for own, of_all in ((one, found), *((one["controls"][name], each) for name, each in found["controls"].items())):
        assert (own["phrases"], own["acc50"], own["interval"]["acc50"]) == (
            20,
            of_all["acc50"],
            of_all["interval"]["acc50"],
        )
    assert sum(group["phrases"] for group in parts["size"].values()) == 20
    assert parts["texts"] == sum(len(batch.token_ids) for batch in batches)


def test_the_mean_over_sets_leaves_out_what_one_of_them_has_not():
    one, other = parted("dog", "a dog", hits=[True, True]), parted("dog", hits=[False])
    found = mean([{"breakdown": one}, {"breakdown": other}])["breakdown"]
    assert found["words"] == {"1": {"phrases": 2, "acc50": 0.5}}


def dataset(published: dict[str, int], counts: dict[str, int]) -> dict[str, Any]:
    return {"name": "eval/refcoco-val", "published": published, "counts": counts, "texts": 10, "phrases": 20}


def test_a_set_as_large_as_published_passes_in_silence():
    assert check_counts(dataset({"rows": 10, "images": 4}, {"kept": 10}), {"rows": 10, "images": 4}) == ""


def test_a_set_of_another_size_is_an_error():
    with pytest.raises(CountError, match=r"expected 10,834 rows of eval/refcoco-val as published, found 10; .*: none$"):
        check_counts(dataset({"rows": 10834}, {"kept": 10}), {"rows": 10})


def test_a_set_larger_than_published_is_an_error():
    with pytest.raises(CountError, match="expected 9 rows"):
        check_counts(dataset({"rows": 9}, {"kept": 10, "no_image": 3}), {"rows": 10})


def test_rows_that_the_build_refused_are_said_and_no_error():
    found = check_counts(dataset({"rows": 12, "images": 4}, {"kept": 10, "no_image": 2}), {"rows": 10, "images": 3})
    assert found == "eval/refcoco-val: 2 of 12 rows and 1 of 4 images could not be evaluated (no_image 2)."


def test_more_missing_than_was_refused_is_an_error():
    with pytest.raises(CountError, match="found 10; rows that could not be used: no_image 2"):
        check_counts(dataset({"rows": 13}, {"kept": 10, "no_image": 2}), {"rows": 10})


def test_a_set_without_published_counts_may_be_of_any_size():
    assert check_counts(dataset({}, {"kept": 10}), {"rows": 10, "images": 4}) == ""


def test_figures_over_fewer_texts_than_the_set_has_are_an_error():
    check_measured({"retrieval": {"texts": 10}, "grounding": {"breakdown": {"texts": 10}}}, dataset({}, {}))
    with pytest.raises(CountError, match="expected grounding over 10 texts of eval/refcoco-val, found 9"):
        check_measured({"grounding": {"breakdown": {"texts": 9}}}, dataset({}, {}))


def test_figures_over_fewer_phrases_than_the_set_has_are_an_error():
    check_measured({"grounding": {"phrases": 20}}, dataset({}, {}))
    with pytest.raises(CountError, match="expected grounding over 20 phrases of eval/refcoco-val, found 19"):
        check_measured({"grounding": {"phrases": 19}}, dataset({}, {}))


def test_the_table_has_a_line_of_accuracies_and_a_line_of_counts():
    entry = {"grounding": {"breakdown": parted("dog", "a dog on the left", hits=[True, False], shares=[0.5, 0.01])}}
    table = breakdown_table({"heldout": {"datasets": {"eval/some": entry, "eval/captions": {"retrieval": {}}}}})
    assert table.rows[0] == (
        "held out: eval/some",
        "100.0",
        "",
        "0.0",
        "",
        "0.0",
        "100.0",
        "0.0",
        "",
        "100.0",
        "50.0",
        "",
        "",
    )
    assert table.rows[1] == ("phrases", "1", "0", "1", "0", "1", "1", "1", "0", "1", "2", "0", "0")
    assert (len(table.header), table.lesser) == (13, (1,))
