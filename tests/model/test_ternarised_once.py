"""Codes that are kept: made once in a step, never stale, and without a trace in what is trained."""

import copy
import inspect
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitgen.model import bitlinear
from bitgen.model.bitlinear import BitLinear, ternarised_once
from bitgen.training import loop
from bitgen.training.config import TrainConfig
from tests import fakes
from tests.trainings import after, start, weights_at


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each weight, by its address, was ternarised."""
    counts: Counter[int] = Counter()
    really = bitlinear.ternarise

    def counted(weight: Tensor) -> tuple[Tensor, Tensor]:
        counts[weight.data_ptr()] += 1
        return really(weight)

    monkeypatch.setattr(bitlinear, "ternarise", counted)
    return counts


def _layer() -> tuple[BitLinear, Tensor]:
    torch.manual_seed(0)
    return BitLinear(16, 8), fakes.noise(5, 16)


def _config(**changes: dict[str, Any]) -> TrainConfig:
    """Every loss, two micro-steps a step."""
    losses = {"itc": 1.0, "itm": 0.5, "text": 0.5, "grounding": 0.5, "region": 1.0}
    return fakes.config("fine", loss=losses, optim={"accumulation": 2}, **changes)


def _without(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the loop keeps no codes."""
    monkeypatch.setattr(loop, "_step", inspect.unwrap(loop._step))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_weight_is_ternarised_once_in_an_optimizer_step(tmp_path: Path, made: Counter[int], steps: int) -> None:
    config = _config()
    layers = [m for m in fakes.objective(config).modules() if isinstance(m, BitLinear) and m.ternary]
    start(tmp_path, config, should_stop=after(steps))
    assert sorted(made.values()) == [steps] * len(layers)


