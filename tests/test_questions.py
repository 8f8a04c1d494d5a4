"""Texts become rows of their own buckets, and phrases the tokens that they are."""

from typing import Any

import pytest

from bitgen.questions import ROWS, ask, text_rows
from bitgen.tokens import EOT, shared_tokenizer
from bitgen.views import InputError

TEXT = "a woman and a man near a tram"


def _words(text: str, phrase: Any, max_tokens: int = 256) -> list[str]:
    """The tokens of a phrase."""
    question = ask(shared_tokenizer(), text, [phrase], max_tokens)
    (start, stop), ids = question.tokens[0], question.encoded.ids
    return [shared_tokenizer().decode([i]) for i in ids[start:stop]]


@pytest.mark.parametrize(
    ("phrase", "tokens"),
    [
        ("a man", [" a", " man"]),
        ("man", [" man"]),
        ((2, 7), [" woman"]),
        ((0, 7), ["a", " woman"]),
        ("a tram", [" a", " tram"]),
    ],
)
def test_a_phrase_is_its_own_tokens(phrase: Any, tokens: list[str]) -> None:
    assert "".join(_words(TEXT, phrase)) == "".join(tokens)


def test_a_text_without_phrases_is_one_phrase() -> None:
    question = ask(shared_tokenizer(), TEXT, None, 256)
    assert (question.phrases, question.is_whole) == ((TEXT,), True)
    assert question.tokens == ((1, len(question.encoded.ids) - 1),)


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        (["a dog"], "expected a phrase that stands in '.*', found 'a dog'"),
        (["wom"], "found 'wom'"),
        (["a"], r"expected a phrase that stands once in '.*', found 'a' 3 times; .* such as \(0, 1\)"),
        ([(5, 5)], "expected 0 <= start < stop <= 29 characters"),
        ([(0, 30)], r"found \(0, 30\)"),
        ([(1, 2)], "expected a phrase with words"),
        ([], "expected one phrase or more, found an empty list"),
        ("a man", "expected a list of phrases, found 'a man'"),
        ([7], "expected a text as a string, found int"),
        ([""], "expected a text with words"),
    ],
)
def test_a_phrase_that_is_none_of_the_text_is_refused_in_words(phrases: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(shared_tokenizer(), TEXT, phrases, 256)


def test_a_phrase_beyond_what_the_model_reads_is_refused() -> None:
    with pytest.raises(InputError, match="in the first 5 tokens of its text, found 'a tram'"):
        ask(shared_tokenizer(), TEXT, ["a tram"], 5)


def test_every_text_stands_once_in_a_row_of_its_own_bucket() -> None:
    texts = [shared_tokenizer().encode("the " * n + "dog") for n in (1, 40, 3, 100, 14, 2)]
    found = {}
    for rows in text_rows(texts):
        for number, ids, mask in zip(rows.numbers, rows.ids, rows.mask, strict=True):
            assert ids[~mask].eq(EOT).all()
            found[number] = (len(ids), tuple(ids[mask].tolist()))
    assert found == {n: (size, texts[n].ids) for n, size in enumerate((16, 64, 16, 128, 32, 16))}


def test_no_more_rows_are_taken_at_once_than_fit() -> None:
    texts = [shared_tokenizer().encode("a dog")] * (ROWS + 1)
    assert [len(rows.ids) for rows in text_rows(texts)] == [ROWS, 1]
