"""Noise as photographs, a source of them, and its batches."""

import dataclasses
import hashlib
import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from bitgen.batch import Batch, Item, choose_texts, load
from bitgen.image import Transform
from bitgen.record import Box, Phrase, Sample, Text
from bitgen.tokens import shared_tokenizer
from bitgen.words import Words, counts, words_of

TOKENIZER = shared_tokenizer()
LEFT, RIGHT, WHOLE = Box(0.0, 0.0, 0.25, 1.0), Box(0.75, 0.0, 1.0, 1.0), Box(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Plan:
    """A plan without words: its draws have them."""

    positions: tuple[int, ...]
    text_bucket: int = 16

    @property
    def words(self):
        return Words(counts([0] * len(self.positions)), b"", b"", b"")


class Drawn(NamedTuple):
    """A sample as a source of these tests has it."""

    position: int
    epoch: int
    sample: Sample
    image: bytes

    def words(self, texts_per_image):
        """Of the texts that it shows."""
        texts = self.sample.texts
        return words_of([texts[t] for t in choose_texts(len(texts), self.epoch, texts_per_image)], TOKENIZER)


_SMALL = Transform(24)
DOG = (Text("a dog"),)


def item(position, texts=DOG, epoch=0, image=None):
    """An item of a 40x30 photograph of noise, of its own for every position."""
    if image is None:
        noise = np.random.default_rng(position).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "JPEG")
        image = file.getvalue()
    digest = hashlib.sha256(image).hexdigest()
    sample = Sample(f"pets-{position}", "pets", "train", (f"coco:{position}",), 40, 30, "", "", digest, tuple(texts))
    return Drawn(position, epoch, sample, image)


def draw(position, attempt=0):
    """A source in which sample i has 1 + i % 3 texts with a phrase each."""
    texts = [Text(f"a dog, the {n}", (Phrase(2, 5, (LEFT, WHOLE)),)) for n in range(1 + position % 3)]
    return item(position, texts)


def loaded(plans, draw=draw, side_px=24, scale=1.0, texts_per_image=2, workers=2, **rest):
    return list(begun(draw, plans, Transform(side_px, scale), texts_per_image, workers, **rest))


def begun(draw, plans, seen=_SMALL, texts_per_image=2, workers=2, **rest):
    """The batches of plans to come, of what `draw(position, attempt)` gives."""

    def drawn(position, attempt):
        found = draw(position, attempt)
        item = Item.of(found.position, found.sample, found.image)
        return item._replace(words=found.words(texts_per_image))

    return load(drawn, plans, seen, 0, workers, **rest)


def one(texts, **rest):
    """The batch of a single image."""
    return loaded([Plan((5,))], lambda position, attempt: item(position, texts), **rest)[0]


def same(a: Batch, b: Batch) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Batch)]
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def broken(positions, image=b"\xff\xd8\xff no image"):
    """A source in which these positions do not decode at the first attempt."""

    def attempted(position, attempt):
        bad = attempt == 0 and position in positions
        return item(position, image=image) if bad else item(position + 1000 * attempt)

    return attempted
