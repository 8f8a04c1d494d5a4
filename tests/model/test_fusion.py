"""Layers that exchange cross-attention, against loops over heads and states."""

import math

import pytest
import torch
from torch import Tensor, nn

from bitgen.model.fusion import Attention, Layer, fuse
from tests import fakes

D = fakes.WIDTH


def _layers(count: int, gate: float, seed: int, ternary: bool = False) -> nn.ModuleList:
    torch.manual_seed(seed)
    layers = nn.ModuleList(Layer(D, 2, 24, ternary, fused=True) for _ in range(count))
    for layer in layers:
        assert isinstance(layer.gate, nn.Parameter)
        nn.init.constant_(layer.gate, gate)
    return layers


def _normalised(rows: Tensor) -> Tensor:
    return rows / (rows.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()


def _slow_attention(attention: Attention, states: Tensor, context: Tensor, visible: Tensor) -> Tensor:
    """[S, d] of one pair in double precision: every head and every state on its own."""
    query = _normalised(states.double()) @ attention.query.weight.double().T
    both = _normalised(context.double()) @ attention.key_value.weight.double().T
    key, value = both[:, :D], both[:, D:]
    mixed = torch.zeros_like(query)
    size = D // attention.heads
    for head in range(attention.heads):
        part = slice(head * size, (head + 1) * size)
        for s in range(states.shape[0]):
            seen = [c for c in range(context.shape[0]) if visible[s, c]]
            weights = [math.exp(float(query[s, part] @ key[c, part]) / math.sqrt(size)) for c in seen]
            for weight, c in zip(weights, seen, strict=True):
                mixed[s, part] += weight / sum(weights) * value[c, part]
    return _normalised(mixed) @ attention.output.weight.double().T


def _slow_layer(layer: Layer, states: Tensor, context: Tensor | None, visible: Tensor | None) -> Tensor:
    assert isinstance(layer.gate, nn.Parameter)
    everything = torch.ones(states.shape[0], states.shape[0], dtype=torch.bool)
    attended = _slow_attention(layer.attention, states, states, everything)
    if context is not None and visible is not None:
        assert layer.cross_attention is not None
        attended = attended + layer.gate.double() * _slow_attention(layer.cross_attention, attended, context, visible)
    states = states.double() + attended
    hidden = nn.functional.gelu(_normalised(states) @ layer.feed_forward.up.weight.double().T)
    return states + _normalised(hidden) @ layer.feed_forward.down.weight.double().T


@torch.no_grad()
def test_attention_is_the_softmax_weighted_mean_of_each_head() -> None:
    attention = _layers(1, 0.0, seed=0)[0].attention
    states, context = fakes.noise(1, 3, D), fakes.noise(1, 4, D, seed=1)
    mask = torch.tensor([[True, False, True, True]])
    expected = _slow_attention(attention, states[0], context[0], mask.expand(3, -1))  # pyright: ignore
    torch.testing.assert_close(attention(states, context, mask)[0].double(), expected, rtol=0, atol=1e-5)  # pyright: ignore


@torch.no_grad()
def test_causal_attention_sees_nothing_later() -> None:
    attention = _layers(1, 0.0, seed=0)[0].attention
    states = fakes.noise(1, 4, D)
    expected = _slow_attention(attention, states[0], states[0], torch.ones(4, 4, dtype=torch.bool).tril())  # pyright: ignore
    torch.testing.assert_close(attention(states, states, causal=True)[0].double(), expected, rtol=0, atol=1e-5)  # pyright: ignore


@torch.no_grad()
def test_a_fused_layer_adds_gated_cross_attention_of_the_attended_states() -> None:
    layer = _layers(1, 0.7, seed=0)[0]
    states, context = fakes.noise(1, 3, D), fakes.noise(1, 4, D, seed=1)
    mask = torch.tensor([[True, True, False, True]])
    expected = _slow_layer(layer, states[0], context[0], mask.expand(3, -1))  # pyright: ignore
    torch.testing.assert_close(layer(states, None, context, mask)[0].double(), expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("ternary", [False, True])
def test_at_gate_0_fusion_is_the_dual_encoder(ternary: bool) -> None:
    image_layers, text_layers = _layers(2, 0.0, 0, ternary), _layers(2, 0.0, 1, ternary)
    image, text, mask = fakes.noise(2, 6, D), fakes.noise(2, 4, D, seed=1), torch.ones(2, 4, dtype=torch.bool)
    fused_image, fused_text = fuse(image_layers, text_layers, image, text, mask)
    for image_layer, text_layer in zip(image_layers, text_layers, strict=True):
        image, text = image_layer(image), text_layer(text, mask)
    assert fused_image.equal(image)
    assert fused_text.equal(text)


def test_every_gate_starts_at_exactly_0() -> None:
    assert {name: gate.item() for name, gate in fakes.model().gates().items()} == {"gate_image_0": 0, "gate_text_0": 0}


@torch.no_grad()
def test_both_directions_read_the_states_from_before_the_block() -> None:
    image_layers, text_layers = _layers(2, 0.7, 0), _layers(2, -0.4, 1)
    image, text = fakes.noise(1, 3, D), fakes.noise(1, 4, D, seed=1)
    mask = torch.tensor([[True, True, True, False]])
    found = fuse(image_layers, text_layers, image, text, mask)
    slow_image, slow_text = image[0].double(), text[0, :3].double()  # padding is cut away instead of masked
    for image_layer, text_layer in zip(image_layers, text_layers, strict=True):
        assert isinstance(image_layer, Layer)
        assert isinstance(text_layer, Layer)
        before = slow_image
        slow_image = _slow_layer(image_layer, slow_image, slow_text, torch.ones(3, 3, dtype=torch.bool))
        slow_text = _slow_layer(text_layer, slow_text, before, torch.ones(3, 3, dtype=torch.bool))
    torch.testing.assert_close(found[0][0].double(), slow_image, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1][0, :3].double(), slow_text, rtol=0, atol=1e-5)


def test_dual_mode_never_calls_cross_attention() -> None:
    model, batch = fakes.model(), fakes.fake_batch()
    calls: list[str] = []
    for layer in [*model.image_layers, *model.text.fused_layers]:
        assert isinstance(layer.cross_attention, nn.Module)
        layer.cross_attention.register_forward_hook(lambda *_: calls.append("cross-attention"))
    image, text = model.encode_image(batch.images), model.encode_text(batch.token_ids, batch.token_mask)
    model.caption(image, 2)
    assert calls == []
    model.match(image, text, torch.tensor([0]), torch.tensor([0]))
    assert calls == ["cross-attention"] * 2


def test_at_gate_0_only_the_gate_learns_of_cross_attention() -> None:
    layer = _layers(1, 0.0, seed=0)[0]
    layer(fakes.noise(1, 3, D), None, fakes.noise(1, 4, D, seed=1), None).square().sum().backward()
    assert isinstance(layer.gate, nn.Parameter)
    assert layer.gate.grad is not None
    assert layer.gate.grad.abs() > 1e-3
    assert {float(p.grad.abs().max()) for p in layer.cross_attention.parameters()} == {0.0}  # pyright: ignore
