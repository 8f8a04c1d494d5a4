"""Images and their texts become rows of a batch: drawn, tokenised, decoded, and replaced where they do not decode."""

import logging
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple, Protocol

from torch import Tensor

from bitgen.image import Crop, DecodeError
from bitgen.record import Sample, image_id
from bitgen.tokens import Tokenizer, token_span

log = logging.getLogger(__name__)

ATTEMPTS = 16
"""Samples tried for one position before the run stops."""


class BatchError(Exception):
    """No batch can be made: an image does not decode, too many do not, or there is no text."""


class Drawn(Protocol):
    """As `bitgen.batch.Item`."""

    @property
    def position(self) -> int: ...

    @property
    def epoch(self) -> int: ...

    @property
    def sample(self) -> Sample: ...

    @property
    def image(self) -> bytes: ...


class Seen(Protocol):
    """What a batch holds of an image: its pixels, `bitgen.image.Transform`, or its `bitgen.features.FeatureForm`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the memory of one image, uint8."""
        ...

    def fill(
        self, stored: bytes, size: tuple[int, int], out: Tensor, seed: int, position: int, max_pixels: int
    ) -> tuple[tuple[int, int], Crop]:
        """Fills `out` from what is stored; returns the image's size and what is seen of it. Raises `DecodeError`.

        Args:
            size: width and height in pixels, by the image's record.
        """
        ...

    def fields(self, memory: Tensor) -> dict[str, Tensor]:
        """Fields of `bitgen.batch.Batch`, of a batch's memory."""
        ...


def choose_texts(texts: int, epoch: int, count: int) -> tuple[int, ...]:
    """Which of an image's texts its source's epoch shows, all different: the first moves on by one an epoch."""
    return tuple((epoch + j) % texts for j in range(min(count, texts)))


class Words(NamedTuple):
    """The texts of an image. Everything is flat: a batch has all its tokens and moves all its boxes at once."""

    lengths: list[int]
    """Tokens of each text."""
    ids: list[int]
    """Tokens, text by text."""
    spans: list[int]
    """Of each phrase three: its text, tokens [start, stop)."""
    boxes: list[float]
    """Of each box five: its phrase, corners in fractions of the stored image."""
    truncated: int
    """Phrases that were cut off with the end of their text."""


class Row(NamedTuple):
    """An image ready for a batch, its pixels apart."""

    key: str
    words: Words
    numbers: tuple[int, ...]
    """In the order of `NUMBERS`."""


NUMBERS = (
    *("image_id", "position", "width", "height", "crop_x0", "crop_y0", "crop_x1", "crop_y1"),
    *("texts", "phrases", "boxes", "truncated", "replaced"),
)
"""Of each row: `bitgen.record.image_id`; its position; pixels of the stored image, and of what the model sees in it; how many
texts, phrases and boxes it has; phrases cut off; samples that did not decode, in whose place it stands."""


class Rows(NamedTuple):
    """Rows as they travel between processes: keys, and numbers as NumPy reads them."""

    keys: list[str]
    numbers: bytes
    """[rows, NUMBERS] int64."""
    lengths: bytes
    """[texts] int64."""
    ids: bytes
    """[tokens] uint16."""
    spans: bytes
    """[phrases, 3] int64, the text within its row's."""
    boxes: bytes
    """[boxes, 5] float64, the phrase within its row's."""

    @staticmethod
    def of(rows: Sequence[Row]) -> "Rows":
        """The same rows."""
        words = [row.words for row in rows]
        return Rows(
            [row.key for row in rows],
            _bytes("q", [row.numbers for row in rows]),
            _bytes("q", [each.lengths for each in words]),
            _bytes("H", [each.ids for each in words]),
            _bytes("q", [each.spans for each in words]),
            _bytes("d", [each.boxes for each in words]),
        )


def _bytes(kind: str, numbers: Iterable[Iterable[float]]) -> bytes:
    return array(kind, chain.from_iterable(numbers)).tobytes()


