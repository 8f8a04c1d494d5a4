"""Layers that let image and text see each other, against NumPy in double precision: loops over heads and states."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitgen.model.bitgen import BitGen
from bitgen.model.bitlinear import BitLinear
from bitgen.model.fusion import Attention, Layer, fuse
from tests import fakes

D = fakes.WIDTH
TERNARY = pytest.mark.parametrize("ternary", [False, True])
GATED = pytest.mark.parametrize("gated", [True, False], ids=["gated", "concat"])


def _layers(count: int, gate: float, seed: int, ternary: bool = False, gated: bool = True) -> nn.ModuleList:
    torch.manual_seed(seed)
    layers = nn.ModuleList(Layer(D, 2, 24, ternary, gated) for _ in range(count))
    for layer in layers:
        if isinstance(layer.gate, nn.Parameter):
            nn.init.constant_(layer.gate, gate)
    return layers


def _double(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def _slow_linear(linear: BitLinear, rows: np.ndarray) -> np.ndarray:
    rows = rows / np.sqrt((rows**2).mean(axis=-1, keepdims=True) + 1e-6)
    weight = _double(linear.weight)
    if linear.ternary:
        scale, step = np.abs(weight).mean(), np.abs(rows).max(axis=-1, keepdims=True) / 127
        weight, rows = scale * np.clip(np.rint(weight / scale), -1, 1), step * np.rint(rows / step)
    return rows @ weight.T


def _slow_attention(attention: Attention, states: np.ndarray, context: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """[S, d] of one pair: every head and every state on its own. `visible` [S, C]."""
    query = _slow_linear(attention.query, states)
    both = _slow_linear(attention.key_value, context)
    key, value = both[:, :D], both[:, D:]
    mixed = np.zeros_like(query)
    size = D // attention.heads
    for head in range(attention.heads):
        part = slice(head * size, (head + 1) * size)
        for s in range(len(states)):
            seen = [c for c in range(len(context)) if visible[s, c]]
            weights = [math.exp(query[s, part] @ key[c, part] / math.sqrt(size)) for c in seen]
            mixed[s, part] = sum(
                weight / sum(weights) * value[c, part] for weight, c in zip(weights, seen, strict=True)
            )
    return _slow_linear(attention.output, mixed)


def _slow_layer(layer: Layer, states: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
    """[S, d] of one pair without padding; `context` [C, d], None in dual-encoder mode."""
    seen = states if context is None or layer.gate is not None else np.concatenate([states, context])
    attended = _slow_attention(layer.attention, states, seen, np.ones((len(states), len(seen)), dtype=bool))
    if context is not None and layer.cross_attention is not None and layer.gate is not None:
        visible = np.ones((len(states), len(context)), dtype=bool)
        crossed = _slow_attention(layer.cross_attention, attended, context, visible)
        attended = attended + layer.gate.item() * crossed
    states = states + attended
    hidden = _slow_linear(layer.feed_forward.up, states)
    hidden = hidden * np.vectorize(math.erf)(hidden / math.sqrt(2)) / 2 + hidden / 2
    return states + _slow_linear(layer.feed_forward.down, hidden)


def _attention(ternary: bool) -> Attention:
    layer = _layers(1, 0.0, 0, ternary)[0]
    assert isinstance(layer, Layer)
    return layer.attention


@torch.no_grad()
@TERNARY
def test_attention_is_the_softmax_weighted_mean_of_each_head(ternary: bool) -> None:
    attention = _attention(ternary)
    states, context = fakes.noise(1, 3, D), fakes.noise(1, 4, D, seed=1)
    mask = torch.tensor([[True, False, True, True]])
    expected = _slow_attention(attention, _double(states[0]), _double(context[0]), mask.expand(3, -1).numpy())
    np.testing.assert_allclose(_double(attention(states, context, mask)[0]), expected, rtol=0, atol=1e-5)


@torch.no_grad()
@TERNARY
def test_causal_attention_sees_nothing_later(ternary: bool) -> None:
    attention, states = _attention(ternary), fakes.noise(1, 4, D)
    rows = _double(states[0])
    expected = _slow_attention(attention, rows, rows, np.tri(4, dtype=bool))
    np.testing.assert_allclose(_double(attention(states, states, causal=True)[0]), expected, rtol=0, atol=1e-5)


@torch.no_grad()
@TERNARY
@GATED
def test_fused_blocks_are_their_equations(ternary: bool, gated: bool) -> None:
    """Two blocks, both directions from the states before the block; padding is cut away there instead of masked."""
    image_layers, text_layers = _layers(2, 0.7, 0, ternary, gated), _layers(2, -0.4, 1, ternary, gated)
    image, text = fakes.noise(1, 3, D), fakes.noise(1, 4, D, seed=1)
    found = fuse(image_layers, text_layers, image, text, torch.tensor([[True, True, True, False]]))
    slow_image, slow_text = _double(image[0]), _double(text[0, :3])
    for image_layer, text_layer in zip(image_layers, text_layers, strict=True):
        assert isinstance(image_layer, Layer)
        assert isinstance(text_layer, Layer)
        before = slow_image
        slow_image = _slow_layer(image_layer, slow_image, slow_text)
        slow_text = _slow_layer(text_layer, slow_text, before)
    np.testing.assert_allclose(_double(found[0][0]), slow_image, rtol=0, atol=1e-5)
    np.testing.assert_allclose(_double(found[1][0, :3]), slow_text, rtol=0, atol=1e-5)


@torch.no_grad()
@TERNARY
@GATED
def test_without_a_context_a_layer_is_the_dual_encoders(ternary: bool, gated: bool) -> None:
    layer, states = _layers(1, 0.7, 0, ternary, gated)[0], fakes.noise(1, 3, D)
    assert isinstance(layer, Layer)
    np.testing.assert_allclose(_double(layer(states)[0]), _slow_layer(layer, _double(states[0])), rtol=0, atol=1e-5)


@torch.no_grad()
@TERNARY
@GATED
def test_it_does_not_matter_which_side_comes_first(ternary: bool, gated: bool) -> None:
    one, other = _layers(3, 0.7, 0, ternary, gated), _layers(3, -0.4, 1, ternary, gated)
    image, text, mask = fakes.noise(2, 6, D), fakes.noise(2, 4, D, seed=1), torch.ones(2, 6, dtype=torch.bool)
    fused_image, fused_text = fuse(one, other, image, text, mask[:, :4])
    swapped_text, swapped_image = fuse(other, one, text, image, mask)
    torch.testing.assert_close(swapped_image, fused_image, rtol=0, atol=1e-5)
    torch.testing.assert_close(swapped_text, fused_text, rtol=0, atol=1e-5)


@torch.no_grad()
@TERNARY
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


@torch.no_grad()
@TERNARY
def test_at_gate_0_a_models_fused_states_are_its_dual_ones(ternary: bool) -> None:
    model, batch = fakes.model(ternary=ternary, text_layers=3, fusion_layers=2), fakes.fake_batch(texts=1)
    image, text = model.encode_image(batch.images), model.encode_text(batch.token_ids, batch.token_mask)
    patches, states = model.fuse(image.start, text.start, text.mask)
    assert patches.equal(image.dual)
    assert states.equal(text.dual)


@pytest.mark.parametrize("gate", [0.0, 0.7])
def test_dual_mode_gives_what_only_fusion_uses_no_gradient(gate: float) -> None:
    model, batch = fakes.model(), fakes.fake_batch()
    for parameter in model.gates().values():
        nn.init.constant_(parameter, gate)
    image, text = model.encode_image(batch.images), model.encode_text(batch.token_ids, batch.token_mask)
    (image.embedding.sum() + text.embedding.sum()).backward()
    layers = [("image_layers", model.image_layers), ("text.fused_layers", model.text.fused_layers)]
    without = {f"{side}.{name}" for side, group in layers for name, p in group.named_parameters() if p.grad is None}
    assert without == {
        f"{side}.0.{name}"
        for side, _ in layers
        for name in (
            "gate",
            "cross_attention.query.weight",
            "cross_attention.key_value.weight",
            "cross_attention.output.weight",
        )
    }


def _twins() -> tuple[BitGen, BitGen]:
    """The gated model and the one that concatenates, with the same weights as far as both have them."""
    gated, concat = fakes.model(), fakes.model(fusion="concat")
    concat.load_state_dict({name: gated.state_dict()[name] for name in concat.state_dict()})
    return gated, concat


def test_concatenation_has_the_dual_encoders_parameters_and_no_others() -> None:
    gated, concat = (dict(model.named_parameters()) for model in _twins())
    assert {name for name in gated if name not in concat} == {
        name
        for name in gated
        if name.endswith("layers.0.gate") or ("layers.0.cross_attention." in name and "decoder" not in name)
    }
    assert concat.keys() < gated.keys()


@torch.no_grad()
def test_concatenation_leaves_dual_mode_as_it_is() -> None:
    batch = fakes.fake_batch()
    gated, concat = _twins()
    assert concat.encode_image(batch.images).embedding.equal(gated.encode_image(batch.images).embedding)
    ids, mask = batch.token_ids, batch.token_mask
    assert concat.encode_text(ids, mask).embedding.equal(gated.encode_text(ids, mask).embedding)


@torch.no_grad()
def test_concatenation_sees_the_other_side_from_the_first_step() -> None:
    model, batch = fakes.model(fusion="concat"), fakes.fake_batch()
    image, text = model.encode_image(batch.images), model.encode_text(batch.token_ids, batch.token_mask)
    patches, states = model.fuse(image.start, text.start[batch.first_text], text.mask[batch.first_text])
    assert (patches - image.dual).abs().max() > 1e-2
    assert (states - text.dual[batch.first_text]).abs().max() > 1e-2
    assert model.gates() == {}
