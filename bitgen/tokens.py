"""Texts become tokens: GPT-2's byte-level BPE (its files lie in `bitgen/gpt2/`), and character spans token spans."""

import re
from bisect import bisect_right
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from tokenizers import ByteLevelBPETokenizer

VOCABULARY = 50257
EOT = 50256
"""End-of-text: opens, closes and pads every row."""
MAX_TOKENS = 256
"""Positions of a row at most, both end-of-texts included."""

FILES = Path(__file__).parent / "gpt2"


class TokenError(ValueError):
    """The tokenizer's files are missing or are not GPT-2's, or a text cannot be encoded."""


class Encoded(NamedTuple):
    """A text as tokens."""

    text: str
    ids: tuple[int, ...]
    """End-of-text, tokens, end-of-text."""
    offsets: tuple[tuple[int, int], ...]
    """Characters [start, stop) of each token of `ids`, its leading space included; (0, 0) for the two end-of-texts."""
    cut: int
    """How many tokens did not fit."""


_WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[a-zA-Z]+| ?[0-9]+| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s+", re.ASCII).findall
"""The words that GPT-2 makes tokens of, each for itself, of a text that is ASCII alone.
Source: github.com/openai/gpt-2, src/encoder.py, where the classes are Unicode's."""
_KNOWN_WORDS, _LONGEST_WORD = 1 << 16, 40
"""Words whose tokens are remembered, and characters of the longest; then all are forgotten. Made of random letters, so many
words take 42 MB at 8 characters each, 206 MB at 40."""


class _Words(dict[str, tuple[list[int], list[tuple[int, int]]]]):
    """The tokens of a word, remembered, and the characters of it in each."""

    def __init__(self, bpe: ByteLevelBPETokenizer) -> None:
        super().__init__()
        self._bpe = bpe
        self.ids = _Ids(self)

    def __missing__(self, word: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._bpe.encode(word)
        found = encoding.ids, encoding.offsets
        if len(word) <= _LONGEST_WORD:
            if len(self) >= _KNOWN_WORDS:
                self.clear()
                self.ids.clear()
            self[word], self.ids[word] = found, found[0]
        return found


class _Ids(dict[str, list[int]]):
    """The tokens alone, which can then be strung together without a loop in Python."""

    def __init__(self, words: _Words) -> None:
        super().__init__()
        self._of_words = words

    def __missing__(self, word: str) -> list[int]:
        return self._of_words[word][0]


class Tokenizer:
    """GPT-2's BPE. Safe to use from several threads."""

    def __init__(self, folder: Path = FILES) -> None:
        """`folder` holds `vocab.json` and `merges.txt`. Raises `TokenError` where they are missing or not GPT-2's."""
        vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
        for path in (vocabulary, merges):
            if not path.is_file():
                raise TokenError(f"expected a GPT-2 tokenizer file, found none: {path}")
        # Given these two files, transformers 5 silently makes a tokenizer of one token; this class reads them right.
        # trim_offsets=False keeps the leading space in a token's interval; `token_span` strips it.
        self._bpe = ByteLevelBPETokenizer(str(vocabulary), str(merges), add_prefix_space=False, trim_offsets=False)
        self._words = _Words(self._bpe)
        size, eot = self._bpe.get_vocab_size(with_added_tokens=False), self._bpe.token_to_id("<|endoftext|>")
        if size != VOCABULARY or eot != EOT:
            raise TokenError(f"expected {VOCABULARY} tokens, end-of-text {EOT}, found {size} and {eot}: {folder}")

    def encode(self, text: str, max_tokens: int = MAX_TOKENS) -> Encoded:
        """At most `max_tokens` tokens, both end-of-texts included.

        "<|endoftext|>" inside a text is plain characters: data cannot end a row. Raises `TokenError` for lone
        surrogates, which have no UTF-8 form.
        """
        if max_tokens < 3:
            raise TokenError(f"expected room for two end-of-texts and a token, found max_tokens={max_tokens}")
        try:
            text.encode()  # 0.1 us; the tokenizer would say only that it wants a string
        except UnicodeEncodeError as error:
            raise TokenError(f"expected a text with a UTF-8 form, found {text[:80]!a}") from error
        ids, offsets = self._words_of(text) if text.isascii() else self._whole(text)
        room = max_tokens - 2
        cut = max(0, len(ids) - room)
        return Encoded(text, (EOT, *ids[:room], EOT), ((0, 0), *offsets[:room], (0, 0)), cut)

    def _words_of(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        # Word by word, in half the time (7 us a caption for 14): captions are made of words that were seen before.
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        at = 0
        for word in _WORDS(text):
            tokens, places = self._words[word]
            stop = at + len(word)
            ids += tokens
            offsets += [(at, stop)] if len(tokens) == 1 else [(a + at, b + at) for a, b in places]
            at = stop
        return ids, offsets

    def _whole(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._bpe.encode(text)
        return encoding.ids, encoding.offsets

    def ids(self, text: str, max_tokens: int = MAX_TOKENS) -> tuple[int, ...]:
        """`encode(text, max_tokens).ids` in a third of its time, where no span is asked for. Raises as `encode` does."""
        if max_tokens < 3 or not text.isascii():
            return self.encode(text, max_tokens).ids
        found = (EOT, *chain.from_iterable(map(self._words.ids.__getitem__, _WORDS(text))), EOT)
        return found if len(found) <= max_tokens else (*found[: max_tokens - 1], EOT)

    def count(self, text: str, max_tokens: int = MAX_TOKENS) -> int:
        """Length of `encode(text, max_tokens).ids`. Raises as `encode` does."""
        if max_tokens < 3 or not text.isascii():
            return len(self.encode(text, max_tokens).ids)
        return min(max_tokens, 2 + sum(map(len, map(self._words.ids.__getitem__, _WORDS(text)))))

    def decode(self, ids: list[int] | tuple[int, ...]) -> str:
        """The text of `ids`, end-of-texts left out; bytes that are no UTF-8 become the replacement character."""
        return self._bpe.decode([i for i in ids if i != EOT])


@lru_cache(maxsize=1)
def shared_tokenizer() -> Tokenizer:
    """The embedded tokenizer, loaded once per process (0.1 s)."""
    return Tokenizer()


_END = itemgetter(1)


def token_span(encoded: Encoded, start: int, stop: int) -> tuple[int, int] | None:
    """Tokens [first, last + 1) of the row that overlap characters [start, stop) of the text.

    A token counts by its interval without leading white space, so that "a man" gives nothing of "a" to the span of
    "man"; a token of white space alone and the end-of-texts never count. None where no token is left, which is what
    truncation does to late spans.
    """
    first = last = -1
    offsets = encoded.offsets
    # Tokens end in order, so the ones before the span are passed over at once.
    for token in range(bisect_right(offsets, start, 1, len(offsets) - 1, key=_END), len(offsets) - 1):
        a, b = offsets[token]
        while a < b and encoded.text[a].isspace():
            a += 1
        if a >= stop:
            break
        if a < b:
            first = token if first < 0 else first
            last = token
    return None if first < 0 else (first, last + 1)