@dataclass(frozen=True)
class Recipe:
    """How an item becomes a row."""

    seen: Seen
    tokenizer: Tokenizer
    texts_per_image: int | None
    """None: all."""
    seed: int
    max_tokens: int
    max_pixels: int

    def words(self, item: Drawn) -> Words:
        """The texts that the item's epoch shows."""
        texts, truncated, phrases = item.sample.texts, 0, 0
        lengths, ids, spans, boxes = list[int](), list[int](), list[int](), list[float]()
        count = len(texts) if self.texts_per_image is None else self.texts_per_image
        for chosen in choose_texts(len(texts), item.epoch, count):
            text = texts[chosen]
            if text.phrases:
                encoded = self.tokenizer.encode(text.text, self.max_tokens)
                tokens = encoded.ids
                for phrase in text.phrases:
                    span = token_span(encoded, phrase.start, phrase.stop)
                    if span is None:
                        truncated += 1
                        continue
                    spans += (len(lengths), *span)
                    for box in phrase.boxes:
                        boxes += (phrases, box.x0, box.y0, box.x1, box.y1)
                    phrases += 1
            else:
                tokens = self.tokenizer.ids(text.text, self.max_tokens)
            lengths.append(len(tokens))
            ids += tokens
        return Words(lengths, ids, spans, boxes, truncated)

    def row(self, item: Drawn, words: Words, out: Tensor, replaced: int = 0) -> Row:
        """Fill `out`, an image's memory, with what is seen of the item. Raises `DecodeError`."""
        sample, position = item.sample, item.position
        size = sample.width, sample.height
        size, crop = self.seen.fill(item.image, size, out, self.seed, position, self.max_pixels)
        counts = len(words.lengths), len(words.spans) // 3, len(words.boxes) // 5, words.truncated, replaced
        return Row(sample.key, words, (image_id(sample), position, *size, *crop, *counts))


def fill(
    draw: Callable[[int, int], Drawn], recipe: Recipe, positions: Sequence[int], memory: Tensor, max_tokens: int
) -> Rows:
    """Rows of `positions`, their texts of at most `max_tokens`, their images in `memory` [positions, *shape] uint8.

    Where an image does not decode, `draw(position, attempt)` gives another. Raises `BatchError` after 16 attempts;
    whatever else is raised comes through with position and key as notes.
    """
    recipe = replace(recipe, max_tokens=min(recipe.max_tokens, max_tokens))
    drawn = []
    for position in positions:
        try:
            item = draw(position, 0)
            # All texts before all pixels: a decoded image sweeps the tokenizer's tables out of the processor's cache
            # (2,720 us an image in turn, 2,570 like this).
            drawn.append((item, recipe.words(item)))
        except Exception as error:  # whatever it is: it goes on, and says where it came from
            error.add_note(_place(position))
            raise
    rows = []
    for (item, words), out in zip(drawn, memory, strict=True):
        try:
            rows.append(_row(draw, recipe, item, words, out))
        except Exception as error:  # likewise
            error.add_note(_place(item.position))
            raise
    return Rows.of(rows)


def _row(draw: Callable[[int, int], Drawn], recipe: Recipe, item: Drawn, words: Words, out: Tensor) -> Row:
    position = item.position
    for attempt in range(ATTEMPTS):
        if attempt > 0:
            item = draw(position, attempt)
            words = recipe.words(item)
        try:
            return recipe.row(item, words, out, attempt)
        except DecodeError as error:
            log.warning("replaced %s at position %d: %s", item.sample.key, position, error)
        except Exception as error:  # likewise; what does not decode has been replaced above
            error.add_note(f"of the sample {item.sample.key}")
            raise
    raise BatchError(f"expected an image that decodes in {ATTEMPTS} draws, found none: position {position}")


def _place(position: int) -> str:
    return f"while making the sample at position {position}"
