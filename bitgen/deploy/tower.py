"""The vision tower in bytes: weights a scale a row, inputs a scale a layer, which some images of the training data decide.

Of every linear map in the tower's layers the smallest and largest input over all calibration images, 0 among them, become the
codes 0 and 255. What lies beyond in another image is cut to them. Patches, norms, biases and softmax are computed in floats.

All other matrices, of the tower and of the heads, are kept in bytes too and become floats when they are loaded: so a small tower's
package is 1.4 MB smaller. Vectors go to fp16; small matrices stay there, and the memory in fp32.

Source: arXiv 1712.05877, section 3 (affine quantisation, ranges by minimum and maximum).
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgen.deploy.layout import quantise_rows
from bitgen.deploy.packed import INPUT_SCALE, INPUT_ZERO, POSITIONS, ROWS, SCALES, Facts, Packed, PackedError, in_half
from bitgen.deploy.parts import Parts
from bitgen.deploy.reference import Arithmetic
from bitgen.deploy.vision import TOWER

LAYERS = f"{TOWER}.encoder.layer."
LEVELS = 255
SMALL = 512
"""Weights of the largest matrix that stays in fp16: those that give odds and boxes do, at 1 KB each."""


class _Watched(Arithmetic):
    """Keeps the range of what each linear map of the tower is given."""

    def __init__(self, packed: Packed) -> None:
        super().__init__(packed)
        self.ranges: dict[str, tuple[float, float]] = {}

    def linear(self, x: NDArray[Any], name: str) -> NDArray[Any]:
        if name.startswith(LAYERS):
            low, high = self.ranges.get(name, (0.0, 0.0))
            self.ranges[name] = min(low, float(x.min())), max(high, float(x.max()))
        return super().linear(x, name)


def calibrate(packed: Packed, images: Iterable[NDArray[np.uint8]]) -> dict[str, tuple[float, float]]:
    """The smallest and largest input of each linear map in the tower's layers, by its name.

    Args:
        packed: a model whose tower is in fp16.
        images: [B, 3, S, S] each. A small tower takes about a second an image.

    Raises `PackedError` where there are no images, or the tower is in bytes already.
    """
    if packed.facts.tower != "fp16":
        raise PackedError(f"expected a vision tower in fp16 to calibrate, found {packed.facts.tower}: {packed.path}")
    watched = _Watched(packed)
    parts = Parts(watched, packed.facts)
    for pixels in images:
        parts.image_encoder(pixels)
    if not watched.ranges:
        raise PackedError(f"expected images to calibrate the vision tower with, found none: {packed.path}")
    return watched.ranges


def in_bytes(
    packed: Packed, ranges: dict[str, tuple[float, float]], weight_bits: int
) -> tuple[dict[str, NDArray[Any]], Facts]:
    """Tensors and facts of the same model with its tower in bytes, as `bitgen.deploy.pack.write` takes them.

    Raises `PackedError` for a vector that fp16 cannot hold.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for name, tensor in packed.tensors.items():
        stem = name.removesuffix(".weight")
        is_matrix = tensor.dtype == np.float16 and (name.endswith(".weight") or name == POSITIONS)
        if stem in ranges and is_matrix:
            tensors[stem + ROWS], tensors[stem + SCALES] = quantise_rows(tensor, weight_bits)
        elif is_matrix and tensor.size > SMALL:
            tensors[stem + ROWS], tensors[stem + SCALES] = quantise_rows(tensor)
        elif tensor.dtype == np.float32 and tensor.ndim == 1 and not name.startswith("memory."):
            tensors[name] = in_half(name, tensor)
        else:
            tensors[name] = np.array(tensor)
    for name, (low, high) in ranges.items():
        step = np.float32(max(high - low, 1e-6) / LEVELS)
        tensors[name + INPUT_SCALE] = np.array(step)
        tensors[name + INPUT_ZERO] = np.array(np.rint(-low / step), np.uint8)
    return tensors, replace(packed.facts, tower="int8")
