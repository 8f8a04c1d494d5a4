"""How weights lie in a packed file: ternary ones in 2 bits each, rows of bytes with a scale each. NumPy alone.

Ternary codes, uint8 [O, ceil(I / 4)] of weights -1, 0, 1 [O, I]: byte j of a row holds the weights of inputs 4 j to 4 j + 3, as
weight + 1, the first in the two lowest bits. Where I is no multiple of 4 the last byte is filled up with zero weights (code 1).
So one row is one output, its bytes follow each other, and unpacking is three shifts and a mask.

Rows of bytes, int8 [R, ...] with fp16 scales [R]: value = code x scale, the scale so that a row's largest magnitude has code 127
(or 63 with 7 bits: a CPU with neither VNNI nor dot products adds two products of unsigned and signed bytes in 16 bits, and
2 x 255 x 127 does not fit there, while 2 x 255 x 63 does). The first axis longer than 1 is that of rows: [1, R, C] has
scales [1, R].

Axes: O outputs, I inputs, R rows, C columns.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

A_BYTE = 4
"""Ternary weights."""


def pack_ternary(weights: NDArray[np.int8]) -> NDArray[np.uint8]:
    """[O, ceil(I / 4)] uint8 of weights [O, I] in -1, 0, 1. Raises `ValueError` for any other weight."""
    if weights.size and (weights.min() < -1 or weights.max() > 1):
        raise ValueError(f"expected weights -1, 0 and 1, found {weights.min()} to {weights.max()}")
    filled = np.pad(weights, ((0, 0), (0, -weights.shape[1] % A_BYTE)))
    codes = (filled + 1).astype(np.uint8).reshape(len(weights), -1, A_BYTE)
    return np.bitwise_or.reduce(codes << np.array([0, 2, 4, 6], np.uint8), axis=-1)


def unpack_ternary(packed: NDArray[np.uint8], inputs: int) -> NDArray[np.int8]:
    """[O, I] int8 in -1, 0, 1: the inverse of `pack_ternary`, of I `inputs`.

    Raises `ValueError` where the rows have another length than that needs, or hold the code 3, which stands for nothing.
    """
    expected = -(-inputs // A_BYTE)
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != expected:
        raise ValueError(
            f"expected uint8 [O, {expected}] for {inputs} inputs, found {packed.dtype} {list(packed.shape)}"
        )
    codes = packed[..., None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    if (codes == 3).any():
        raise ValueError("expected ternary codes 0 to 2, found 3")
    return codes.reshape(len(packed), -1)[:, :inputs].astype(np.int8) - np.int8(1)


def quantise_rows(values: NDArray[Any], bits: int = 8) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Codes [R, ...] and scales [R] of `values` [R, ...], or with axes of 1 before R, each row for itself; `bits` 7 or 8.

    Scales are rounded up to fp16 and codes are of the scale as rounded, so that nothing is cut; a row of zeros has codes of zero.
    Raises `ValueError` for other bits, for what has no rows, and for values that are not finite or beyond what fp16 scales reach.
    """
    if bits not in (7, 8):
        raise ValueError(f"expected 7 or 8 bits, found {bits}")
    first = next((axis for axis, size in enumerate(values.shape[:-1]) if size > 1), None)
    if first is None:
        raise ValueError(f"expected rows, found an array {list(values.shape)}")
    largest = 2 ** (bits - 1) - 1
    wide = values.astype(np.float32)
    exact = np.abs(wide).max(axis=tuple(range(first + 1, wide.ndim))) / np.float32(largest)
    if not (exact <= np.finfo(np.float16).max).all():
        raise ValueError(f"expected values within {largest} times fp16's, found {np.abs(wide).max()}")
    scales = exact.astype(np.float16)
    up = (scales < exact) | (scales == 0)
    scales[up] = np.nextafter(scales[up], np.float16(np.inf))
    return np.rint(wide / spread(scales, wide.ndim)).astype(np.int8), scales


def spread(scales: NDArray[Any], axes: int) -> NDArray[np.float32]:
    """Scales [R] in fp32 in a shape that multiplies codes of so many axes."""
    return scales.astype(np.float32).reshape(scales.shape + (1,) * (axes - scales.ndim))


def latent(weights: NDArray[np.int8], scale: np.float32) -> NDArray[np.float32]:
    """A full-precision weight [O, I] of which `bitgen.model.bitlinear.ternarise` makes `weights` and `scale`, bit for bit.

    The scale is the mean magnitude, zeros included, so what is not zero lies above it: by two neighbouring floats, as many of
    each as give the mean.
    """
    found = weights.astype(np.float32).ravel()
    places = np.flatnonzero(found)
    if not len(places):
        return found.reshape(weights.shape)
    total = np.float64(scale) * found.size
    low = np.float32(total / len(places))
    if np.float64(low) * len(places) > total:
        low = np.nextafter(low, np.float32(0))
    high = np.nextafter(low, np.float32(np.inf))
    count = round((total - np.float64(low) * len(places)) / (np.float64(high) - np.float64(low)))
    found[places[:count]] *= high
    found[places[count:]] *= low
    return found.reshape(weights.shape)
