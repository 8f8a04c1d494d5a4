"""What trains in a phase, and in which of the optimizer's groups."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bitgen.model.bitlinear import BitLinear
from bitgen.objectives.total import Objective
from bitgen.training.optimizer import build_optimizer, set_trainable
from bitgen.training.phases import Phase
from tests import fakes


def _groups(phase: Phase, thawed: bool = True, mode: str = "lora") -> tuple[Objective, dict[str, str]]:
    """The objective and, by parameter name, the group that holds it."""
    config = fakes.config(phase, model={"vision": replace(fakes.VISION, mode=mode)})
    objective = fakes.objective(config)
    set_trainable(objective, lora=thawed)
    names = {id(p): name for name, p in objective.named_parameters()}
    groups = build_optimizer(objective, config.optim).param_groups
    placed = [(names[id(p)], group["name"]) for group in groups for p in group["params"]]
    assert len(placed) == len(dict(placed)), "a parameter stands in two groups"
    return objective, dict(placed)


@pytest.mark.parametrize("phase", ["coarse", "fine"])
@pytest.mark.parametrize("mode", ["lora", "frozen", "full"])
def test_every_parameter_that_trains_is_in_exactly_one_group(phase: Phase, mode: str) -> None:
    objective, groups = _groups(phase, mode=mode)
    assert groups.keys() == {name for name, p in objective.named_parameters() if p.requires_grad}


def test_adapters_are_there_before_the_thaw() -> None:
    _, frozen = _groups("coarse", thawed=False)
    _, thawed = _groups("coarse", thawed=True)
    assert frozen == thawed


def test_ternary_weights_are_those_of_ternary_layers() -> None:
    objective, groups = _groups("coarse")
    expected = {
        f"{name}.weight"
        for name, m in objective.named_modules()
        if isinstance(m, BitLinear) and "grounding" not in name
    }
    assert {name for name, group in groups.items() if group == "ternary"} == expected


def test_adapters_are_a_group_of_their_own() -> None:
    _, groups = _groups("coarse")
    assert {name for name, group in groups.items() if group == "lora"} == {n for n in groups if ".lora_" in n}


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("phase", ["coarse", "fine"])
def test_norms_embeddings_gates_temperatures_and_vectors_do_not_decay(phase: Phase, mode: str) -> None:
    objective, groups = _groups(phase, mode=mode)
    kinds = (nn.LayerNorm, nn.Embedding)
    exempt = {
        f"{name}.{p}" for name, m in objective.named_modules() if isinstance(m, kinds) for p, _ in m.named_parameters()
    }
    exempt |= {name for name, p in objective.named_parameters() if p.ndim < 2}
    exempt |= {name for name, _ in objective.named_parameters() if name.endswith(("_embeddings", "cls_token"))}
    exempt |= {"model.memory.prior_mean"}
    assert {name for name, group in groups.items() if group in ("vector", "gate")} == exempt & groups.keys()


def test_gates_are_a_group_of_their_own() -> None:
    _, groups = _groups("coarse")
    names = {"model.image_layers.0.gate", "model.text.fused_layers.0.gate"}
    assert {name for name, group in groups.items() if group == "gate"} == names


def test_groups_carry_their_decay_and_their_scale() -> None:
    config = fakes.config(
        optim={"weight_decay": 0.3, "ternary_lr_scale": 2.0, "lora_lr_scale": 5.0, "gate_lr_scale": 7.0}
    )
    objective = fakes.objective(config)
    set_trainable(objective, lora=True)
    groups = build_optimizer(objective, config.optim).param_groups
    assert {group["name"]: (group["weight_decay"], group["scale"]) for group in groups} == {
        "ternary": (0.3, 2.0),
        "matrix": (0.3, 1.0),
        "vector": (0.0, 1.0),
        "gate": (0.0, 7.0),
        "lora": (0.3, 5.0),
    }


def test_adapters_without_a_gradient_have_no_moments() -> None:
    config = fakes.config()
    objective = fakes.objective(config)
    set_trainable(objective, lora=False)
    optimizer = build_optimizer(objective, config.optim)
    for p in objective.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer.step()
    assert {name for name, p in objective.named_parameters() if p in optimizer.state} == {
        name for name, p in objective.named_parameters() if p.requires_grad
    }


def test_a_phase_can_be_left_again() -> None:
    objective = fakes.objective(fakes.config("coarse"))
    set_trainable(objective, lora=True)
    thawed = {name for name, p in objective.named_parameters() if p.requires_grad}
    set_trainable(objective, lora=False)
    assert thawed - {name for name, p in objective.named_parameters() if p.requires_grad} == {
        name for name in thawed if ".lora_" in name
    }
