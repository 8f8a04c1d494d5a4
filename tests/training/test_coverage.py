"""Which parameters learn: in each phase and mode exactly those that should, all of them, within three steps."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from bitgen.model.vision import Mode
from bitgen.objectives.total import Objective, draw
from bitgen.training.optimizer import build_optimizer, set_trainable
from bitgen.training.phases import Phase
from tests import fakes

TOWER, STOCK = "model.vision.backbone", "the tower's own weights"
FLOOR = 1e-8
"""Below lies what rounding alone makes of a gradient that is 0 on paper."""
KEY_BIASES = ("k_proj.bias", "attention.key.bias")
"""DINOv2's: they add the same to every score of a softmax, so their gradient is 0 on paper."""


def _train(phase: Phase, thawed: bool, mode: Mode, **model: Any) -> tuple[Objective, set[str], set[str]]:
    """After three steps: the objective, the names that had a gradient above the floor, the names that had one at all."""
    config = fakes.config(phase, model={"vision": replace(fakes.VISION, mode=mode), **model})
    objective = fakes.objective(config)
    set_trainable(objective, lora=thawed)
    optimizer = build_optimizer(objective, config.optim)
    learned, touched = set(), set()
    for step in range(3):
        batch = fakes.fake_batch(6, seed=step)
        objective(batch, draw(0, step, 6, fakes.PATCHES, torch.device("cpu")))["loss"].backward()
        gradients = {n: p.grad.abs().max().item() for n, p in objective.named_parameters() if p.grad is not None}
        touched |= gradients.keys()
        learned |= {name for name, largest in gradients.items() if largest > FLOOR}
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return objective, learned, touched


def _named(objective: Objective, *without: str) -> set[str]:
    """All parameters whose names do not contain any of `without`; `STOCK` stands for the tower's own weights."""
    names = [name for name, _ in objective.named_parameters()]
    stock = {name for name in names if STOCK in without and TOWER in name and ".lora_" not in name}
    return {name for name in names if name not in stock and not any(part in name for part in without)}


COARSE, FINE = ("model.grounding.", "model.region_temperature."), ("model.match_",)
"""What a phase's losses do not reach."""
CASES: dict[str, tuple[Phase, bool, Mode, tuple[str, ...]]] = {
    "coarse-frozen-adapters": ("coarse", False, "lora", (TOWER, *COARSE)),
    "coarse-thawed": ("coarse", True, "lora", (STOCK, *COARSE)),
    "fine": ("fine", True, "lora", (STOCK, *FINE)),
    "coarse-frozen-tower": ("coarse", True, "frozen", (TOWER, *COARSE)),
    "coarse-full": ("coarse", True, "full", ("mask_token", *COARSE)),
    "fine-full": ("fine", True, "full", ("mask_token", *FINE)),
}
"""Phase, whether the adapters are thawed, mode, and the parameters that should not learn."""

Trained = tuple[Objective, set[str], set[str], set[str]]


@pytest.fixture(scope="module", params=CASES)
def trained(request: pytest.FixtureRequest) -> Trained:
    """The objective after three steps, and the names that learned, were touched, and should have been."""
    phase, thawed, mode, without = CASES[request.param]
    objective, learned, touched = _train(phase, thawed, mode)
    return objective, learned, touched, _named(objective, *without)


def test_what_should_learn_has_a_gradient(trained: Trained) -> None:
    _, learned, _, expected = trained
    assert {name for name in expected - learned if not name.endswith(KEY_BIASES)} == set()


def test_what_should_not_learn_has_none(trained: Trained) -> None:
    _, _, touched, expected = trained
    assert touched - expected == set()


def test_what_should_learn_is_what_may(trained: Trained) -> None:
    objective, _, _, expected = trained
    assert {name for name, p in objective.named_parameters() if p.requires_grad} == expected


@pytest.mark.parametrize("phase", ["coarse", "fine"])
def test_the_other_fusion_and_pooling_have_no_parameter_that_they_do_not_use(phase: Phase) -> None:
    objective, learned, _ = _train(phase, True, "lora", fusion="concat", text_pooling="end")
    assert {name for name, p in objective.named_parameters() if p.requires_grad} == learned


@pytest.mark.parametrize("phase", ["coarse", "fine"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_steps_gradients_are_finite(phase: Phase, seed: int) -> None:
    config = fakes.config(phase)
    objective = fakes.objective(config, seed)
    set_trainable(objective, lora=True)
    objective(fakes.fake_batch(6, seed=seed), draw(seed, 0, 6, fakes.PATCHES, torch.device("cpu")))["loss"].backward()
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)
