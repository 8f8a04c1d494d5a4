"""The packed model in NumPy alone: the integer reference that PyTorch and ONNX Runtime are compared with (tests/deploy).

    parts = reference(read("model.safetensors"))
    parts.image_encoder(pixels)["embedding"]

Ternary products add whole numbers, as an int8 runtime does; all else is fp32. Slow and plain: weights are unpacked in each call.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgen.deploy.packed import INPUT_SCALE, INPUT_ZERO, ROWS, SCALE, SCALES, Packed
from bitgen.deploy.parts import Parts

LEVELS, WIDE_LEVELS = np.float32(127), np.float32(32639)
"""The largest code of an activation of 8 bits; of one of 16: 127 x 256 + 127, so that both its halves are within 8 bits."""
SMALLEST_PEAK = np.float32(1e-30)
NORM_EPS = 1e-6
"""The last two: `bitgen.model.bitlinear`'s."""

Array = NDArray[Any]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def reference(packed: Packed) -> Parts:
    """Every part of the model, computed as it is called."""
    return Parts(Arithmetic(packed), packed.facts)


def runner(packed: Packed) -> Callable[[str, Mapping[str, Array]], Mapping[str, Array]]:
    """The reference as `bitgen.deploy.runtime.Runtime` runs a model: a part by its name, from its arguments by name."""
    parts = reference(packed)

    def run(part: str, given: Mapping[str, Array]) -> Mapping[str, Array]:
        if part == "decoder_step":
            own = {name: given[name] for name in ("rows", "position", "seen")}
            return parts.decoder_step(**own, cache={**given})
        return getattr(parts, part)(*given.values())

    return run


class Arithmetic:
    """`Operations` on arrays, with the weights of a packed file."""

    def __init__(self, packed: Packed) -> None:
        self._packed = packed

    def weight(self, name: str, shape: Sequence[int] | None = None) -> Array:
        found = self._packed.floats(name)
        return found if shape is None else found.reshape(shape)

    def constant(self, found: Array | np.generic | float) -> Array:
        return found if isinstance(found, np.ndarray) else np.asarray(found, np.float32)

    def ternary(self, x: Array, name: str) -> Array:
        peak = np.maximum(np.abs(x).max(axis=-1, keepdims=True), SMALLEST_PEAK)
        codes = np.rint(x * (LEVELS / peak))
        square = np.square(x.astype(np.float64)).mean(axis=-1, keepdims=True)
        inverse = (1 / np.sqrt(square + NORM_EPS)).astype(np.float32)
        sums = _whole(codes, self._packed.ternary(name))
        scale = np.float32(self._packed.tensors[name + SCALE])
        return sums * (((peak / LEVELS) * inverse) * scale)

    def linear(self, x: Array, name: str) -> Array:
        tensors = self._packed.tensors
        if name + INPUT_SCALE in tensors:
            step, zero = np.float32(tensors[name + INPUT_SCALE]), np.float32(tensors[name + INPUT_ZERO])
            codes = (np.rint(x / step) + zero).clip(0, 255) - zero
            y = _whole(codes, tensors[name + ROWS]) * (step * self._scales(name))
        else:
            weight = self.weight(f"{name}.weight")
            y = x @ weight.reshape(len(weight), -1).T
        return y + self.weight(f"{name}.bias") if f"{name}.bias" in tensors else y

    def rows(self, name: str, numbers: Array) -> Array:
        codes, scales = self._packed.tensors[name + ROWS][numbers], self._scales(name)[numbers]
        return codes.astype(np.float32) * scales[..., None]

    def products(self, x: Array, name: str, count: int) -> Array:
        codes, scales = self._packed.tensors[name + ROWS][:count], self._scales(name)[:count]
        peak = np.maximum(np.abs(x).max(axis=-1, keepdims=True), SMALLEST_PEAK)
        wide = np.rint(x * (WIDE_LEVELS / peak))
        high = np.rint(wide / np.float32(256))
        low = wide - high * np.float32(256)
        sums = _whole(np.stack([high, low]), codes)
        both = sums[0] * np.float32(256) + sums[1]
        return both * (peak / WIDE_LEVELS) * scales

    def _scales(self, name: str) -> Array:
        return self._packed.tensors[name + SCALES].astype(np.float32)

    def gather(self, x: Array, numbers: Array) -> Array:
        return x[numbers]

    def layer_norm(self, x: Array, name: str, eps: float = 1e-5) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        length = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(eps))
        return centred / length * self.weight(f"{name}.weight") + self.weight(f"{name}.bias")

    def root_mean_square_norm(self, x: Array, eps: float) -> Array:
        return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(eps))

    def gelu(self, x: Array) -> Array:
        return (0.5 * x * (1 + _erf(x / math.sqrt(2)))).astype(np.float32)

    def tanh(self, x: Array) -> Array:
        return np.tanh(x)

    def sigmoid(self, x: Array) -> Array:
        return np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))

    def softmax(self, x: Array) -> Array:
        powers = np.exp(x - x.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    def unit(self, x: Array) -> Array:
        return x / np.maximum(np.sqrt(np.square(x).sum(axis=-1, keepdims=True)), np.float32(1e-12))

    def add(self, a: Array, b: Array) -> Array:
        return a + b

    def subtract(self, a: Array, b: Array) -> Array:
        return a - b

    def multiply(self, a: Array, b: Array) -> Array:
        return a * b

    def divide(self, a: Array, b: Array) -> Array:
        return a / b

    def matmul(self, a: Array, b: Array) -> Array:
        return a @ b

    def hide(self, scores: Array, seen: Array) -> Array:
        return np.where(seen, scores, np.float32(-np.inf))

    def mean(self, x: Array, axis: int) -> Array:
        return x.mean(axis=axis)

    def sum(self, x: Array, axis: int) -> Array:
        return x.sum(axis=axis)

    def floats(self, x: Array) -> Array:
        return x.astype(np.float32)

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        return x.reshape([size or x.shape[axis] for axis, size in enumerate(shape)])

    def reshape_as(self, x: Array, like: Array) -> Array:
        return x.reshape(like.shape)

    def transpose(self, x: Array, axes: Sequence[int]) -> Array:
        return x.transpose(axes)

    def concat(self, parts: Sequence[Array], axis: int) -> Array:
        return np.concatenate(parts, axis=axis)

    def cut(self, x: Array, axis: int, start: int, stop: int) -> Array:
        return x[(slice(None),) * axis + (slice(start, stop),)]

    def repeat(self, x: Array, like: Array) -> Array:
        return np.broadcast_to(x, (len(like), *x.shape[1:]))


def _whole(codes: Array, weights: Array) -> Array:
    """[..., O] in fp32: products of whole numbers [..., I] and [O, I], added without error (in fp64, exact below 2^53)."""
    return (codes.astype(np.float64) @ weights.T.astype(np.float64)).astype(np.float32)
