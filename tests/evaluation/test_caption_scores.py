import random
from math import exp, log

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider as CocoCider
from pycocoevalcap.rouge.rouge import Rouge
from sacrebleu.metrics.bleu import BLEU

from bitgen.evaluation.caption_scores import (
    FIGURES,
    Cider,
    Scores,
    Words,
    bleu,
    bleu_counts,
    document_frequencies,
    figures,
    ngrams,
    rouge_l,
    score,
    words,
)


def split(*texts: str) -> list[Words]:
    return [tuple(text.split()) for text in texts]


def counted(caption: str, *references: str) -> np.ndarray:
    return np.array(bleu_counts(tuple(caption.split()), split(*references)), dtype=np.float64)


def measured(captions: list[str], references: list[list[str]]) -> Scores:
    texts = [split(*of_one) for of_one in references]
    keys = [f"image-{n}" for n in range(len(captions))]
    return score(np.arange(len(captions)), keys, captions, texts, Cider(texts))


def random_set(seed: int, images: int = 20) -> tuple[list[str], list[list[str]]]:
    """One to five references of 1 to 12 of nine words, and captions that begin like the first, or are empty, of each image."""
    draw = random.Random(seed)
    vocabulary = ["a", "man", "dog", "red", "on", "the", "rides", "ball", "street"]
    texts = [
        [draw.choices(vocabulary, k=draw.randint(1, 12)) for _ in range(draw.randint(1, 5))] for _ in range(images)
    ]
    captions = [
        [*first[: draw.randint(0, 12)], *draw.choices(vocabulary, k=draw.randint(0, 3))] for first, *_ in texts[:-1]
    ]
    return [*map(" ".join, captions), ""], [[*map(" ".join, of_one)] for of_one in texts]


def as_coco(captions: list[str], references: list[list[str]]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    return dict(enumerate(references)), {n: [caption] for n, caption in enumerate(captions)}


# As the Penn Treebank tokenizer of COCO's programs has them, its punctuation left out.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man, riding a WAVE (on a surfboard).", "a man riding a wave on a surfboard"),
        ("The dog's ball isn't red; it can't be.", "the dog 's ball is n't red it ca n't be"),
        ("They’re in T-shirts at 5 o'clock!", "they 're in t-shirts at 5 o'clock"),
        ("two girls' hats -- and a close-up...", "two girls hats and a close-up"),
        ("1,000 people at 10:30, 2.5 miles away", "1,000 people at 10:30 2.5 miles away"),
        ('a sign that says "I\'ll stop"\n', "a sign that says i 'll stop"),
        ("a can't-miss show, a black-and-white one", "a ca n't miss show a black-and-white one"),
        ("a cafe\u0301 in Malmö_Centrum", "a caf\u00e9 in malmö centrum"),
        ("?! ... -", ""),
    ],
)
def test_words_are_those_of_cocos_tokenizer(text: str, expected: str):
    assert " ".join(words(text)) == expected


def test_words_of_words_are_the_same():
    once = words("The man's can't-miss 3,000 m run, isn't it? 'S")
    assert words(" ".join(once)) == once


def test_a_word_counts_no_more_often_than_a_reference_has_it():
    found = counted("the the the the the the the", "the cat is on the mat", "there is a cat on the mat")
    assert found.tolist() == [7, 7, 2, 0, 0, 0, 7, 6, 5, 4]
    assert bleu(found).tolist() == pytest.approx([2 / 7, 0, 0, 0])


def test_a_short_caption_is_penalised_against_the_closest_reference():
    found = counted("a cat", "a cat sat here", "a cat sat here on the mat")
    assert bleu(found)[:2].tolist() == pytest.approx([exp(1 - 4 / 2)] * 2)


def test_of_two_references_as_close_the_shorter_one_counts():
    assert counted("a b c", "a b c d", "a b")[1] == 2


def test_bleu_is_the_geometric_mean_of_precisions():
    found = counted("a b c x", "a b c d")
    assert bleu(found).tolist() == pytest.approx(
        [3 / 4, (3 / 4 * 2 / 3) ** (1 / 2), (3 / 4 * 2 / 3 * 1 / 2) ** (1 / 3), 0]
    )


