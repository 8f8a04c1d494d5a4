"""One image and its texts become a row of a batch: decoded, cropped, tokenised, its boxes moved."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bitgen.image import Transform, decode, move_boxes
from bitgen.record import Sample
from bitgen.tokens import Tokenizer, token_span


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


@dataclass(frozen=True)
class Words:
    """A text ready for a batch."""

    ids: tuple[int, ...]
    phrases: list[tuple[int, int, NDArray[np.float64]]]
    """Tokens [start, stop) and boxes [N, 4] in fractions of the crop."""


@dataclass(frozen=True)
class Row:
    """An image ready for a batch, its pixels apart."""

    sample: Sample
    position: int
    size: tuple[int, int]
    """Width and height of the stored image in pixels."""
    crop: NDArray[np.float64]
    """[4]: what the model sees, as corners in fractions of the stored image."""
    words: list[Words]
    dropped: tuple[int, int, int, int]
    """Phrases by truncation, boxes by the crop, phrases by the crop, samples replaced before this one."""


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

    def row(self, item: Drawn, image: Tensor, max_tokens: int, replaced: int = 0) -> Row:
        """Fill `image` [3, S, S] and return the rest. Raises `DecodeError`."""
        pixels = decode(item.image, self.max_pixels)
        height, width = pixels.shape[1:]
        crop = self.transform.crop(width, height, self.seed, item.position)
        image.copy_(self.transform.resize(pixels, crop))
        seen = np.array(crop) / (width, height, width, height)
        words, truncated, boxes, phrases = [], 0, 0, 0
        texts = item.sample.texts
        for t in choose_texts(len(texts), item.epoch, self.texts_per_image or len(texts)):
            encoded = self.tokenizer.encode(texts[t].text, max_tokens)
            kept = []
            for phrase in texts[t].phrases:
                span = token_span(encoded, phrase.start, phrase.stop)
                if span is None:
                    truncated += 1
                    continue
                moved, inside = move_boxes(np.array([(b.x0, b.y0, b.x1, b.y1) for b in phrase.boxes]), seen)
                boxes += int((~inside).sum())
                if inside.any():
                    kept.append((*span, moved[inside]))
                else:
                    phrases += 1
            words.append(Words(encoded.ids, kept))
        return Row(item.sample, item.position, (width, height), seen, words, (truncated, boxes, phrases, replaced))
