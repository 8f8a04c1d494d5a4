from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider as CocoCider

from bitgen.evaluation.caption_scores import FIGURES, Scores, words
from bitgen.evaluation.captioning import (
    CONSTANT,
    MODEL,
    SHUFFLED,
    Written,
    constant_caption,
    derangement,
    evaluate_captioning,
    measure,
    write,
)
from bitgen.tokens import shared_tokenizer
from pipeline.wholes import batches
from shards.index import ShardIndex
from tests import fakes

SAID = ("a red dog runs on grass", "two cats sleep on a bed", "a man rides a wave", "")
MEANT = (
    ("A red dog runs on the grass.", "the dog runs"),
    ("Two cats sleep on a bed.",),
    ("a surfer rides a big wave", "a man is surfing"),
    ("a bowl of soup",),
)


def written(captions: Sequence[str] = SAID, references: Sequence[Sequence[str]] = MEANT) -> Written:
    count = len(captions)
    texts = tuple(tuple(words(text) for text in of_one) for of_one in references)
    keys = tuple(f"image-{n}" for n in range(count))
    return Written(np.arange(10, 10 + count), keys, tuple(captions), texts, repeated=0, unfinished=0, dropped={})


def measured(**fields) -> tuple[dict, dict[str, Scores]]:
    scores: dict[str, Scores] = {}
    return measure(written(), java=False, scores=scores, **fields), scores


def test_figures_of_the_captions_stand_at_the_top():
    found, scores = measured()
    assert {name: found[name] for name in FIGURES} == scores[MODEL].means()
    coco = CocoCider().compute_score(
        {n: [" ".join(words(text)) for text in texts] for n, texts in enumerate(MEANT)},
        {n: [text] for n, text in enumerate(SAID)},
    )
    assert found["cider_d"] == pytest.approx(coco[0])


def test_what_was_measured_is_counted():
    found, _ = measured()
    assert {name: found[name] for name in ("images", "references", "empty", "distinct")} == {
        "images": 4, "references": 6, "empty": 1, "distinct": 4
    }  # fmt: skip
    assert found["tokenisation"].startswith("bitgen words 1")


def test_scores_are_kept_by_image():
    _, scores = measured()
    assert scores[MODEL].keys == ("image-0", "image-1", "image-2", "image-3")
    assert scores[MODEL].photographs.tolist() == [10, 11, 12, 13]
    assert scores[MODEL].values.shape == (4, 12)


def test_shuffled_captions_are_those_of_other_images_each_once():
    _, scores = measured()
    shuffled = scores[SHUFFLED].captions
    assert sorted(shuffled) == sorted(SAID)
    assert all(other != own for other, own in zip(shuffled, SAID, strict=True))


def test_the_control_of_a_model_that_sees_is_lower():
    found, scores = measured()
    assert found["controls"][SHUFFLED]["bleu1"] < found["bleu1"] / 2
    assert found["controls"][SHUFFLED] == {**scores[SHUFFLED].means(), "seed": 0}


def test_a_model_that_says_one_thing_of_all_images_scores_as_its_control():
    found = measure(written(["a dog"] * 4), java=False)
    assert {name: found["controls"][SHUFFLED][name] for name in FIGURES} == {name: found[name] for name in FIGURES}
    assert found["distinct"] == 1


def test_the_constant_caption_is_the_one_given():
    found, scores = measured(constant="a man rides a horse")
    assert found["controls"][CONSTANT] == {
        **scores[CONSTANT].means(),
        "caption": "a man rides a horse",
        "fitted_on": "train",
    }
    assert scores[CONSTANT].captions == ("a man rides a horse",) * 4


def test_a_constant_caption_from_the_set_itself_is_said_to_be():
    found, _ = measured()
    assert found["controls"][CONSTANT]["fitted_on"] == "this set"
    assert found["controls"][CONSTANT]["caption"] == constant_caption(text for texts in MEANT for text in texts)


def test_one_image_has_no_shuffled_caption():
    found = measure(written(["a dog"], [["A dog."]]), java=False)
    assert list(found["controls"]) == [CONSTANT]
    assert (found["bleu2"], found["rouge_l"], found["cider_d"]) == pytest.approx((1, 1, 0))


@pytest.mark.parametrize("count", [2, 3, 5, 50])
def test_a_derangement_leaves_nothing_in_its_place(count: int):
    for seed in range(20):
        found = derangement(count, seed)
        assert sorted(found) == list(range(count))
        assert all(other != own for own, other in enumerate(found))


def test_a_derangement_depends_on_its_seed_alone():
    assert derangement(50, 3) == derangement(50, 3)
    assert derangement(50, 3) != derangement(50, 4)


