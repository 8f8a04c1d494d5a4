"""Bytes become tensors: decoded and cropped by workers, packed into flat arrays with their texts, in order."""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import accumulate, chain
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgen.image import MAX_PIXELS, DecodeError, Transform, move_boxes
from bitgen.record import Sample
from bitgen.row import ATTEMPTS, NUMBERS, BatchError, Item, Recipe, Rows, Seen, fill
from bitgen.tokens import EOT, MAX_TOKENS, Tokenizer
from bitgen.words import Numbers, Words, choose_texts, cut, join, replaced, words_of
from bitgen.workers import Buffers, Forked, Memory, Threads, Workers

__all__ = ["Batch", "BatchError", "Item", "bucket", "choose_texts", "load", "whole"]

BUCKETS = (16, 32, 64, 128, 256)
"""Token positions that a micro-batch's texts are padded to."""


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
    """[B, 3, S, S] uint8, RGB, channels last in memory; the model normalises. [B, 3, 0, 0] where there are `features`."""
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
    """What was left out and why: phrases `span_truncated`; boxes `box_cropped` and phrases that lost all of theirs,
    `phrase_cropped`; samples `replaced`."""
    features: Tensor | None = None
    """Stored patch features in place of `images`, as `bitgen.features.unpack` takes them."""

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch, each of its tensors as `move` gives it."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: move(tensor) for name, tensor in tensors.items()})


class Planned(Protocol):
    """One rank's part of a micro-batch, as `shards.stream.Plan`."""

    @property
    def positions(self) -> tuple[int, ...]: ...

    @property
    def text_bucket(self) -> int: ...

    @property
    def words(self) -> Words: ...


def bucket(longest: int) -> int:
    """The smallest bucket that fits `longest` tokens. Raises `ValueError` above 256."""
    for size in BUCKETS:
        if longest <= size:
            return size
    raise ValueError(f"expected at most {BUCKETS[-1]} tokens, found {longest}")


def _pack(
    parts: Sequence[Rows], words: Words, images: Mapping[str, Tensor], text_bucket: int, max_tokens: int
) -> Batch:
    """Flat arrays for the whole batch at once: small tensors for every box would cost more than the pixels do."""
    keys = tuple(chain.from_iterable(part.keys for part in parts))
    numbers = _joined([part.numbers for part in parts]).reshape(len(keys), len(NUMBERS)).T.copy()
    of = dict(zip(NUMBERS, numbers, strict=True))
    starts = accumulate((len(part.keys) for part in parts), initial=0)
    words = replaced(
        words, [(start + row, each) for start, part in zip(starts, parts, strict=False) for row, each in part.words]
    )
    n, truncated = cut(Numbers.of(words), min(max_tokens, text_bucket))
    counts, phrases = n.texts.astype(np.int64), n.phrases.astype(np.int64)
    if not counts.all():
        raise BatchError(f"expected a text for every image, found none: {keys[int(counts.argmin())]}")
    first = np.cumsum(counts) - counts
    text_image = np.repeat(np.arange(len(keys)), counts)
    is_token = np.arange(text_bucket) < n.tokens[:, None]
    token_ids = np.full(is_token.shape, EOT, dtype=np.int64)
    token_ids[is_token] = n.ids  # both go text by text

    sizes, crops = numbers[2:4].T.copy(), numbers[4:8].T / np.tile(numbers[2:4].T, 2)
    of_text = np.repeat(np.arange(len(phrases)), phrases)
    box_phrase = np.repeat(np.arange(len(n.spans)), n.boxes)
    moved, seen = move_boxes(n.corners, crops[text_image[of_text[box_phrase]]])
    kept = np.zeros(len(n.spans), dtype=bool)
    kept[box_phrase[seen]] = True
    phrase_text = of_text[kept]
    # Phrases of a text are neighbours, so the slot is the distance from the text's first.
    slots = np.arange(len(phrase_text)) - np.searchsorted(phrase_text, phrase_text)
    return Batch(
        keys=keys,
        positions=torch.from_numpy(of["position"]),
        image_ids=torch.from_numpy(of["image_id"]),
        **images,
        token_ids=torch.from_numpy(token_ids),
        token_mask=torch.from_numpy(is_token),
        text_image=torch.from_numpy(text_image),
        first_text=torch.from_numpy(first),
        second_text=torch.from_numpy(np.where(counts > 1, first + 1, -1)),
        phrase_text=torch.from_numpy(phrase_text),
        phrase_slot=torch.from_numpy(slots),
        phrase_tokens=torch.from_numpy(n.spans[kept].astype(np.int64)),
        boxes=torch.from_numpy(moved[seen].astype(np.float32)),
        box_phrase=torch.from_numpy((np.cumsum(kept) - 1)[box_phrase[seen]]),
        crops=torch.from_numpy(crops.astype(np.float32)),
        sizes=torch.from_numpy(sizes),
        max_slots=int(slots.max(initial=-1)) + 1,
        dropped={
            "span_truncated": truncated,
            "box_cropped": int((~seen).sum()),
            "phrase_cropped": int((~kept).sum()),
            "replaced": int(of["replaced"].sum()),
        },
    )