def test_rouge_takes_the_best_precision_and_the_best_recall():
    assert rouge_l(split("police killed the gunman")[0], split("police kill the gunman")) == pytest.approx(3 / 4)
    precision, recall = 4 / 5, 2 / 2  # of the long reference and of the short one
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert rouge_l(split("a b c d e")[0], split("a x b y c z d w", "b e")) == pytest.approx(expected)


def test_cider_of_the_only_reference_is_by_the_lengths_of_ngrams_it_has():
    cider = Cider([split("red dog"), split("blue cat")])
    assert cider.score(("red", "dog"), split("red dog")) == pytest.approx(10 * (1 + 1 + 0 + 0) / 4)


def test_cider_clips_what_a_caption_repeats():
    cider = Cider([split("red dog"), split("blue cat")])
    assert cider.score(("red", "red"), split("red dog")) == pytest.approx(10 / 4 / (2 * 2**0.5))


def test_cider_penalises_another_length():
    cider = Cider([split("red dog"), split("blue cat")])
    assert cider.score(("red",), split("red dog")) == pytest.approx(10 / 4 / 2**0.5 * exp(-1 / 72))


def test_cider_weighs_a_word_by_how_few_images_have_it():
    cider = Cider([split("a dog"), split("a cat", "a dog"), split("a bird"), split("the sea")])
    a, bird = log(4 / 3), log(4)
    one, two = bird**2 / (bird * (a**2 + bird**2) ** 0.5), 0.0
    assert cider.score(("bird",), split("a bird")) == pytest.approx(10 * (one + two) / 4 * exp(-1 / 72))


def test_cider_is_the_mean_over_references():
    cider = Cider([split("red dog", "big wolf"), split("blue cat")])
    assert cider.score(("red", "dog"), split("red dog", "big wolf")) == pytest.approx(2.5)


def test_of_one_image_cider_is_0():
    assert Cider([split("red dog")]).score(("red", "dog"), split("red dog")) == 0


@pytest.mark.parametrize("seed", range(5))
def test_document_frequencies_are_those_of_a_count_of_everything(seed: int):
    references = [split(*texts) for texts in random_set(seed)[1]]
    every = {gram for texts in references for text in texts for length in range(1, 5) for gram in ngrams(text, length)}
    images = {gram: sum(any(gram in ngrams(t, len(gram)) for t in texts) for texts in references) for gram in every}
    assert document_frequencies(references) == {gram: count for gram, count in images.items() if count > 1}


@pytest.mark.parametrize("seed", range(10))
def test_all_figures_are_pycocoevalcaps(seed: int):
    captions, references = random_set(seed)
    found = measured(captions, references)
    coco = as_coco(captions, references)
    assert found.means()["bleu4"] > 0  # else pycocoevalcap's is about 1e-5
    (cider, ciders), (rouge, rouges) = CocoCider().compute_score(*coco), Rouge().compute_score(*coco)
    bleus = Bleu(4).compute_score(*coco, verbose=0)[0]
    assert list(found.means().values()) == pytest.approx([*bleus, rouge, cider], abs=1e-9)
    assert found.values[:, -1].tolist() == pytest.approx(ciders.tolist(), abs=1e-9)
    assert found.values[:, -2].tolist() == pytest.approx(rouges.tolist(), abs=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_is_sacrebleus(order: int):
    captions, references = random_set(0)
    padded = [[texts[n] if n < len(texts) else None for texts in references] for n in range(5)]
    peer = BLEU(tokenize="none", force=True, smooth_method="none", max_ngram_order=order)
    expected = peer.corpus_score(captions, padded).score / 100
    assert expected > 0
    assert measured(captions, references).means()[f"bleu{order}"] == pytest.approx(expected)


def test_figures_of_a_resample_are_those_of_its_images():
    captions, references = random_set(1)
    drawn = [3, 3, 0, 7, 5, 5, 5, 11]
    resampled = figures(measured(captions, references).values[None, drawn].mean(axis=1))[0]
    again = measured([captions[n] for n in drawn], [references[n] for n in drawn]).means()
    assert resampled[:5].tolist() == pytest.approx(list(again.values())[:5])


def test_an_empty_caption_scores_0():
    found = measured(["", "red dog"], [["a red dog"], ["blue cat"]])
    assert found.values[0].tolist() == [0, 3, *[0] * 4, *[0] * 4, 0, 0]


def test_captions_that_are_all_empty_score_0():
    assert measured(["", ""], [["a red dog"], ["blue cat"]]).means() == dict.fromkeys(FIGURES, 0.0)
