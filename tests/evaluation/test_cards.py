from bitgen.batch import Batch, whole
from bitgen.evaluation.cards import Span, marked, match, number_phrases, sample_card
from bitgen.record import Box, Phrase, Sample, Text
from bitgen.tokens import shared_tokenizer
from tests.runs import photo, sample, sentences


def seen(drawn: Sample) -> Batch:
    return whole([(0, drawn, photo(1))], 28, shared_tokenizer())


def test_spans_are_marked_in_their_colours():
    found = marked("a dog and a cat", [Span(0, 5, 0), Span(10, 15, 3)])
    assert found == ('<mark class="p0"><span>a dog</span></mark> and <mark class="p3"><span>a cat</span></mark>')


def test_a_span_within_another_is_listed_after_the_text():
    found = marked("a red dog", [Span(0, 9, 0), Span(6, 9, 1)])
    assert found == '<mark class="p0"><span>a red dog</span></mark> <mark class="p1"><span>dog</span></mark>'


def test_marked_text_is_escaped():
    assert "<b>" not in marked("<b>x</b>", [Span(0, 3, 0)])


def test_phrases_of_the_same_words_share_a_colour():
    box = (Box(0.0, 0.0, 1.0, 1.0),)
    texts = [
        Text("A dog, a cat", (Phrase(0, 5, box), Phrase(7, 12, box))),
        Text("a bird, a dog", (Phrase(0, 6, box), Phrase(8, 13, box))),
    ]
    assert number_phrases(texts) == [[0, 1], [2, 0]]


def test_phrases_are_matched_past_those_that_were_dropped():
    assert match(["a dog", "a cat", "a dog"], [" a cat", " a dog"]) == [1, 2]


def test_a_phrase_whose_words_changed_is_taken_to_be_the_next_one():
    assert match(["a d", "b"], ["a dog", "b"]) == [0, 1]


def test_a_card_has_the_boxes_in_both_pictures_and_the_phrases_under_both():
    drawn = sample(1, sentences(1))
    card = sample_card(drawn, photo(1), seen(drawn), (0, 1), shared_tokenizer())
    assert card.count('class="edge"') == 8
    assert card.count("<span>the red thing 1</span>") == 2
    assert "stored: 48 × 32 px" in card
    assert "as the model sees it: 28 × 28 px, whole image" in card


def test_a_key_and_a_licence_that_hold_markup_are_shown_as_text():
    drawn = sample(1, sentences(1))
    bad = '"><script>alert(1)</script>'
    odd = Sample(bad, bad, "train", (), 48, 32, bad, bad, "0" * 64, drawn.texts)
    card = sample_card(odd, photo(1), seen(odd), (0, 1), shared_tokenizer())
    assert "<script" not in card
    assert "&lt;script&gt;" in card