def _joined(parts: Iterable[bytes]) -> NDArray[np.int64]:
    """The numbers of all parts, one after another, in memory that may be written to."""
    return np.frombuffer(bytearray().join(parts), np.int64)


def load(
    draw: Callable[[int, int], Item],
    plans: Iterable[Planned],
    seen: Seen,
    seed: int,
    workers: int,
    prefetch: int = 2,
    *,
    is_forked: bool = False,
    is_pinned: bool = False,
    max_tokens: int = MAX_TOKENS,
    max_pixels: int = MAX_PIXELS,
    ceiling: float = 0.01,
) -> Iterator[Batch]:
    """The batches of `plans`, in order, the same for any number of workers.

    Args:
        draw: `draw(position, attempt)`, as `shards.stream.Stream.draw`; called by several workers.
        seen: how images are decoded, or the form that their stored features have.
        workers: threads or processes that read and decode; 0 does it all in the caller's thread. They start
            with the first batch asked for, and end when the iterator does, is closed, or is left by an exception.
        prefetch: batches in the making while the caller uses one.
        is_forked: whether the workers are processes (Linux), forked from this one: `draw` must work in a copy of this
            process that has none of its threads, and no plan have more positions than the first.
        is_pinned: whether the batches lie in page-locked memory, from which an accelerator copies without waiting.
        ceiling: the share of undecodable images above which the run stops; the first 16 are always let pass.

    An image that does not decode is replaced by `draw(position, attempt + 1)` and counted in `Batch.dropped`. Raises
    `BatchError` after 16 attempts or above the ceiling, `bitgen.workers.WorkerError` where a process was killed; what `draw`
    raises comes through, with the position as a note.
    """
    recipe = Recipe(seen, seed, max_pixels)
    source = iter(plans)
    coming: deque[_Coming] = deque()
    drawn = replaced = 0
    if (first := next(source, None)) is None:
        return
    source = chain([first], source)
    work, ahead = partial(fill, draw, recipe), prefetch if workers else 0
    pool: Workers
    if is_forked and workers:
        pool = Forked(work, workers, seen.shape, ahead + 3, len(first.positions))
    else:
        pool = Threads(work, workers, seen.shape, ahead + 2, is_pinned=is_pinned)
    try:
        while True:
            while len(coming) <= ahead and (plan := next(source, None)) is not None:
                coming.append(_Coming(pool, plan, seen, max_tokens))
            if not coming:
                return
            batch = coming.popleft().batch(is_pinned)
            drawn, replaced = drawn + len(batch.keys), replaced + batch.dropped["replaced"]
            if replaced > max(ATTEMPTS, ceiling * drawn):
                raise BatchError(f"expected at most {ceiling:.1%} undecodable images, found {replaced} of {drawn}")
            yield batch
    finally:
        pool.close()


class _Coming:
    """A batch in the making."""

    def __init__(self, workers: Workers, plan: Planned, seen: Seen, max_tokens: int) -> None:
        positions, step = plan.positions, workers.rows_a_task
        self._workers, self._plan, self._seen, self._max_tokens = workers, plan, seen, max_tokens
        self._memory: Memory | None = workers.take(len(positions))
        self._parts = [workers.begin(self._memory, i, positions[i : i + step]) for i in range(0, len(positions), step)]

    def batch(self, is_pinned: bool) -> Batch:
        """Waits for the workers. Raises what they raised."""
        rows = [part() for part in self._parts]
        assert self._memory is not None
        images, self._memory = self._memory.images, None
        if self._workers.is_out:
            images = images.clone()  # whoever has so many batches holds this one in memory of its own
        plan = self._plan
        packed = _pack(rows, plan.words, self._seen.fields(images), plan.text_bucket, self._max_tokens)
        return packed.moved(Tensor.pin_memory) if is_pinned else packed


def whole(
    items: Sequence[tuple[int, Sample, bytes]],
    side_px: int,
    tokenizer: Tokenizer,
    *,
    max_tokens: int = MAX_TOKENS,
    max_pixels: int = MAX_PIXELS,
) -> Batch:
    """For evaluation: whole images, all texts of each, nothing at random. Raises `BatchError` for an image that does
    not decode: evaluation images are never replaced.

    Args:
        items: position, sample, and encoded image, of each.
    """
    transform = Transform(side_px)
    recipe = Recipe(transform, 0, max_pixels)
    memory = Buffers(0).take(len(items), transform.shape)
    numbers = array("q")
    for (position, sample, image), out in zip(items, memory, strict=True):
        try:
            numbers.extend(recipe.row(Item.of(position, sample, image), out))
        except DecodeError as error:
            raise BatchError(f"{error}: {sample.key}") from error
    words = join(words_of(sample.texts, tokenizer) for _, sample, _ in items)
    longest = min(max_tokens, int(Numbers.of(words).tokens.max(initial=0)))
    rows = Rows([sample.key for _, sample, _ in items], numbers.tobytes(), [])
    return _pack([rows], words, transform.fields(memory), bucket(longest), max_tokens)
