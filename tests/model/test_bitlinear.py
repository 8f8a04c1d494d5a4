"""The ternary layer and its twin, against autograd of the definition; `test_bitlinear_exact.py` has the whole numbers."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitgen.model import bitlinear
from bitgen.model.bitlinear import WIDEST, BitLinear, multiply, quantise_activations, ternarise


def _layer(in_width: int = 128, out_width: int = 64, ternary: bool = True) -> BitLinear:
    torch.manual_seed(0)
    return BitLinear(in_width, out_width, ternary)


def _tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _slowly(x: Tensor, weight: Tensor) -> Tensor:
    """The definition in any precision, straight-through by `detach`, for autograd to differentiate."""
    normal = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    scale = normal.detach().abs().amax(-1, keepdim=True) / 127
    quantised = normal + ((normal / scale).round() * scale - normal).detach()
    mean = weight.detach().abs().mean()
    ternary = weight + ((weight / mean).round().clamp(-1, 1) * mean - weight).detach()
    return functional.linear(quantised, ternary)


def test_bytes_and_fp32_give_the_same_products(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.randint(-127, 128, (33, 520), dtype=torch.int8)
    weight_codes = torch.randint(-1, 2, (65, 520), dtype=torch.int8)
    exact = codes.numpy().astype(np.int32) @ weight_codes.numpy().astype(np.int32).T
    monkeypatch.setattr(bitlinear, "_has_byte_products", lambda: True)
    in_bytes = multiply(codes, weight_codes)
    monkeypatch.setattr(bitlinear, "_has_byte_products", lambda: False)
    in_floats = multiply(codes, weight_codes)
    np.testing.assert_array_equal(in_bytes.numpy(), exact)
    np.testing.assert_array_equal(in_floats.numpy(), exact)


def test_the_widest_layer_is_still_exact_in_fp32() -> None:
    codes = torch.full((1, WIDEST), 127, dtype=torch.int8).float()
    assert torch.mm(codes, torch.ones(WIDEST, 1)).item() == 127 * WIDEST < 2**24


def test_weights_become_their_sign_or_zero_at_half_the_mean() -> None:
    codes, scale = ternarise(torch.tensor([[0.24, 0.26, -0.4, -1.1]]))
    # Mean magnitude 0.5: the threshold is 0.25.
    assert (codes.tolist(), scale.item()) == ([[0, 1, -1, -1]], pytest.approx(0.5))


def test_activations_are_scaled_by_their_own_peak() -> None:
    codes, scale = quantise_activations(torch.tensor([[1.0, -2.0, 0.5], [0.1, 0.0, 0.05]]))
    assert codes.tolist() == [[64, -127, 32], [127, 0, 64]]
    torch.testing.assert_close(scale, torch.tensor([[2 / 127], [0.1 / 127]]))


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)])
def test_gradients_are_those_of_the_straight_through_definition(leading: tuple[int, ...]) -> None:
    layer = _layer().double()
    x = _tokens(*leading, 128).requires_grad_()
    upstream = _tokens(*leading, 64)
    layer.float()(x).backward(upstream)
    slow_x, slow_weight = x.detach().double().requires_grad_(), layer.weight.detach().double().requires_grad_()
    _slowly(slow_x, slow_weight).backward(upstream.double())
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert slow_x.grad is not None
    assert slow_weight.grad is not None
    torch.testing.assert_close(x.grad.double(), slow_x.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.weight.grad.double(), slow_weight.grad, rtol=1e-4, atol=1e-5)


def test_the_forward_pass_is_the_straight_through_definition() -> None:
    layer, x = _layer(), _tokens(40, 128)
    slow = _slowly(x.double(), layer.weight.detach().double())
    torch.testing.assert_close(layer(x).detach().double(), slow, rtol=1e-5, atol=1e-5)


def test_a_weight_without_gradient_still_passes_one_on() -> None:
    layer, x = _layer(), _tokens(4, 128).requires_grad_()
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


def test_training_and_evaluation_agree_bit_for_bit() -> None:
    layer, x = _layer(), _tokens(40, 128)
    trained = layer.train()(x)
    with torch.no_grad():
        assert layer.eval()(x).equal(trained)


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_a_token_does_not_depend_on_its_batch(rows: int) -> None:
    layer, x = _layer(), _tokens(300, 128)
    assert layer(x[:rows]).equal(layer(x)[:rows])


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    layer, x = _layer(), _tokens(2, 6, 128)
    padded = x.clone()
    padded[:, 3:] = 1e4
    assert layer(padded)[:, :3].equal(layer(x)[:, :3])


def test_a_token_does_not_depend_on_how_it_lies_in_memory() -> None:
    layer, x = _layer(), _tokens(5, 128, 7).transpose(1, 2)
    torch.testing.assert_close(layer(x), layer(x.contiguous()), rtol=1e-6, atol=0)


def test_padding_of_zeros_gives_zeros_and_finite_gradients() -> None:
    layer, x = _layer(), torch.zeros(3, 128, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert x.grad is not None
    assert out.eq(0).all()
    assert x.grad.isfinite().all()


def test_weights_of_zeros_give_zeros() -> None:
    layer = _layer()
    layer.weight.data.zero_()
    assert layer(_tokens(3, 128)).eq(0).all()


def test_a_token_that_is_not_a_number_stays_one() -> None:
    x = _tokens(3, 128)
    x[1, 5] = torch.nan
    assert _layer()(x).isnan().any(1).tolist() == [False, True, False]


def test_no_tokens_give_no_output() -> None:
    layer, x = _layer(), torch.zeros(0, 7, 128, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert out.shape == (0, 7, 64)
    assert layer.weight.grad is not None
    assert layer.weight.grad.eq(0).all()


def test_the_scale_of_a_token_does_not_matter() -> None:
    layer, x = _layer(), _tokens(40, 128)
    torch.testing.assert_close(layer(x * 1024), layer(x), rtol=1e-5, atol=0)


def test_autocast_changes_only_the_products_of_the_backward_pass() -> None:
    layer, x = _layer(), _tokens(9, 128).requires_grad_()
    layer(x).square().sum().backward()
    assert layer.weight.grad is not None
    expected = layer.weight.grad
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        out.square().sum().backward()
        rounded = layer(x, rounds=True)
    assert out.equal(layer(x))
    assert rounded.equal(out.bfloat16())
    assert layer(x, rounds=True).equal(out)
    assert layer.weight.grad.dtype == torch.float32
    assert 0 < (layer.weight.grad - expected).norm() / expected.norm() < 2**-8  # bf16 rounds by up to 2^-9


def test_half_precision_tokens_give_fp32_and_get_their_own_kind_of_gradient() -> None:
    layer, x = _layer(), _tokens(9, 128).bfloat16().requires_grad_()
    out = layer(x)
    out.sum().backward()
    assert x.grad is not None
    assert (out.dtype, x.grad.dtype) == (torch.float32, torch.bfloat16)
    assert out.equal(layer(x.float()))


def test_the_full_precision_twin_has_the_same_parameters() -> None:
    ternary, full = _layer(), _layer(ternary=False)
    full.load_state_dict(ternary.state_dict())
    x = _tokens(9, 128)
    normal = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(full(x), normal @ ternary.weight.T)


def test_the_twin_is_near_the_ternary_layer() -> None:
    ternary, full, x = _layer(512, 512), _layer(512, 512, ternary=False), _tokens(40, 512)
    # A Gaussian weight and its absmean ternary code correlate at 0.9 (rounding at half the mean magnitude).
    cosine = functional.cosine_similarity(ternary(x), full(x)).mean().item()
    assert cosine == pytest.approx(0.9, abs=0.03)


def test_outputs_start_with_a_variance_of_about_one() -> None:
    assert _layer(512, 512)(_tokens(200, 512)).var().item() == pytest.approx(0.7, abs=0.3)


def test_little_is_kept_for_the_backward_pass() -> None:
    layer, x = _layer(128, 128), _tokens(1000, 128).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    beside_the_input = sum(t.nbytes for t in kept if t.data_ptr() != x.data_ptr())
    # A byte for each of 128 channels and two numbers for each of 1000 tokens, and the weight's codes.
    assert beside_the_input <= 1000 * (128 + 2 * 4) + 128 * 128 + 4


def test_a_layer_learns_through_the_rounding() -> None:
    torch.manual_seed(0)
    layer, x = BitLinear(32, 16), torch.randn(256, 32)
    target = x @ torch.randint(-1, 2, (32, 16)).float() / 32**0.5
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    first = functional.mse_loss(layer(x), target).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = functional.mse_loss(layer(x), target)
        loss.backward()
        optimizer.step()
    assert functional.mse_loss(layer(x), target).item() < 0.1 * first


def test_the_layer_survives_a_state_dict() -> None:
    layer, x = _layer(), _tokens(9, 128)
    loaded = nn.Sequential(BitLinear(128, 64))
    loaded.load_state_dict({"0.weight": layer.weight})
    assert loaded(x).equal(layer(x))


@pytest.mark.parametrize("in_width", [0, WIDEST + 1])
def test_a_width_whose_sums_are_not_exact_is_refused(in_width: int) -> None:
    with pytest.raises(ValueError, match=f"expected an input width from 1 to {WIDEST}, came {in_width}"):
        BitLinear(in_width, 1)


def test_a_compiled_layer_computes_the_same() -> None:
    layer, x = _layer(), _tokens(9, 128)
    assert torch.compile(layer, backend="aot_eager", fullgraph=True)(x).equal(layer(x))
