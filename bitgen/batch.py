"""Bytes become tensors. (Contract first; the loader follows.)"""

from dataclasses import dataclass

from torch import Tensor

from bitgen.record import Sample


@dataclass(frozen=True)
class Item:
    """One draw from the stream."""

    position: int
    """In the global order."""
    epoch: int
    """Of its source: an image's texts rotate by it."""
    sample: Sample
    image: bytes
    """Encoded, as stored."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch. Axes: B images, T texts, L tokens of the padded bucket, P phrases, N boxes, S side in pixels.

    The first text of an image is the one that contrastive and matching losses use; `first_text` finds it.
    """

    keys: tuple[str, ...]
    """[B]"""
    positions: Tensor
    """[B] int64, in the global order."""
    image_ids: Tensor
    """[B] int64: equal where two samples show one photograph, whatever their source."""
    images: Tensor
    """[B, 3, S, S] uint8, RGB; the model normalises."""
    token_ids: Tensor
    """[T, L] int64: end-of-text, tokens, end-of-text, padding."""
    token_mask: Tensor
    """[T, L] bool, true on all but padding."""
    text_image: Tensor
    """[T] int64: the row in `images` of each text's image; ascending."""
    first_text: Tensor
    """[B] int64: the row in `token_ids` of each image's first text."""
    second_text: Tensor
    """[B] int64: likewise of its second text, -1 where there is none."""
    phrase_text: Tensor
    """[P] int64: the row in `token_ids` of each phrase's text; ascending."""
    phrase_slot: Tensor
    """[P] int64: number of the phrase within its text, from 0."""
    phrase_tokens: Tensor
    """[P, 2] int64: tokens [start, stop) of its text row."""
    boxes: Tensor
    """[N, 4] float32, corners in fractions of the image as the model sees it."""
    box_phrase: Tensor
    """[N] int64: the phrase of each box; ascending."""
    crops: Tensor
    """[B, 4] float32: what the model sees, as corners in fractions of the stored image."""
    sizes: Tensor
    """[B, 2] int64: width and height of the stored image in pixels."""
    max_slots: int
    """The largest number of phrases in one text, on the host, 0 where there are none."""
    dropped: dict[str, int]
    """What was left out and why: `span_truncated`, `box_cropped`, `replaced`."""
