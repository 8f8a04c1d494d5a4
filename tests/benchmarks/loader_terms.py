"""What all loaders agree on: what comes out of them, and the two ways from a JPEG to a tensor.

Imports no more than these need: what a loader has in memory is to be its own.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bitgen.image import Transform, decode

BATCH = 64
SIDE_PX = 224
TEXTS_PER_IMAGE = 4
COARSE, FINE = "coarse/bench-train", "fine/bench-train"
SOURCES = {COARSE: 1.0, FINE: 1.0}
"""Weights of the mixture: sources of equal size, so half of what is drawn is of either."""

Start = Callable[[], Iterator[tuple[int, Tensor | None]]]
"""Constructs a loader and goes through it: of each batch how many images there were, and the images [B, 3, S, S]."""


@cache
def resize() -> Callable[[Any], Any]:
    """torchvision's: it calls Pillow's own on Pillow's images, PyTorch's on tensors."""
    from torchvision.transforms import InterpolationMode, Resize

    return Resize((SIDE_PX, SIDE_PX), InterpolationMode.BICUBIC, antialias=True)


@cache
def documented() -> Callable[[Image.Image], Tensor]:
    """What peers do with an image that Pillow opened: [3, S, S] uint8."""
    from torchvision.transforms import Compose, PILToTensor

    return Compose([resize(), PILToTensor()])


def with_pillow(image: bytes) -> Tensor:
    """[3, S, S] uint8."""
    return documented()(Image.open(io.BytesIO(image)).convert("RGB"))


def decode_and_resize(image: bytes) -> Tensor:
    """[3, S, S] uint8: what our loader makes of an image, as a function that other loaders can be given."""
    pixels = decode(image)
    height, width = pixels.shape[1:]
    return Transform(SIDE_PX).resize(pixels, (0, 0, width, height))


def pixel_error(images: Sequence[bytes]) -> float:
    """Mean absolute difference of our decoder and Pillow's antialiased bicubic, in grey levels."""
    errors = [(decode_and_resize(image).int() - with_pillow(image).int()).abs().float().mean() for image in images]
    return float(torch.stack(errors).mean())
