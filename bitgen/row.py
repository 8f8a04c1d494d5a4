"""Images and their texts become rows of a batch: drawn, tokenised, decoded, and replaced where they do not decode."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import NamedTuple, Protocol

from torch import Tensor

from bitgen.image import Crop, DecodeError, Transform, decode
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


def choose_texts(texts: int, epoch: int, count: int) -> tuple[int, ...]:
    """Which of an image's texts its source's epoch shows, all different: the first moves on by one an epoch."""
    return tuple((epoch + j) % texts for j in range(min(count, texts)))


class Words(NamedTuple):
    """The texts of an image. Spans and boxes are flat: a batch moves all its boxes at once."""

    texts: list[tuple[int, ...]]
    """Tokens of each text."""
    spans: list[tuple[int, int, int]]
    """Of each phrase: its text, tokens [start, stop)."""
    boxes: list[tuple[int, float, float, float, float]]
    """Of each box: its span, corners in fractions of the stored image."""
    truncated: int
    """Phrases that were cut off with the end of their text."""


class Row(NamedTuple):
    """An image ready for a batch, its pixels apart."""

    key: str
    image_id: int
    """`bitgen.record.image_id`."""
    position: int
    words: Words
    size: tuple[int, int]
    """Width and height of the stored image in pixels."""
    crop: Crop
    """What the model sees, in those pixels."""
    replaced: int
    """Samples that did not decode, in whose place this one stands."""


@dataclass(frozen=True)
class Recipe:
    """How an item becomes a row."""

    transform: Transform
    tokenizer: Tokenizer
    texts_per_image: int | None
    """None: all."""
    seed: int
    max_tokens: int
    max_pixels: int

    def words(self, item: Drawn) -> Words:
        """The texts that the item's epoch shows."""
        words, truncated, texts = Words([], [], [], 0), 0, item.sample.texts
        count = len(texts) if self.texts_per_image is None else self.texts_per_image
        for chosen in choose_texts(len(texts), item.epoch, count):
            text = texts[chosen]
            if text.phrases:
                encoded = self.tokenizer.encode(text.text, self.max_tokens)
                for phrase in text.phrases:
                    span = token_span(encoded, phrase.start, phrase.stop)
                    if span is None:
                        truncated += 1
                        continue
                    words.boxes.extend((len(words.spans), b.x0, b.y0, b.x1, b.y1) for b in phrase.boxes)
                    words.spans.append((len(words.texts), *span))
                words.texts.append(encoded.ids)
            else:
                words.texts.append(self.tokenizer.ids(text.text, self.max_tokens))
        return Words(words.texts, words.spans, words.boxes, truncated)

    def row(self, item: Drawn, words: Words, image: Tensor, replaced: int = 0) -> Row:
        """Fill `image` [3, S, S] with the item's pixels. Raises `DecodeError`."""
        pixels = decode(item.image, self.max_pixels)
        height, width = pixels.shape[1:]
        crop = self.transform.crop(width, height, self.seed, item.position)
        self.transform.resize(pixels, crop, image)
        return Row(item.sample.key, image_id(item.sample), item.position, words, (width, height), crop, replaced)


def fill(
    draw: Callable[[int, int], Drawn], recipe: Recipe, positions: Sequence[int], images: Tensor, max_tokens: int
) -> list[Row]:
    """Rows of `positions`, their texts of at most `max_tokens`, their pixels in `images` [positions, 3, S, S].

    Where an image does not decode, `draw(position, attempt)` gives another. Raises `BatchError` after 16 attempts;
    whatever else is raised comes through with position and key as notes.
    """
    recipe = replace(recipe, max_tokens=min(recipe.max_tokens, max_tokens))
    drawn = []
    for position in positions:
        with _Note(f"while making the sample at position {position}"):
            item = draw(position, 0)
            # All texts before all pixels: a decoded image sweeps the tokenizer's tables out of the processor's cache
            # (2,720 us an image in turn, 2,570 like this).
            drawn.append((item, recipe.words(item)))
    rows = []
    for (item, words), image in zip(drawn, images, strict=True):
        with _Note(f"while making the sample at position {item.position}"):
            rows.append(_row(draw, recipe, item, words, image))
    return rows


def _row(draw: Callable[[int, int], Drawn], recipe: Recipe, item: Drawn, words: Words, image: Tensor) -> Row:
    position = item.position
    for attempt in range(ATTEMPTS):
        if attempt > 0:
            item = draw(position, attempt)
            words = recipe.words(item)
        try:
            with _Note(f"of the sample {item.sample.key}"):
                return recipe.row(item, words, image, attempt)
        except DecodeError as error:
            log.warning("replaced %s at position %d: %s", item.sample.key, position, error)
    raise BatchError(f"expected an image that decodes in {ATTEMPTS} draws, found none: position {position}")


class _Note:
    """Adds `text` to whatever is raised inside."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(self.text)
