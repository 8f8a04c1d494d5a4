"""A mixture of three tiny datasets in real shards, and what the ranks of any world load of it, put together.

Shards are uneven, one is empty; photographs differ in size, samples in texts, phrases and boxes; a few images are cut off.
"""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bitgen.batch import Batch, Item, load
from bitgen.image import Transform
from bitgen.record import Box, Phrase, Sample, Text
from bitgen.tokens import MAX_TOKENS
from shards.format import FORMAT_VERSION, Entry, ShardWriter, shard_name
from shards.index import write_index
from shards.stream import Stream

SIZES = {"coarse/cats": (7, 0, 1, 13), "fine/dogs": (2, 30), "coarse/birds": (8,)}
"""Samples of each shard."""
DAMAGED = ("cats-3", "cats-20", "dogs-1", "dogs-30", "birds-5")
"""Keys whose images do not decode, where that is asked for."""
LONG = "birds-2"
"""Key of the one bird whose text needs a bucket of 128; its only one."""
CROP, SIDE_PX, SEED = 0.3, 12, 5


def write(root: Path, damaged: Sequence[str] = ()) -> Path:
    """The datasets of SIZES below `root`; the images of `damaged` keys are cut off."""
    for name, sizes in SIZES.items():
        folder = root / name
        folder.mkdir(parents=True)
        entries: list[Entry] = []
        shards = []
        for number, size in enumerate(sizes):
            with ShardWriter(folder / shard_name(number)) as writer:
                for i in range(len(entries), len(entries) + size):
                    sample, image = _sample(f"{folder.name}-{i}", i)
                    entries.append(writer.add(sample, image[:-9] if sample.key in damaged else image))
            shard = {"file": writer.path.name, "samples": size, "bytes": writer.size_bytes, "sha256": writer.sha256}
            shards.append(shard)
        write_index(folder, entries)
        dataset = {"format_version": FORMAT_VERSION, "name": name, "samples": len(entries), "shards": shards}
        (folder / "dataset.json").write_text(json.dumps(dataset))
    return root


def _sample(key: str, i: int) -> tuple[Sample, bytes]:
    """1 to 4 texts; of dogs each has up to three phrases with one or two boxes, the last of them beyond 64 tokens."""
    dice = np.random.default_rng([i, *key.encode()])
    width, height = (int(side) for side in dice.integers(12, 40, 2))
    file = io.BytesIO()
    Image.fromarray(dice.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, "JPEG")
    texts = [Text(f"{key}, text {n}") for n in range(1 + i % 4)]
    if key.startswith("dogs"):
        texts = [
            _grounded(f"a dog and a ball {'again ' * (70 * (n == 3))}on grass {n}", dice) for n in range(1 + i % 4)
        ]
    elif key.startswith("birds"):
        texts = [Text("a bird " * (50 if key == LONG else 2))]
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    return Sample(key, "mixed", "train", (), width, height, "", "", digest, tuple(texts)), file.getvalue()


def _grounded(text: str, dice: np.random.Generator) -> Text:
    words = ("a dog", "a ball", "grass")[: int(dice.integers(0, 4))]
    starts = [text.index(word) for word in words]
    return Text(text, tuple(Phrase(s, s + len(w), _boxes(dice)) for s, w in zip(starts, words, strict=True)))


def _boxes(dice: np.random.Generator) -> tuple[Box, ...]:
    low, size = dice.uniform(0, 0.6, (2, 2)), dice.uniform(0.05, 0.4, (2, 2))
    return tuple(Box(*a, *(a + b)) for a, b in zip(low, size, strict=True))[: int(dice.integers(1, 3))]


def opened(
    root: Path, seed: int = 0, *, texts_per_image: int = 2, max_tokens: int = MAX_TOKENS, **weights: float
) -> Stream:
    """A stream of all three, or of those that `weights` names without their folder."""
    chosen = {name: weights.get(name.partition("/")[2], 0.0) if weights else 1.0 for name in SIZES}
    return Stream.open(root, chosen, seed=seed, texts_per_image=texts_per_image, max_tokens=max_tokens)


def loaded(
    stream: Stream,
    start: int,
    steps: int,
    *,
    batch: int,
    world: int = 1,
    workers: Sequence[int] = (0,),
    draw: Callable[[int, int], Item] | None = None,
) -> list[Batch]:
    """So many global micro-batches, each joined from what every rank of a world loads, with `workers` in turn."""
    ranks = [
        load(
            draw or stream.draw,
            islice(stream.micro_batches(start, batch=batch, rank=rank, world=world), steps),
            Transform(SIDE_PX, CROP),
            SEED,
            threads,
            ceiling=1.0,
            max_tokens=stream.max_tokens,
        )
        for rank, threads in zip(range(world), cycle(workers), strict=False)
    ]
    return [joined(parts) for parts in zip(*ranks, strict=True)]


def joined(parts: Sequence[Batch]) -> Batch:
    """The ranks' batches as one: the inverse of `fakes.part`."""
    images, texts, phrases = (
        [sum(len(getattr(part, name)) for part in parts[:n]) for n in range(len(parts))]
        for name in ("images", "token_ids", "phrase_text")
    )
    moved = [
        replace(
            part,
            text_image=part.text_image + i,
            first_text=part.first_text + t,
            second_text=torch.where(part.second_text < 0, -1, part.second_text + t),
            phrase_text=part.phrase_text + t,
            box_phrase=part.box_phrase + p,
        )
        for part, i, t, p in zip(parts, images, texts, phrases, strict=True)
    ]
    tensors = [field.name for field in fields(Batch) if isinstance(getattr(parts[0], field.name), Tensor)]
    return Batch(
        **{name: torch.cat([getattr(part, name) for part in moved]) for name in tensors},
        keys=tuple(key for part in parts for key in part.keys),
        max_slots=max(part.max_slots for part in parts),
        dropped={reason: sum(part.dropped[reason] for part in parts) for reason in parts[0].dropped},
    )


def differences(found: Sequence[Batch], expected: Sequence[Batch]) -> list[str]:
    """Fields that are not equal bit for bit, of any of the batches."""
    pairs = [
        (f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(Batch) for a, b in _pairs(found, expected)
    ]
    return [name for name, a, b in pairs if not (_equal(a, b) if isinstance(a, Tensor) else a == b)]


def _pairs(found: Sequence[Batch], expected: Sequence[Batch]) -> list[tuple[Batch, Batch]]:
    return list(zip(found, expected, strict=True))


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.equal(b)


def failures(stream: Stream, position: int) -> int:
    """Draws at a position that do not decode, before the one that does."""
    return next(n for n in count() if stream.draw(position, n).key not in DAMAGED)


def by_the_rule(stream: Stream) -> Callable[[int, int], Item]:
    """A draw that is never of a damaged sample: the rule of replacement, worked out beforehand."""
    return lambda position, attempt: stream.draw(position, failures(stream, position))
