import pytest

from bitgen.evaluation.sheet import captioned, thumbnail, thumbnail_uri
from bitgen.pixels import DecodeError
from bitgen.record import Box, Phrase, Text
from tests.runs import captions, photo, sample, sentences

SCRIPT = "<script>alert(1)</script>"


def test_a_thumbnail_has_the_boxes_and_the_marked_phrases_of_its_text():
    found = thumbnail(sample(1, sentences(1)), photo(1))
    assert found.count('class="edge"') == 2
    assert '<mark class="p0"><span>the red thing 1</span></mark>' in found


def test_the_text_with_phrases_is_shown_before_one_without():
    found = thumbnail(sample(1, (*captions(1), *sentences(1))), photo(1))
    assert "the red thing 1" in found
    assert "and 3 more" in found


def test_a_long_text_is_cut_between_words():
    found = thumbnail(sample(1, [Text("word " * 100)]), photo(1))
    assert f"{'word ' * 29}word…" in found


def test_a_phrase_is_not_cut_in_two():
    words = f"a dog {'far away ' * 15}and a cat in the grass behind it"
    start = words.index("a cat")
    phrases = [Phrase(*span, (Box(0.1, 0.1, 0.5, 0.5),)) for span in ((0, 5), (start, len(words)))]
    found = thumbnail(sample(1, [Text(words, tuple(phrases))]), photo(1))
    assert found.count("<mark") == 1
    assert "far away and…" in found


def test_a_text_without_spaces_is_cut_all_the_same():
    assert f"{'x' * 150}…" in thumbnail(sample(1, [Text("x" * 400)]), photo(1))


def test_a_large_image_becomes_a_small_one_of_the_same_proportions():
    uri, size = thumbnail_uri(photo(1, (1200, 400)))
    assert size == (240, 80)
    assert len(uri) < 6000


def test_a_damaged_image_is_refused():
    with pytest.raises(DecodeError):
        captioned(b"\xff\xd8\xff\xe0 no photograph", "x")


def test_what_a_thumbnail_says_is_escaped():
    assert "<script" not in thumbnail(sample(1, [Text(SCRIPT)]), photo(1)) + captioned(photo(1), SCRIPT)
