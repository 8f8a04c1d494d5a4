"""Weights in two bits and in bytes come back as they were."""

import numpy as np
import pytest
import torch

from bitgen.deploy.layout import latent, pack_ternary, quantise_rows, spread, unpack_ternary
from bitgen.model.bitlinear import ternarise


def _ternary(outputs: int, inputs: int) -> np.ndarray:
    return np.random.default_rng(inputs).integers(-1, 2, (outputs, inputs)).astype(np.int8)


def test_a_byte_holds_four_weights_from_its_low_bits_up() -> None:
    assert pack_ternary(np.array([[-1, 0, 1, 1]], np.int8)).tolist() == [[0b10_10_01_00]]


def test_a_last_byte_is_filled_up_with_zero_weights() -> None:
    assert pack_ternary(np.array([[1]], np.int8)).tolist() == [[0b01_01_01_10]]


@pytest.mark.parametrize("inputs", [1, 2, 3, 4, 5, 127, 128])
def test_packed_weights_come_back(inputs: int) -> None:
    weights = _ternary(6, inputs)
    packed = pack_ternary(weights)
    assert packed.shape == (6, -(-inputs // 4))
    np.testing.assert_array_equal(unpack_ternary(packed, inputs), weights)


def test_a_weight_that_is_not_ternary_is_refused() -> None:
    with pytest.raises(ValueError, match="expected weights -1, 0 and 1, found 0 to 2"):
        pack_ternary(np.array([[0, 2]], np.int8))


def test_a_code_that_stands_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expected ternary codes 0 to 2, found 3"):
        unpack_ternary(np.array([[0b11]], np.uint8), 4)


def test_rows_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[O, 2\] for 5 inputs, found uint8 \[1, 1\]"):
        unpack_ternary(np.zeros((1, 1), np.uint8), 5)


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (7, 63)])
def test_a_rows_largest_magnitude_has_the_largest_code(bits: int, largest: int) -> None:
    codes, scales = quantise_rows(np.array([[0.5, -2.0], [0.0, 0.0]]), bits)
    assert codes.tolist() == [[round(0.25 * largest), -largest], [0, 0]]
    assert scales.dtype == np.float16
    np.testing.assert_allclose(codes[0] * np.float32(scales[0]), [0.5, -2.0], atol=0.51 * float(scales[0]))


@pytest.mark.parametrize("magnitude", [1e-9, 3e-6, 1e-3, 1.0, 1e6])
def test_codes_are_of_the_scale_as_it_is_stored_whatever_the_magnitude(magnitude: float) -> None:
    values = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32) * np.float32(magnitude)
    codes, scales = quantise_rows(values)
    assert np.abs(codes.astype(int)).max() <= 127
    off = np.abs(codes * spread(scales, 2) - values)
    assert (off <= 0.501 * spread(scales, 2)).all()
    assert (spread(scales, 2) <= np.abs(values).max(axis=1, keepdims=True) / 127 * 1.001 + 6e-8).all()


@pytest.mark.parametrize(
    ("shape", "of_scales"), [((3, 4), (3,)), ((3, 2, 4), (3,)), ((1, 3, 4), (1, 3)), ((3, 1, 1, 1), (3,))]
)
def test_the_first_axis_longer_than_1_is_that_of_rows(shape: tuple[int, ...], of_scales: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    codes, scales = quantise_rows(values)
    assert (codes.shape, scales.shape) == (shape, of_scales)
    np.testing.assert_allclose(codes * spread(scales, len(shape)), values, atol=0.51 * float(scales.max()))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.full((2, 2), 9e6), "expected values within 127 times fp16's, found 9000000"),
        (np.full((2, 2), np.nan), "expected values within 127 times fp16's, found nan"),
        (np.zeros((1, 1, 4)), r"expected rows, found an array \[1, 1, 4\]"),
    ],
)
def test_what_has_no_scale_in_fp16_or_no_rows_is_refused(values: np.ndarray, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        quantise_rows(values)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 100), (256, 128)])
def test_a_latent_weight_becomes_the_same_codes_and_scale_bit_for_bit(shape: tuple[int, int]) -> None:
    for seed in range(20):
        codes, scale = ternarise(torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.03)
        again, same = ternarise(torch.from_numpy(latent(codes.numpy(), np.float32(scale.item()))))
        assert again.equal(codes)
        assert same.equal(scale)


def test_a_weight_of_zeros_stays_one() -> None:
    codes, scale = ternarise(torch.zeros(2, 3))
    again, same = ternarise(torch.from_numpy(latent(codes.numpy(), np.float32(scale.item()))))
    assert again.equal(codes)
    assert same.equal(scale)
