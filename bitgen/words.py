"""Texts become numbers: tokens, phrases as token spans, and their boxes; flat, as they lie in `index.arrow` and in a batch.

Done once, when shards are built: a run reads the numbers of a whole batch at a time and tokenises nothing. Evaluation, whose
texts come from records, makes the same numbers of them here.
"""

import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgen.record import RecordError, Text
from bitgen.tokens import EOT, MAX_TOKENS, VOCABULARY, Tokenizer, token_span

COUNT = np.dtype("<u2")
"""Of whatever is counted, of tokens, and of where phrases begin and end among them."""
CORNER = np.dtype("<f8")
_MOST = 2**16 - 1


class Words(NamedTuple):
    """The texts of some images, image by image. Axes: B images, T texts, L tokens of all texts, P phrases, N boxes."""

    texts: bytes
    """[B] of `COUNT`: texts of each image."""
    tokens: bytes
    """[T] of `COUNT`: tokens of each text, both end-of-texts included."""
    phrases: bytes
    """[T] of `COUNT`: phrases of each text."""
    ids: bytes
    """[L] of `COUNT`."""
    spans: bytes = b""
    """[P, 2] of `COUNT`: tokens [start, stop) of each phrase in its text; [0, 0) where none of its tokens is left, or all of them
    are white space."""
    boxes: bytes = b""
    """[P] of `COUNT`: boxes of each phrase."""
    corners: bytes = b""
    """[N, 4] of `CORNER`: x0 y0 x1 y1 of each box in fractions of the stored image."""


class Numbers(NamedTuple):
    """`Words` as arrays that may not be written to."""

    texts: NDArray[np.uint16]
    tokens: NDArray[np.uint16]
    phrases: NDArray[np.uint16]
    ids: NDArray[np.uint16]
    spans: NDArray[np.uint16]
    """[P, 2]"""
    boxes: NDArray[np.uint16]
    corners: NDArray[np.float64]
    """[N, 4]"""

    @staticmethod
    def of(words: Words) -> "Numbers":
        texts, tokens, phrases, ids, spans, boxes = (np.frombuffer(part, COUNT) for part in words[:-1])
        return Numbers(
            texts,
            tokens,
            phrases,
            ids,
            spans.reshape(-1, 2),
            boxes,
            np.frombuffer(words.corners, CORNER).reshape(-1, 4),
        )


def choose_texts(texts: int, epoch: int, count: int) -> tuple[int, ...]:
    """Which of an image's texts its source's epoch shows, all different: the first moves on by one an epoch."""
    return tuple([(epoch + j) % texts for j in range(min(count, texts))])


def words_of(texts: Sequence[Text], tokenizer: Tokenizer) -> Words:
    """Of one image. At most 256 tokens of a text.

    Raises `bitgen.tokens.TokenError` for a text without a UTF-8 form, `RecordError` for more texts, phrases of a text or boxes of
    a phrase than 65,535.
    """
    tokens, phrases, ids, spans, boxes = (array("H") for _ in range(5))
    corners = array("d")
    for text in texts:
        if text.phrases:
            encoded = tokenizer.encode(text.text)
            found: Sequence[int] = encoded.ids
            for phrase in text.phrases:
                spans.extend(token_span(encoded, phrase.start, phrase.stop) or (0, 0))
                boxes.append(_counted(phrase.boxes, "boxes"))
                for box in phrase.boxes:
                    corners.extend((box.x0, box.y0, box.x1, box.y1))
        else:
            found = tokenizer.ids(text.text)
        tokens.append(len(found))
        phrases.append(_counted(text.phrases, "phrases"))
        ids.extend(found)
    parts = map(_bytes, (tokens, phrases, ids, spans, boxes, corners))
    return Words(counts((_counted(texts, "texts"),)), *parts)


def counts(numbers: Iterable[int]) -> bytes:
    """As they lie in `Words`."""
    return _bytes(array("H", numbers))


def _counted(found: Sequence[object], what: str) -> int:
    if len(found) > _MOST:
        raise RecordError(f"expected at most {_MOST:,} {what}, found {len(found):,}")
    return len(found)


def _bytes(numbers: "array[Any]") -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def join(parts: Iterable[Words]) -> Words:
    """All images of `parts`, in order."""
    found = list(zip(*parts, strict=True))
    return Words(*(b"".join(column) for column in found)) if found else Words(*([b""] * 7))


