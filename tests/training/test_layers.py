"""Layers that are compiled, or computed again for the backward pass, are the same layers: in losses, weights and files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitgen.objectives.total import Objective, draw
from bitgen.training.config import RunConfig, TrainConfig
from bitgen.training.layers import as_written, is_again, prepare_layers
from bitgen.training.optimizer import set_trainable
from bitgen.training.precision import autocast
from tests import fakes
from tests.trainings import after, lines, resume, start, tensors

CPU = torch.device("cpu")
RECOMPUTED = RunConfig(recompute=True)


def _objective(config: TrainConfig, run: RunConfig) -> Objective:
    """Thawed, its adapters as after some training."""
    objective = fakes.objective(config)
    set_trainable(objective, lora=True)
    for _, parameter in objective.model.vision.lora_parameters():
        nn.init.normal_(parameter, std=0.05)
    prepare_layers(objective.model, run)
    return objective.train()


def _backward(objective: Objective, config: TrainConfig) -> tuple[dict[str, Tensor], int]:
    """The loss and every gradient of a micro-step, and the bytes that lie between its two passes, weights and the inputs of
    recomputed layers apart."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(config, CPU):
        loss = objective(fakes.fake_batch(), draw(0, 0, 4, fakes.PATCHES, CPU))["loss"]
    loss.backward()
    gradients = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}, sum(kept.values())


MODELS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "in full precision": {"ternary": False},
    "without gates": {"fusion": "concat"},
    "two feature layers": {"vision": replace(fakes.VISION, random_layers=4, feature_layers=2, lora_layers=3)},
    "full": {"vision": replace(fakes.VISION, mode="full")},
}


@pytest.mark.parametrize(("model", "precision"), [*((name, "fp32") for name in MODELS), ("as it is", "bf16")])
def test_recomputed_layers_give_the_same_bits_and_keep_less(model: str, precision: str) -> None:
    config = fakes.config("joint", model=MODELS[model], run={"precision": precision})
    expected, whole = _backward(_objective(config, RunConfig()), config)
    found, kept = _backward(_objective(config, RECOMPUTED), config)
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not found[name].equal(value)] == []
    head = found["model.text.token.weight"].nbytes  # a gradient that captioning makes in its forward pass
    assert kept - head < 0.4 * (whole - head)


def test_every_layer_runs_twice_and_knows_when_it_is_again() -> None:
    config = fakes.config("joint")
    objective = fakes.objective(config)
    set_trainable(objective, lora=True)
    model = objective.model
    own = [*model.image_layers, *model.text.layers, *model.text.fused_layers, *model.decoder.layers]
    seen: dict[int, list[bool]] = {}
    for number, layer in enumerate([*model.vision.layers(), *own]):
        part = next(
            module
            for module in layer.modules()
            if isinstance(module, nn.LayerNorm | nn.Linear) or hasattr(module, "ternary")
        )
        part.register_forward_pre_hook(lambda *_, n=number: seen.setdefault(n, []).append(is_again()))
    prepare_layers(model, RECOMPUTED)
    _backward(objective.train(), config)
    assert len(seen) == 2 + 1 + 1 + 1 + 1
    assert {
        n: (found.count(False), found.count(True))
        for n, found in seen.items()
        if found.count(False) != found.count(True)
    } == {}
    assert not is_again()


@pytest.mark.parametrize("switch", ["recompute", "compile"])
def test_a_prepared_model_has_the_parameters_and_files_of_any_other(switch: str) -> None:
    model = fakes.model()
    before = list(model.state_dict())
    prepare_layers(model, RunConfig(**{switch: True}))
    assert list(model.state_dict()) == before


def test_a_recomputed_run_is_the_same_run_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    config = fakes.config(run={"recompute": True})
    start(tmp_path / "plain", fakes.config())
    start(tmp_path / "run", config, should_stop=after(5))
    resume(tmp_path / "run", config)
    expected = tensors(tmp_path / "plain")
    assert [name for name, tensor in tensors(tmp_path / "run").items() if not tensor.equal(expected[name])] == []
    assert lines(tmp_path / "run") == lines(tmp_path / "plain")


class _Graphs:
    """In place of the compiler that makes machine code: keeps what it is given, and runs it as it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        compiled = torch.compile
        torch._dynamo.reset()
        monkeypatch.setattr(torch, "compile", lambda forward: compiled(forward, backend=self.make, fullgraph=True))

    def make(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.made += 1
        return graph.forward


def test_a_compiled_run_has_three_graphs_whatever_the_tower_s_depth_and_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = _Graphs(monkeypatch)
    model = {"vision": replace(fakes.VISION, random_layers=4)}
    batches = [fakes.fake_batch(tokens=(16, 32, 64)[step % 3], seed=step) for step in range(8)]
    start(tmp_path / "compiled", fakes.config(model=model, run={"compile": True}), batches)
    assert graphs.made == 3  # before the thaw; after it the lowest layer, and the others
    start(tmp_path / "plain", fakes.config(model=model), batches)
    expected = tensors(tmp_path / "plain")
    assert [name for name, tensor in tensors(tmp_path / "compiled").items() if not tensor.equal(expected[name])] == []


def test_a_validation_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, run = _Graphs(monkeypatch), RunConfig(compile=True)
    tower = fakes.model().vision
    images = fakes.fake_batch().images
    expected = tower(images)
    model = fakes.model()
    prepare_layers(model, run)
    with as_written(run):
        assert model.vision(images[:3]).equal(expected[:3])
    assert graphs.made == 0
    model.vision(images)
    assert graphs.made > 0
