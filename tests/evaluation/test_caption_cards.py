import numpy as np

from bitgen.batch import whole
from bitgen.evaluation.caption_cards import scored_card, spread
from bitgen.evaluation.caption_scores import Scores
from bitgen.record import Sample, Text
from bitgen.tokens import shared_tokenizer
from tests.runs import photo, sample


def scores(*cider: float, captions: tuple[str, ...] = ()) -> Scores:
    values = np.zeros((len(cider), 12))
    values[:, -1] = cider
    return Scores(np.arange(len(cider)), tuple(map(str, range(len(cider)))), captions or ("",) * len(cider), values)


def card(drawn: Sample, caption: str) -> str:
    batch = whole([(0, drawn, photo(1))], 28, shared_tokenizer())
    return scored_card(drawn, batch, scores(0.5, captions=(caption,)), 0, "eval/a")


def test_shown_captions_go_from_the_best_to_the_worst():
    assert spread(scores(0.2, 0.9, 0.1, 0.5, 0.3), 3) == [1, 4, 2]


def test_a_small_set_is_shown_whole():
    assert spread(scores(0.2, 0.9, 0.2), 8) == [1, 0, 2]


def test_a_card_has_the_caption_the_texts_and_the_scores():
    found = card(sample(1, (Text("a red dog runs"), Text("?"), Text("the dog"))), "a red cat")
    assert "<p>a red cat</p>" in found
    assert "CIDEr-D × 100: 50" in found
    assert found.count("<li>") == 2
    assert 'a red dog runs <span class="muted">0.56</span>' in found  # of two common words 2/3 of three and 1/2 of four


def test_a_caption_without_words_is_nothing():
    assert "nothing" in card(sample(1, (Text("a dog"),)), " ...")


def test_what_the_model_says_is_text():
    assert "<b>" not in card(sample(1, (Text("<b>a</b>"),)), "<b>dog</b>")
