from dataclasses import replace
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from bitgen.batch import whole
from bitgen.evaluation.caption_cards import Captioned, caption_card, caption_png, captioned, spread
from bitgen.evaluation.caption_scores import Scores
from bitgen.record import Sample, Text
from bitgen.tokens import shared_tokenizer
from tests.runs import photo, sample


def scores(*cider: float, captions: tuple[str, ...] = ()) -> Scores:
    values = np.zeros((len(cider), 12))
    values[:, -1] = cider
    return Scores(np.arange(len(cider)), tuple(map(str, range(len(cider)))), captions or ("",) * len(cider), values)


def found(drawn: Sample, caption: str) -> Captioned:
    batch = whole([(0, drawn, photo(1))], 28, shared_tokenizer())
    return captioned(drawn, batch, scores(0.5, captions=(caption,)), 0, "eval/a")


def card(drawn: Sample, caption: str) -> str:
    return caption_card(found(drawn, caption))


def opened(card: Captioned) -> Image.Image:
    return Image.open(BytesIO(caption_png(card)))


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


def test_a_picture_has_the_image_at_the_left_and_words_at_the_right():
    red = Image.new("RGB", (28, 28), (255, 0, 0))
    card = replace(
        found(sample(1, (Text("a red square"),)), "a square"), image=torch.tensor(np.array(red)).permute(2, 0, 1)
    )
    drawn = np.asarray(opened(card)).astype(int)
    is_red = (drawn[..., 0] - drawn[..., 1]) > 200
    assert is_red.sum() == 400 * 400
    assert not is_red[:, 424:].any()
    assert drawn[:, 448:].min() < 60


def test_a_picture_is_as_high_as_its_words_need():
    short, long = (found(sample(1, (Text("a dog"),)), "a dog " * n) for n in (1, 120))
    assert opened(short).size == (1120, 504)
    assert opened(long).height > 600


def test_what_cannot_be_written_is_no_error():
    assert opened(found(sample(1, (Text("two\nlines\x00 and a 犬"),)), "x" * 400)).width == 1120


def test_whether_a_picture_may_be_passed_on_is_by_its_licence():
    free = sample(1, (Text("a dog"),))
    assert found(free, "a dog").may_leave
    assert not found(replace(free, licence="for research only"), "a dog").may_leave
