"""The kernels of a ternary layer give the bits that PyTorch's operators give: on an accelerator, and run as Python elsewhere."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgen.model import bitlinear
from bitgen.model.bitlinear import BitLinear, inverse_rms, quantise_activations, ternarise

ROOT = Path(__file__).parents[2]


def _tokens(rows: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Of many sizes; one of them 0, one with ties between two codes, one so small that it counts as 0."""
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(rows, width, generator=generator) * torch.logspace(-4, 4, rows)[:, None]
    x[0] = 0
    x[1] = torch.arange(width) - width // 2 + 0.5
    x[1, 0] = 127
    x[2] *= 1e-30
    return x.to(dtype)


def compare(kernels: Any, device: str) -> None:
    """Raises `AssertionError` where a kernel and the operators differ."""
    for width, dtype in ((8, torch.float32), (48, torch.float32), (64, torch.bfloat16), (300, torch.float32)):
        x = _tokens(12, width, dtype)
        expected_codes, level = quantise_activations(x)
        inverse = inverse_rms(x)
        arguments = bitlinear.LEVELS, bitlinear.SMALLEST_PEAK, bitlinear.NORM_EPS
        found = [each.cpu() for each in kernels.activations(x.to(device), *arguments)]
        for name, each, expected in zip(
            ("codes", "scale", "inverse"), found, (expected_codes, level * inverse, inverse), strict=True
        ):
            assert each.equal(expected), f"{name} at {width}: {(each != expected).sum()} of {each.numel()} differ"
        gradient = torch.randn(12, width, generator=torch.Generator().manual_seed(1))
        weight_scale = torch.tensor(0.3)
        through = kernels.through_norm(*(each.to(device) for each in (gradient, x, inverse, weight_scale)))
        torch.testing.assert_close(
            through.cpu(), bitlinear._through_norm(gradient, x, inverse, weight_scale), rtol=2e-2, atol=1e-3
        )
    for shape in ((8, 8), (40, 72), (3, 1000)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])) * 0.1
        expected_codes, expected_scale = ternarise(weight)
        codes, scale = kernels.weights(weight.to(device), bitlinear.SMALLEST_MEAN)
        assert scale.cpu().equal(expected_scale)
        assert codes.cpu().equal(expected_codes)
    assert kernels.weights(torch.zeros(4, 4, device=device), bitlinear.SMALLEST_MEAN)[0].cpu().count_nonzero() == 0


@pytest.mark.skipif(find_spec("triton") is None, reason="expected Triton, which PyTorch brings on Linux")
def test_the_kernels_run_as_python_give_the_bits_of_the_operators() -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bitgen.model import bitlinear_gpu as kernels; "
    program += "from tests.model.test_bitlinear_gpu import compare; compare(kernels, 'cpu')"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-3000:]


@pytest.mark.gpu
def test_the_kernels_give_the_bits_of_the_operators() -> None:
    kernels = bitlinear._kernels()
    assert kernels is not None
    compare(kernels, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "width", "out"), [(64, 64, 128), (5, 64, 128), (64, 12, 20), (40, 4096, 64)])
def test_a_layer_gives_there_the_bits_of_a_cpu(rows: int, width: int, out: int) -> None:
    torch.manual_seed(0)
    layer, x = BitLinear(width, out), _tokens(rows, width)
    expected = layer(x)
    assert layer.to("cuda")(x.to("cuda")).cpu().equal(expected)
