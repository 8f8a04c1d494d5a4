"""Images become rows of a batch: drawn, decoded, and replaced where they do not decode."""

import logging
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from bitgen.image import Crop, DecodeError
from bitgen.record import Sample, image_id
from bitgen.words import Words

log = logging.getLogger(__name__)

ATTEMPTS = 16
"""Samples tried for one position before the run stops."""


class BatchError(Exception):
    """No batch can be made: an image does not decode, too many do not, or there is no text."""


class Item(NamedTuple):
    """One draw from the stream."""

    position: int
    """In the global order."""
    key: str
    image_id: int
    """`bitgen.record.image_id`."""
    width: int
    """Pixels, as recorded."""
    height: int
    image: bytes
    """Encoded, as stored; or features in its place."""
    words: Words | None = None
    """The texts that it shows, of a sample that stands in for another; the plan has those of the first draws."""

    @staticmethod
    def of(position: int, sample: Sample, image: bytes) -> "Item":
        """A draw whose record has been read."""
        return Item(position, sample.key, image_id(sample), sample.width, sample.height, image)


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


NUMBERS = ("image_id", "position", "width", "height", "crop_x0", "crop_y0", "crop_x1", "crop_y1", "replaced")
"""Of each row: `bitgen.record.image_id`; its position; pixels of the stored image, and of what the model sees in it; samples
that did not decode, in whose place it stands."""


class Rows(NamedTuple):
    """Images ready for a batch, their pixels apart, as they travel between processes."""

    keys: list[str]
    numbers: bytes
    """[rows, NUMBERS] int64."""
    words: list[tuple[int, Words]]
    """(row, words) of those that stand in for others."""


@dataclass(frozen=True)
class Recipe:
    """How an item becomes a row."""

    seen: Seen
    seed: int
    max_pixels: int

    def row(self, item: Item, out: Tensor, replaced: int = 0) -> tuple[int, ...]:
        """Fill `out`, an image's memory, with what is seen of the item; returns its `NUMBERS`. Raises `DecodeError`."""
        size = item.width, item.height
        size, crop = self.seen.fill(item.image, size, out, self.seed, item.position, self.max_pixels)
        return item.image_id, item.position, *size, *crop, replaced


def fill(draw: Callable[[int, int], Item], recipe: Recipe, positions: Sequence[int], memory: Tensor) -> Rows:
    """Rows of `positions`, their images in `memory` [positions, *shape] uint8.

    Where an image does not decode, `draw(position, attempt)` gives another, with its words. Raises `BatchError` after 16
    attempts; whatever else is raised comes through with position and key as notes.
    """
    keys, numbers, words = list[str](), array("q"), list[tuple[int, Words]]()
    for row, (position, out) in enumerate(zip(positions, memory, strict=True)):
        try:
            item, found = _row(draw, recipe, position, out)
        except Exception as error:  # whatever it is: it goes on, and says where it came from
            error.add_note(f"while making the sample at position {position}")
            raise
        keys.append(item.key)
        numbers.extend(found)
        if item.words is not None:
            words.append((row, item.words))
    return Rows(keys, numbers.tobytes(), words)


def _row(draw: Callable[[int, int], Item], recipe: Recipe, position: int, out: Tensor) -> tuple[Item, tuple[int, ...]]:
    for attempt in range(ATTEMPTS):
        item = draw(position, attempt)
        try:
            return item, recipe.row(item, out, attempt)
        except DecodeError as error:
            log.warning("replaced %s at position %d: %s", item.key, position, error)
        except Exception as error:  # whatever it is: it goes on, and says of which sample
            error.add_note(f"of the sample {item.key}")
            raise
    raise BatchError(f"expected an image that decodes in {ATTEMPTS} draws, found none: position {position}")