def test_without_keeping_them_it_would_be_at_every_use(
    tmp_path: Path, made: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _without(monkeypatch)
    start(tmp_path, _config(), should_stop=after(1))
    # Image layers run in dual and in fused mode for matching and for grounding, in both micro-steps.
    assert max(made.values()) >= 2 * 3
    assert min(made.values()) >= 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_is_the_same_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    config = _config(run={"precision": precision, "checkpoint_every": 1, "keep": 100})
    start(tmp_path / "kept", config, should_stop=after(4))
    _without(monkeypatch)
    start(tmp_path / "anew", config, should_stop=after(4))
    for step in (1, 2, 3, 4):
        expected, found = weights_at(tmp_path / "anew", step), weights_at(tmp_path / "kept", step)
        assert [name for name in expected if not found[name].equal(expected[name])] == []


def test_the_steps_that_are_compared_change_codes(tmp_path: Path) -> None:
    start(tmp_path, _config(run={"checkpoint_every": 1, "keep": 100}), should_stop=after(4))
    names = [f"{n}.weight" for n, m in fakes.model().named_modules() if isinstance(m, BitLinear) and m.ternary]
    steps = [weights_at(tmp_path, step) for step in (1, 2, 3, 4)]
    codes = [torch.cat([bitlinear.ternarise(weights[name])[0].flatten() for name in names]) for weights in steps]
    assert all(not a.equal(b) for a, b in pairwise(codes))


def test_gradients_through_kept_codes_are_the_same_bit_for_bit() -> None:
    layer, x = _layer()
    upstream = fakes.noise(5, 8, seed=3)
    with ternarised_once():
        layer(x)
        kept = torch.autograd.grad(layer(x.requires_grad_()), [x, layer.weight], upstream)
    anew = torch.autograd.grad(layer(x), [x, layer.weight], upstream)
    assert all(a.equal(b) for a, b in zip(kept, anew, strict=True))


def test_nothing_is_kept_outside(made: Counter[int]) -> None:
    layer, x = _layer()
    with ternarised_once():
        layer(x)
    layer(x)
    layer(x)
    assert made == {layer.weight.data_ptr(): 3}


@ternarised_once()
def _fail(layer: BitLinear, x: Tensor) -> None:
    layer(x)
    raise KeyError


def test_nothing_is_kept_after_an_error(made: Counter[int]) -> None:
    layer, x = _layer()
    with pytest.raises(KeyError):
        _fail(layer, x)
    layer(x)
    assert made == {layer.weight.data_ptr(): 2}


def _step(optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Callable[[BitLinear], None]:
    def change(layer: BitLinear) -> None:
        layer.weight.grad = fakes.noise(8, 16, seed=7)
        optimizer([layer.weight]).step()

    return change


def _copy(layer: BitLinear) -> None:
    with torch.no_grad():
        layer.weight.copy_(fakes.noise(8, 16, seed=8))


def _copy_in_inference_mode(layer: BitLinear) -> None:
    with torch.inference_mode():
        layer.weight.copy_(fakes.noise(8, 16, seed=8))


def _assign(layer: BitLinear) -> None:
    layer.weight = nn.Parameter(fakes.noise(8, 16, seed=8))


def _assign_values_twice(layer: BitLinear) -> None:
    for seed in (8, 9):  # the second may lie where the first values lay
        layer.weight.data = torch.empty(0)
        layer.weight.data = fakes.noise(8, 16, seed=seed)


CHANGES: dict[str, Callable[[BitLinear], object]] = {
    "AdamW, one by one": _step(lambda p: torch.optim.AdamW(p, lr=0.1, foreach=False)),
    "AdamW, foreach": _step(lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True)),
    "AdamW, fused": _step(lambda p: torch.optim.AdamW(p, lr=0.1, fused=True)),
    "SGD, fused": _step(lambda p: torch.optim.SGD(p, lr=0.1, fused=True)),
    "load_state_dict": lambda layer: layer.load_state_dict({"weight": fakes.noise(8, 16, seed=8)}),
    "load_state_dict by assignment": lambda layer: layer.load_state_dict(
        {"weight": fakes.noise(8, 16, seed=8)}, assign=True
    ),
    "copy_": _copy,
    "copy_ in inference mode": _copy_in_inference_mode,
    "an initialisation": lambda layer: nn.init.normal_(layer.weight),
    "a new parameter": _assign,
    "new values, twice": _assign_values_twice,
    "another type": lambda layer: layer.bfloat16(),
    "there and back": lambda layer: layer.bfloat16().float(),
    "shared memory": lambda layer: layer.share_memory(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_weight_is_ternarised_anew(change: Callable[[BitLinear], object]) -> None:
    layer, x = _layer()
    with ternarised_once():
        layer(x)
        change(layer)
        found = layer(x)
    assert found.equal(layer(x))


def test_a_copy_of_a_layer_has_codes_of_its_own() -> None:
    layer, x = _layer()
    with ternarised_once():
        before = layer(x)
        other = copy.deepcopy(layer)
        with torch.no_grad():
            other.weight.neg_()
        assert other(x).equal(-before)
        assert layer(x).equal(before)


def test_layers_that_share_a_weight_share_its_codes(made: Counter[int]) -> None:
    (layer, x), other = _layer(), BitLinear(16, 8)
    other.weight = layer.weight
    with ternarised_once():
        assert other(x).equal(layer(x))
    assert made == {layer.weight.data_ptr(): 1}


@torch.no_grad()
def _of_seed(seed: int, x: Tensor) -> Tensor:
    """The output of a layer that is gone afterwards: without gradients, nothing holds its weight."""
    torch.manual_seed(seed)
    return BitLinear(16, 8)(x)


def test_a_weight_that_comes_where_another_lay_is_not_taken_for_it() -> None:
    x = fakes.noise(5, 16)
    with ternarised_once():
        found = [_of_seed(seed, x) for seed in range(20)]
    assert all(out.equal(_of_seed(seed, x)) for seed, out in enumerate(found))


def test_codes_made_in_inference_mode_serve_a_backward_pass() -> None:
    layer, x = _layer()
    with ternarised_once():
        with torch.inference_mode():
            layer(x)
        layer(x).sum().backward()
    assert layer.weight.grad is not None


def test_a_weight_made_in_inference_mode_is_never_kept(made: Counter[int]) -> None:
    with torch.inference_mode(), ternarised_once():
        layer, x = _layer()
        before = layer(x)
        layer.weight.neg_()
        assert layer(x).equal(-before)
    assert list(made.values()) == [2]


def test_a_compiled_layer_follows_its_weight() -> None:
    layer, x = _layer()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with ternarised_once():
        layer(x)
        before = compiled(x)
        with torch.no_grad():
            layer.weight.neg_()
        assert compiled(x).equal(-before)
