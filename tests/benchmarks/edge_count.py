"""What one image and one token of a caption take at least: multiplications and bytes of weights, counted as they are computed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgen.deploy.packed import INPUT_SCALE, Packed
from bitgen.deploy.parts import Parts
from bitgen.deploy.reference import Arithmetic

PAST = 8
"""Tokens that stand before the one that is timed."""
Array = NDArray[Any]


@dataclass
class Work:
    byte_products: int = 0
    """Multiplications of bytes: ternary layers, the tower's linear maps, the head."""
    float_products: int = 0
    """Likewise of floats."""
    weight_bytes: int = 0
    """Of all weights, ternary ones as the bytes that they become."""


class Counting(Arithmetic):
    """Computes, and keeps count."""

    def __init__(self, packed: Packed) -> None:
        super().__init__(packed)
        self.work = Work()

    def ternary(self, x: Array, name: str) -> Array:
        return self._bytes(x, super().ternary(x, name))

    def linear(self, x: Array, name: str) -> Array:
        y = super().linear(x, name)
        if name + INPUT_SCALE in self._packed.tensors:
            return self._bytes(x, y)
        self.work.float_products += x.size * y.shape[-1]
        self.work.weight_bytes += 4 * x.shape[-1] * y.shape[-1]
        return y

    def products(self, x: Array, name: str, count: int) -> Array:
        return self._bytes(x, super().products(x, name, count))

    def matmul(self, a: Array, b: Array) -> Array:
        self.work.float_products += a.size * b.shape[-1]
        return super().matmul(a, b)

    def _bytes(self, x: Array, y: Array) -> Array:
        self.work.byte_products += x.size * y.shape[-1]
        self.work.weight_bytes += x.shape[-1] * y.shape[-1]
        return y


def count(packed: Packed) -> dict[str, Work]:
    """Of one image through its encoder, and of one token after `PAST` others."""
    facts, config = packed.facts, packed.facts.config
    pixels = np.zeros((1, 3, facts.image_px, facts.image_px), np.uint8)

    def image(parts: Parts) -> object:
        return parts.image_encoder(pixels)

    def token(parts: Parts) -> object:
        return parts.decoder_step(**token_inputs(config.decoder_layers, config.heads, config.width, parts.patches))

    def counted(compute: Callable[[Parts], object]) -> Work:
        counting = Counting(packed)
        compute(Parts(counting, facts))
        return counting.work

    return {"image": counted(image), "token": counted(token)}


def token_inputs(layers: int, heads: int, width: int, patches: int) -> dict[str, Any]:
    """What `decoder_step` is given, as `Parts` takes it: noise for what it has seen and written."""
    noise = np.random.default_rng(0)

    def states(length: int) -> Array:
        return noise.normal(size=(1, heads, length, width // heads)).astype(np.float32)

    lengths = {"past": PAST, "context": patches + 1}
    cache = {
        f"{of}_{kind}_{i}": states(n) for of, n in lengths.items() for kind in ("key", "value") for i in range(layers)
    }
    seen = np.arange(patches + 1)[None] < patches
    return {"rows": np.array([[1]]), "position": np.array([PAST]), "seen": seen, "cache": cache}
