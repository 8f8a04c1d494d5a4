from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgen.record import Box, Phrase, RecordError, Text
from bitgen.tokens import EOT, shared_tokenizer, token_span
from bitgen.words import Numbers, Words, counts, cut, fault, images, join, replaced, words_of

TOKENIZER = shared_tokenizer()
LEFT, RIGHT = Box(0.0, 0.0, 0.25, 1.0), Box(0.75, 0.0, 1.0, 1.0)
DOG = Text("a dog and a cat", (Phrase(2, 5, (LEFT,)), Phrase(12, 15, (LEFT, RIGHT))))
MAN = Text("a man")


def of(*texts):
    return words_of(texts, TOKENIZER)


def plain(n):
    return [part.tolist() for part in n]


def test_texts_become_flat_numbers():
    found = Numbers.of(of(MAN, DOG))
    ids = [EOT, 64, 582, EOT, EOT, 64, 3290, 290, 257, 3797, EOT]
    corners = [[0.0, 0.0, 0.25, 1.0], [0.0, 0.0, 0.25, 1.0], [0.75, 0.0, 1.0, 1.0]]
    assert plain(found) == [[2], [4, 7], [0, 2], ids, [[2, 3], [5, 6]], [1, 2], corners]


def test_a_phrase_beyond_256_tokens_has_no_span():
    long = Text("dog " * 300, (Phrase(0, 3, (LEFT,)), Phrase(1196, 1199, (RIGHT,))))
    found = Numbers.of(of(long))
    assert (found.tokens.tolist(), found.spans.tolist(), found.boxes.tolist()) == ([256], [[1, 2], [0, 0]], [1, 1])


def test_more_boxes_than_can_be_counted_are_refused():
    with pytest.raises(RecordError, match="expected at most 65,535 boxes, found 65,536"):
        of(Text("a dog", (Phrase(2, 5, (LEFT,) * 65_536),)))


def test_images_are_joined_and_parted():
    each = [of(MAN), of(DOG, MAN), of(DOG, DOG)]
    assert list(images(join(each))) == each
    assert join([]) == Words(b"", b"", b"", b"")


def test_an_image_takes_the_place_of_another():
    found = replaced(join([of(MAN), of(DOG, MAN), of(DOG)]), [(1, of(MAN))])
    assert found == join([of(MAN), of(MAN), of(DOG)])


def test_texts_are_cut_and_phrases_with_them():
    found, gone = cut(Numbers.of(of(DOG, MAN)), 5)
    ids = [EOT, 64, 3290, 290, EOT, EOT, 64, 582, EOT]
    assert (plain(found), gone) == ([[2], [5, 4], [1, 0], ids, [[2, 3]], [1], [[0.0, 0.0, 0.25, 1.0]]], 1)


def test_a_phrase_at_the_edge_keeps_the_tokens_that_are_left():
    found, gone = cut(Numbers.of(of(Text("a big old dog", (Phrase(2, 13, (LEFT,)),)))), 4)
    assert (found.spans.tolist(), gone) == ([[2, 3]], 0)


WORDS = st.lists(st.sampled_from(["a", "dog", "zebra", "über", "antidisestablishment", "3,5"]), min_size=1, max_size=12)


@settings(deadline=None)
@given(WORDS, st.integers(3, 40), st.data())
def test_a_cut_text_is_the_text_encoded_that_short(words, most, data):
    text = " ".join(words)
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    encoded = TOKENIZER.encode(text, most)
    span = token_span(encoded, start, stop)
    found, gone = cut(Numbers.of(of(Text(text, (Phrase(start, stop, (LEFT,)),)))), most)
    assert (tuple(found.ids.tolist()), gone) == (encoded.ids, int(span is None))
    assert found.spans.tolist() == ([] if span is None else [list(span)])


def test_good_numbers_have_no_fault():
    late = Text("dog " * 300, (Phrase(1196, 1199, (RIGHT,)),))
    assert fault(join([of(MAN), of(DOG, late)])) is None


@pytest.mark.parametrize(
    ("part", "value", "expected"),
    [
        ("ids", counts([EOT, 50257, EOT]), "tokens below 50257"),
        ("ids", counts([EOT, 9703, 9703]), "an end-of-text before and after every text"),
        ("ids", counts([9703, 9703, EOT]), "an end-of-text before and after every text"),
        ("spans", counts([0, 1]), "phrases within their texts"),
        ("spans", counts([1, 1]), "phrases within their texts"),
        ("spans", counts([1, 3]), "phrases within their texts"),
        ("corners", array("d", (0, 0, 0, 1)).tobytes(), "boxes within their images"),
        ("corners", array("d", (0, 0, 1.01, 1)).tobytes(), "boxes within their images"),
        ("corners", array("d", (0, np.nan, 1, 1)).tobytes(), "boxes within their images"),
    ],
)
def test_numbers_that_cannot_be_are_found(part, value, expected):
    dog = of(Text("dog", (Phrase(0, 3, (LEFT,)),)))
    assert fault(join([of(MAN, MAN), dog, dog._replace(**{part: value}), dog])) == (2, expected)


@pytest.mark.parametrize("tokens", [0, 2, 257])
def test_a_text_too_short_or_too_long_is_a_fault(tokens):
    few = Words(counts([1]), counts([tokens]), counts([0]), counts([EOT] * tokens))
    assert fault(join([of(MAN), few])) == (1, "3 to 256 tokens of every text")


def test_a_phrase_without_a_box_is_a_fault():
    dog = of(Text("dog", (Phrase(0, 3, (LEFT,)),)))
    assert fault(dog._replace(boxes=counts([0]), corners=b"")) == (0, "a box of every phrase")
