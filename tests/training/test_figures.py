"""What is seen of a step beside its losses."""

import math

import pytest
import torch

from bitgen.training.figures import gradient_norms, rates, terminal_line
from bitgen.training.optimizer import build_optimizer, set_trainable
from tests import fakes

CPU = torch.device("cpu")


def test_the_norms_of_the_groups_make_that_of_all() -> None:
    config = fakes.config("fine")
    objective = fakes.objective(config)
    set_trainable(objective, lora=True)
    optimizer = build_optimizer(objective, config.optim)
    for seed, parameter in enumerate(p for p in objective.parameters() if p.requires_grad):
        parameter.grad = fakes.noise(parameter.numel(), seed=seed).view_as(parameter)
    norms = gradient_norms(optimizer, CPU)
    assert sorted(norms) == [f"grad_norm_{name}" for name in ("gate", "lora", "matrix", "ternary", "vector")]
    total = torch.nn.utils.get_total_norm([p.grad for p in objective.parameters() if p.grad is not None])
    assert math.hypot(*(norm.item() for norm in norms.values())) == pytest.approx(total.item(), rel=1e-5)
    adapters = [p.grad.flatten() for _, p in objective.model.vision.lora_parameters() if p.grad is not None]
    assert norms["grad_norm_lora"].item() == pytest.approx(torch.cat(adapters).norm().item(), rel=1e-5)


def test_adapters_that_are_frozen_have_a_norm_of_0() -> None:
    config = fakes.config("coarse")
    objective = fakes.objective(config)
    set_trainable(objective, lora=False)
    assert gradient_norms(build_optimizer(objective, config.optim), CPU)["grad_norm_lora"].item() == 0


def test_every_group_has_its_rate() -> None:
    config = fakes.config("fine", optim={"lr": 1e-3, "gate_lr_scale": 5.0})
    optimizer = build_optimizer(fakes.objective(config), config.optim)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group["scale"]
    assert rates(optimizer)["lr_gate"] == pytest.approx(5e-3)
    assert rates(optimizer)["lr_ternary"] == pytest.approx(1e-3)


def test_the_line_on_the_terminal_has_the_loss_and_its_parts_and_the_pace() -> None:
    values = {"loss": 3.2141, "itc": 2.104, "l1": 0.5, "itm": 0.6331, "images_per_s": 1318.4, "data_wait": 0.021}
    expected = "loss 3.214 (itc 2.104, itm 0.633), lr 2.0e-04, 1,318 images/s, waits 2%"
    assert terminal_line(values, 2e-4) == expected
    assert terminal_line({"images_per_s": 0.35}, 1e-3) == "loss nan, lr 1.0e-03, 0.3 images/s, waits nan%"
