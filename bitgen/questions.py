"""Texts and the phrases in them become rows of tokens that the model takes.

A text is padded to its own bucket of `bitgen.batch.BUCKETS` and put among others of that bucket, so that how long the others are
changes nothing in it. Axes: T texts, L tokens of a bucket.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor

from bitgen.batch import bucket
from bitgen.tokens import EOT, Encoded, Tokenizer, token_span
from bitgen.views import InputError

ROWS = 256
"""Texts of one pass through the text layers, or pairs of a text and an image through the fused ones, at most."""

Phrase: TypeAlias = str | tuple[int, int]
"""Words that stand in the text once, or their characters [start, stop)."""


@dataclass(frozen=True)
class Question:
    """A text, and the phrases of it that are asked for."""

    encoded: Encoded
    phrases: tuple[str, ...]
    tokens: tuple[tuple[int, int], ...]
    """[start, stop) of each phrase in the row."""
    is_whole: bool
    """Whether the text itself is its one phrase."""


@dataclass(frozen=True)
class TextRows:
    """Texts of one bucket."""

    numbers: list[int]
    """[T] which of the texts they are."""
    ids: Tensor
    """[T, L] int64."""
    mask: Tensor
    """[T, L] bool, true off padding."""


def checked_text(text: Any) -> str:
    """The text. Raises `InputError` for what is none."""
    if not isinstance(text, str):
        raise InputError(f"expected a text as a string, found {type(text).__name__}")
    if not text.strip():
        raise InputError(f"expected a text with words, found {text!r}")
    return text


def is_several(found: Any) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(found, list | tuple)


def listed(found: Any, what: str) -> list[Any]:
    """A list or tuple as a list, one thing as a list of it. Raises `InputError` where it is empty."""
    if not is_several(found):
        return [found]
    if not len(found):
        raise InputError(f"expected one {what} or more, found an empty {type(found).__name__}")
    return list(found)


def paired(found: Any, owners: Sequence[Any], what: str, may_lack: bool = False) -> list[Any]:
    """One of `found` for each of `owners`; None for each where it may lack and does. Raises `InputError`."""
    if found is None and may_lack:
        return [None] * len(owners)
    if is_several(found) and len(found) == len(owners):
        return list(found)
    came = len(found) if is_several(found) else type(found).__name__
    raise InputError(f"expected a list with one {what} for each of {len(owners)}, found {came}")


def text_rows(texts: Sequence[Encoded]) -> Iterator[TextRows]:
    """All texts, `ROWS` of one bucket at most at a time."""
    by_bucket: dict[int, list[int]] = {}
    for number, text in enumerate(texts):
        by_bucket.setdefault(bucket(len(text.ids)), []).append(number)
    for length, numbers in sorted(by_bucket.items()):
        for start in range(0, len(numbers), ROWS):
            part = numbers[start : start + ROWS]
            lengths = torch.tensor([len(texts[n].ids) for n in part])
            padded = [list(texts[n].ids) + [EOT] * (length - len(texts[n].ids)) for n in part]
            yield TextRows(part, torch.tensor(padded), torch.arange(length) < lengths[:, None])


def ask_all(tokenizer: Tokenizer, text: Any, phrases: Any, max_tokens: int) -> list[Question]:
    """The question that a text and its phrases are, or each of a list of texts with its own. Raises as `ask` does."""
    if not is_several(text):
        return [ask(tokenizer, text, phrases, max_tokens)]
    texts = listed(text, "text")
    each = paired(phrases, texts, "list of phrases", may_lack=True)
    return [ask(tokenizer, *pair, max_tokens) for pair in zip(texts, each, strict=True)]


def ask(tokenizer: Tokenizer, text: Any, phrases: Any, max_tokens: int) -> Question:
    """The question for a list of phrases of a text, or, without one, for all of it as one phrase.

    Raises `InputError` for a phrase that is not in the text, stands there more than once, is no span of it, or lies
    beyond the `max_tokens` tokens that the model reads.
    """
    text = checked_text(text)
    if phrases is None:
        spans = [(0, len(text))]
    elif is_several(phrases):
        spans = [_span(text, phrase) for phrase in listed(phrases, "phrase")]
    else:
        raise InputError(f"expected a list of phrases, found {phrases!r}")
    encoded = tokenizer.encode(text, max_tokens)
    tokens = []
    for start, stop in spans:
        found = token_span(encoded, start, stop)
        if found is None:
            where = f"in the first {max_tokens} tokens of its text"
            raise InputError(f"expected a phrase with words {where}, found {text[start:stop]!r}")
        tokens.append(found)
    return Question(encoded, tuple(text[start:stop] for start, stop in spans), tuple(tokens), phrases is None)


def _span(text: str, phrase: Any) -> tuple[int, int]:
    """Characters [start, stop) of a phrase: whole words, so that "man" is not looked for in "woman"."""
    if isinstance(phrase, tuple | list) and len(phrase) == 2 and all(isinstance(c, int) for c in phrase):
        start, stop = phrase
        if not 0 <= start < stop <= len(text):
            raise InputError(f"expected 0 <= start < stop <= {len(text)} characters of {text!r}, found {tuple(phrase)}")
        return start, stop
    words = checked_text(phrase)
    places = [place.span() for place in re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", text)]
    if not places:
        raise InputError(f"expected a phrase that stands in {text!r}, found {words!r}")
    if len(places) > 1:
        raise InputError(
            f"expected a phrase that stands once in {text!r}, found {words!r} {len(places)} times; name one by its "
            f"characters (start, stop), such as {places[0]}"
        )
    return places[0]
