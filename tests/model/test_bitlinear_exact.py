"""Every ternary layer of a model against whole numbers in NumPy, bit for bit: its codes in int64, its scales in fp32."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitgen.model.bitlinear import BitLinear, inverse_rms, ternarise
from bitgen.objectives.total import Objective, draw
from tests import fakes

one = np.float32
Captured = dict[str, list[tuple[Tensor, Tensor]]]
SIZES = pytest.mark.parametrize("sizes", [{}, {"width": 128, "heads": 4, "ffn": 256}], ids=["tiny", "as the model's"])


def _whole_numbers(x: Tensor, weight: Tensor) -> NDArray[np.float32]:
    """The layer's output: each line is rounded to fp32 once, in this order."""
    tokens, latent = x.detach().float().numpy(), weight.detach().numpy()
    weight_scale = max(one(np.abs(latent).mean(dtype=np.float64)), one(1e-5))
    weight_codes = np.clip(np.rint(latent / weight_scale), -1, 1).astype(np.int64)
    peak = np.maximum(np.abs(tokens).max(-1, keepdims=True), one(1e-30))
    codes = np.rint(tokens * (one(127) / peak)).astype(np.int64)
    square = np.square(tokens, dtype=np.float64).mean(-1, keepdims=True)
    scale = peak / one(127)
    scale = scale * (1 / np.sqrt(square + 1e-6)).astype(one)
    scale = scale * weight_scale
    return (codes @ weight_codes.T).astype(one) * scale


def _ternary_layers(module: nn.Module) -> dict[str, BitLinear]:
    return {name: m for name, m in module.named_modules() if isinstance(m, BitLinear) and m.ternary}


def _captured(objective: Objective, autocast: bool) -> Captured:
    """Inputs and outputs of every ternary layer, by name, in a forward pass of all losses."""
    found: Captured = {}
    for name, layer in _ternary_layers(objective).items():
        calls = found.setdefault(name, [])
        layer.register_forward_hook(lambda _, args, out, calls=calls: calls.append((args[0], out)))
    batch = fakes.fake_batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        objective(batch, draw(0, 0, len(batch.keys), fakes.PATCHES, torch.device("cpu")))
    return found


def _objective(sizes: dict[str, int]) -> Objective:
    """All losses, the gates open."""
    model = fakes.model(**sizes)
    for gate in model.gates().values():
        nn.init.constant_(gate, 0.3)
    return Objective(model, fakes.losses(itc=1.0, itm=0.5, text=0.5, grounding=0.5, region=1.0, queue=0))


@pytest.fixture
def threads() -> Iterator[None]:
    """Whatever number of threads a test sets ends with it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@SIZES
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_every_layer_of_the_model_computes_in_whole_numbers(sizes: dict[str, int], autocast: bool) -> None:
    objective = _objective(sizes)
    found, layers = _captured(objective, autocast), _ternary_layers(objective)
    assert all(found.values())
    for name, calls in found.items():
        for x, out in calls:
            expected = _whole_numbers(x, layers[name].weight)
            if out.dtype == torch.bfloat16:  # what attention takes
                assert autocast
                assert name.endswith(("query", "key_value"))
                expected = torch.from_numpy(expected).bfloat16().float().numpy()
            np.testing.assert_array_equal(out.detach().float().numpy(), expected, err_msg=name, strict=True)


@pytest.mark.parametrize("in_width", [1, 3, 16, 127, 128, 384, 1000])
@pytest.mark.parametrize("spread", [0.0, 6.0])
def test_any_width_and_any_magnitude_is_exact(in_width: int, spread: float) -> None:
    torch.manual_seed(in_width)
    layer, x = BitLinear(in_width, 40), fakes.noise(64, in_width)
    x = x * torch.logspace(-spread, spread, 64)[:, None]
    np.testing.assert_array_equal(layer(x).detach().numpy(), _whole_numbers(x, layer.weight), strict=True)


def test_a_token_of_zeros_and_a_weight_of_zeros_are_exact() -> None:
    layer, x = BitLinear(16, 8), torch.zeros(3, 16)
    np.testing.assert_array_equal(layer(x).detach().numpy(), _whole_numbers(x, layer.weight), strict=True)
    nn.init.zeros_(layer.weight)
    x = fakes.noise(3, 16)
    np.testing.assert_array_equal(layer(x).detach().numpy(), _whole_numbers(x, layer.weight), strict=True)


def _wide() -> tuple[BitLinear, Tensor]:
    """More weights than the 32,768 from which torch sums on all threads."""
    torch.manual_seed(0)
    return BitLinear(256, 512), fakes.noise(700, 256)


def test_the_order_of_channels_does_not_change_a_bit() -> None:
    layer, x = _wide()
    expected, order = layer(x), torch.randperm(256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:, order])
    assert layer(x[:, order]).equal(expected)


def test_the_order_of_tokens_and_the_size_of_a_batch_do_not_change_a_bit() -> None:
    layer, x = _wide()
    expected, order = layer(x), torch.randperm(700, generator=torch.Generator().manual_seed(1))
    assert layer(x[order]).equal(expected[order])
    assert torch.cat([layer(part) for part in x.split([1, 2, 61, 636])]).equal(expected)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("seed", range(8))
def test_the_number_of_threads_does_not_change_a_bit(seed: int) -> None:
    torch.manual_seed(seed)
    layer, x = BitLinear(256, 512), fakes.noise(700, 256, seed=seed)
    found = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        found.append((layer(x), *ternarise(layer.weight), inverse_rms(x)))
    assert all(a.equal(b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