def replaced(words: Words, others: Sequence[tuple[int, Words]]) -> Words:
    """`words`, of some images those of `others` in their place: (the image's number, the words of one image)."""
    if not others:
        return words
    parts = list(images(words))
    for number, other in others:
        parts[number] = other
    return join(parts)


def images(words: Words) -> Iterable[Words]:
    """The words of each image by itself."""
    n = Numbers.of(words)
    texts = _ends(n.texts)
    tokens, phrases = _ends(n.tokens)[texts], _ends(n.phrases)[texts]
    boxes = _ends(n.boxes)[phrases]
    columns = ((texts, 2), (texts, 2), (tokens, 2), (phrases, 4), (phrases, 2), (boxes, 32))
    for i in range(len(n.texts)):
        parts = (
            part[ends[i] * size : ends[i + 1] * size] for part, (ends, size) in zip(words[1:], columns, strict=True)
        )
        yield Words(words.texts[2 * i : 2 * i + 2], *parts)


def _ends(counts: NDArray[np.uint16]) -> NDArray[np.int64]:
    """[len + 1]: where each begins, and the last ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def cut(n: Numbers, max_tokens: int) -> tuple[Numbers, int]:
    """The same of texts of at most `max_tokens` tokens, and how many phrases went with the ends of theirs.

    A text that is cut ends in end-of-text; a phrase of which some tokens are left keeps those.
    """
    tokens = np.minimum(n.tokens, max_tokens)
    ids = n.ids
    if (tokens < n.tokens).any():
        at = np.arange(len(ids)) - np.repeat(_ends(n.tokens)[:-1], n.tokens)
        limit = np.repeat(tokens, n.tokens)
        ids = np.where(at == limit - 1, COUNT.type(EOT), ids)[at < limit]
    if not len(n.spans):
        return n._replace(tokens=tokens, ids=ids), 0
    last = np.repeat(tokens, n.phrases) - 1
    kept = (n.spans[:, 0] > 0) & (n.spans[:, 0] < last)
    spans = n.spans.copy()
    spans[:, 1] = np.minimum(spans[:, 1], last)
    of_text = np.repeat(np.arange(len(tokens)), n.phrases)
    phrases = np.bincount(of_text[kept], minlength=len(tokens)).astype(COUNT)
    corners = n.corners[np.repeat(kept, n.boxes)]
    found = Numbers(n.texts, tokens, phrases, ids, spans[kept], n.boxes[kept], corners)
    return found, int((~kept).sum())


def fault(words: Words) -> tuple[int, str] | None:
    """The first image whose numbers cannot be, and what was expected of them; None where all can."""
    n = Numbers.of(words)
    image_of_text = np.repeat(np.arange(len(n.texts)), n.texts)
    ends = np.cumsum(n.tokens, dtype=np.int64)
    is_text = (n.tokens > 2) & (n.tokens <= MAX_TOKENS)
    if not is_text.all():
        return int(image_of_text[int(is_text.argmin())]), f"3 to {MAX_TOKENS} tokens of every text"
    is_text = (n.ids[ends - n.tokens] == EOT) & (n.ids[ends - 1] == EOT)
    checks = [(~is_text, image_of_text, "an end-of-text before and after every text")]
    checks += [(n.ids >= VOCABULARY, np.repeat(image_of_text, n.tokens), f"tokens below {VOCABULARY}")]
    if len(n.spans):
        image_of_phrase, (start, stop) = np.repeat(image_of_text, n.phrases), n.spans.T
        is_none = (start == 0) & (stop == 0)
        is_span = (start > 0) & (start < stop) & (stop < np.repeat(n.tokens, n.phrases))
        checks += [(~(is_none | is_span), image_of_phrase, "phrases within their texts")]
        checks += [(n.boxes == 0, image_of_phrase, "a box of every phrase")]
        x0, y0, x1, y1 = n.corners.T
        is_box = (x0 >= 0) & (x0 < x1) & (x1 <= 1) & (y0 >= 0) & (y0 < y1) & (y1 <= 1)  # which NaN never is
        checks += [(~is_box, np.repeat(image_of_phrase, n.boxes), "boxes within their images")]
    for wrong, image, expected in checks:
        if wrong.any():
            return int(image[int(wrong.argmax())]), expected
    return None
