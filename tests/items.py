"""Noise as photographs, a source of them, and its batches."""

import dataclasses
import hashlib
import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from bitgen.batch import Batch, Item, load
from bitgen.image import Transform
from bitgen.record import Box, Phrase, Sample, Text
from bitgen.tokens import shared_tokenizer

TOKENIZER = shared_tokenizer()
LEFT, RIGHT, WHOLE = Box(0.0, 0.0, 0.25, 1.0), Box(0.75, 0.0, 1.0, 1.0), Box(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Plan:
    positions: tuple[int, ...]
    text_bucket: int = 16


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
    return Item(position, epoch, sample, image)


def draw(position, attempt=0):
    """A source in which sample i has 1 + i % 3 texts with a phrase each."""
    texts = [Text(f"a dog, the {n}", (Phrase(2, 5, (LEFT, WHOLE)),)) for n in range(1 + position % 3)]
    return item(position, texts)


def loaded(plans, draw=draw, side_px=24, scale=1.0, texts_per_image=2, workers=2, **rest):
    return list(load(draw, plans, Transform(side_px, scale), TOKENIZER, texts_per_image, 0, workers, **rest))


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