def test_the_constant_caption_is_most_like_the_others():
    texts = [
        "A man on a horse.",
        "a man on a bike",
        "a man on a bike",
        "two zebras in high grass",
        "a man",
        "seven words are too many for this",
    ]
    assert constant_caption(texts) == "a man on a bike"
    assert constant_caption(reversed(texts)) == "a man on a bike"


def test_a_constant_caption_needs_words():
    with pytest.raises(ValueError, match="found none with a word"):
        constant_caption(["?", ""])


def test_every_photograph_is_captioned_as_the_model_does_it():
    model = fakes.model(seed=2).eval()
    batches = [fakes.fake_batch(3, seed=1), fakes.fake_batch(2, seed=2, position=3)]
    found = write(model, batches, lambda position: [f"text {position}", "a dog"], 5, 2, 0.6)
    expected = [
        shared_tokenizer().decode(ids).strip()
        for batch in batches
        for ids in model.caption(model.encode_image(batch.images), 5, 2, 0.6)
    ]
    assert list(found.captions) == expected
    assert found.keys == ("fake-0", "fake-1", "fake-2", "fake-3", "fake-4")
    assert found.photographs.tolist() == [1000, 1001, 1002, 1003, 1004]
    assert found.references[4] == (("text", "4"), ("a", "dog"))


def test_a_photograph_that_stands_twice_is_one_image_with_all_references():
    texts = {0: ["a dog", "a dog"], 1: ["a cat"], 2: ["A dog!", "a hound"], 3: ["the cat"]}
    batches = [fakes.fake_batch(3, image_ids=[7, 8, 7]), fakes.fake_batch(1, image_ids=[8], position=3)]
    found = write(fakes.model().eval(), batches, texts.__getitem__, 3, 1, 0.6)
    assert found.photographs.tolist() == [7, 8]
    assert found.keys == ("fake-0", "fake-1")
    assert found.references == ((("a", "dog"), ("a", "dog"), ("a", "hound")), (("a", "cat"), ("the", "cat")))
    assert found.repeated == 2


def test_a_text_longer_than_the_token_limit_is_a_whole_reference():
    found = write(fakes.model().eval(), [fakes.fake_batch(1)], lambda _: ["word " * 400], 3, 1, 0.6)
    assert len(found.references[0][0]) == 400


def test_references_without_words_are_left_out_and_counted():
    texts = {0: ["?", "a dog"], 1: ["..."]}
    found = write(fakes.model().eval(), [fakes.fake_batch(2)], texts.__getitem__, 3, 1, 0.6)
    assert found.keys == ("fake-0",)
    assert found.dropped == {"text_without_words": 2, "image_without_references": 1}


def test_a_set_without_references_is_refused():
    with pytest.raises(ValueError, match="expected one or more images with a reference"):
        write(fakes.model().eval(), [fakes.fake_batch(2)], lambda _: [], 3, 1, 0.6)


def test_captions_that_the_most_tokens_end_are_counted():
    found = write(fakes.model().eval(), [fakes.fake_batch(2)], lambda _: ["a dog"], 3, 1, 0.6)
    assert found.unfinished == 2


def test_a_model_that_says_what_people_wrote_scores_1():
    model, batches = fakes.model(seed=3).eval(), [fakes.fake_batch(3)]
    said = [
        shared_tokenizer().decode(ids) for ids in model.caption(model.encode_image(batches[0].images), max_tokens=24)
    ]
    found = evaluate_captioning(model, batches, lambda position: [said[position]], java=False)
    assert (found["bleu4"], found["rouge_l"]) == pytest.approx((1, 1))
    assert found["decoding"] == {"max_tokens": 24, "beams": 1, "length_penalty": 0.6}


def test_the_references_of_a_dataset_are_its_texts(tmp_path: Path):
    index = ShardIndex.open(fakes.write_shards(tmp_path, "eval/squares", 3))
    found = evaluate_captioning(
        fakes.model().eval(),
        batches(index, range(3), fakes.SIDE, 256, 2),
        lambda row: [text.text for text in index.record(row).texts],
        max_tokens=2,
        java=False,
    )
    assert (found["images"], found["references"]) == (3, 6)
    assert found["controls"][CONSTANT]["caption"] == "a square 0"


def test_the_same_is_measured_again():
    model = fakes.model(seed=1).eval()
    once, again = (
        evaluate_captioning(model, [fakes.fake_batch(3)], lambda _: ["a dog"], max_tokens=4, seed=2, java=False)
        for _ in range(2)
    )
    assert once == again
