import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bitgen.tokens
from bitgen.tokens import EOT, TokenError, Tokenizer, shared_tokenizer, token_span

GPT2 = Path(bitgen.tokens.__file__).parent / "gpt2"
tokenizer = shared_tokenizer()


def span(text, start, stop, max_tokens=256):
    return token_span(tokenizer.encode(text, max_tokens), start, stop)


def words(text, start, stop):
    """The text of the tokens that belong to the span."""
    first, last = span(text, start, stop)
    return tokenizer.decode(tokenizer.encode(text).ids[first:last])


def test_a_text_becomes_gpt_2_tokens_between_two_ends():
    assert tokenizer.encode("a man").ids == (EOT, 64, 582, EOT)  # "a" is line 65 of vocab.json, "Ġman" 583


def test_offsets_keep_the_leading_space():
    assert tokenizer.encode("a man").offsets == ((0, 0), (0, 1), (1, 5), (0, 0))


def test_a_long_text_is_cut_and_says_so():
    encoded = tokenizer.encode("dog " * 300, 16)
    assert (len(encoded.ids), encoded.ids[0], encoded.ids[-1]) == (16, EOT, EOT)
    assert encoded.cut == 301 - 14  # "dog", 299 times " dog", and a last " "


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(st.text(st.characters(max_codepoint=127), max_size=30), st.text("ab'stlre d0\n\t\x0b\x1c.-", max_size=20))
)
def test_words_apart_give_the_tokens_of_the_whole(text):
    assert tokenizer._words_of(text) == tokenizer._whole(text)


@given(st.text(max_size=20))
def test_ids_are_those_of_encode(text):
    assert tokenizer.ids(text) == tokenizer.encode(text).ids


def test_ids_of_letters_beyond_ascii_are_those_of_encode():
    assert tokenizer.ids("Über 東京 😀") == tokenizer.encode("Über 東京 😀").ids


def test_ids_are_cut_as_encode_cuts_them():
    assert tokenizer.ids("a man on a bench", 5) == tokenizer.encode("a man on a bench", 5).ids


def test_words_are_forgotten_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(bitgen.tokens, "_KNOWN_WORDS", 2)
    known = Tokenizer()
    assert known.ids("one two three four") == tokenizer.encode("one two three four").ids
    assert len(known._words) <= 2


def test_a_very_long_word_is_not_remembered():
    known = Tokenizer()
    assert known.ids("a" * 41) == tokenizer.encode("a" * 41).ids
    assert known._words == {}


def test_a_short_text_is_not_cut():
    assert tokenizer.encode("a man", 4).cut == 0


def test_a_count_is_the_length_of_the_row():
    assert (tokenizer.count("a man"), tokenizer.count("dog " * 300), tokenizer.count("a b c", 4)) == (4, 256, 4)


def test_data_cannot_end_a_row():
    assert tokenizer.encode("<|endoftext|>").ids.count(EOT) == 2


def test_an_empty_text_is_two_ends():
    assert tokenizer.encode("").ids == (EOT, EOT)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_survives(text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_span_has_its_tokens_without_the_space_before():
    assert span("a man", 2, 5) == (2, 3)


def test_a_span_does_not_reach_back_through_the_space_of_the_next_token():
    assert span("a man", 0, 1) == (1, 2)
    assert span("a man", 0, 2) == (1, 2)  # the second character is the space, which belongs to nobody


def test_a_span_of_part_of_a_token_has_the_token():
    assert words("a woman", 4, 7) == " woman"


def test_a_span_of_several_words_is_one_run():
    assert words("the big dog runs", 4, 11) == " big dog"


def test_a_span_of_a_character_of_several_tokens_has_them_all():
    assert span("a 😀 b", 2, 3) == (2, 4)


def test_a_span_of_white_space_has_no_token():
    assert span("a\n\nb", 1, 3) is None


def test_a_span_with_several_spaces_inside_goes_over_them():
    assert words("a big   dog", 2, 11) == " big   dog"


def test_a_span_that_is_cut_off_has_no_token():
    assert span("a b c d e", 8, 9, max_tokens=5) is None


def test_a_span_that_is_partly_cut_off_keeps_the_rest():
    assert span("a b c d e", 4, 9, max_tokens=5) == (3, 4)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), st.data())
def test_a_span_agrees_with_the_rule_character_by_character(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    encoded = tokenizer.encode(text)
    inside = []
    for token, (a, b) in enumerate(encoded.offsets):
        stripped = b - len(text[a:b].lstrip())
        if set(range(stripped, b)) & set(range(start, stop)):
            inside.append(token)
    assert span(text, start, stop) == ((inside[0], inside[-1] + 1) if inside else None)


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(TokenError, match=r"expected a text with a UTF-8 form, found 'a \\ud83d'"):
        tokenizer.encode("a \ud83d")


def test_no_room_for_a_token_is_refused():
    with pytest.raises(TokenError, match="expected room for two end-of-texts and a token, found max_tokens=2"):
        tokenizer.encode("a", 2)


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(tmp_path, missing):
    shutil.copytree(GPT2, tmp_path / "gpt2")
    (tmp_path / "gpt2" / missing).unlink()
    with pytest.raises(TokenError, match=f"expected a GPT-2 tokenizer file, found none: .*{missing}"):
        Tokenizer(tmp_path / "gpt2")


def test_another_vocabulary_is_refused(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(TokenError, match="expected 50257 tokens, end-of-text 50256, found 2 and None"):
        Tokenizer(tmp_path)
