"""The learning rate, the thaw and the epochs, worked by hand."""

from dataclasses import replace

import pytest

from bitgen.training.schedule import Schedule, learning_rate_scale
from tests import fakes

SCHEDULE = Schedule(steps_per_epoch=55, steps=110, warmup_steps=10, thaw_step=0)


@pytest.mark.parametrize(
    ("step", "scale"),
    [
        (0, 0.1),  # the first of ten warm-up steps
        (4, 0.5),
        (9, 1.0),
        (10, 1.0),  # the cosine starts
        (35, 0.1 + 0.9 * (1 + 0.7071067811865476) / 2),
        (60, 0.55),  # half way down
        (85, 0.1 + 0.9 * (1 - 0.7071067811865476) / 2),
        (110, 0.1),
        (500, 0.1),
    ],
)
def test_the_rate_rises_and_then_falls_along_a_cosine(step: int, scale: float) -> None:
    assert learning_rate_scale(step, SCHEDULE, 0.1) == pytest.approx(scale)


def test_without_warm_up_the_rate_starts_at_its_height() -> None:
    assert learning_rate_scale(0, Schedule(1, 100, 0, 0), 0.1) == 1.0


def test_a_final_share_of_0_ends_at_0() -> None:
    assert learning_rate_scale(110, SCHEDULE, 0.0) == pytest.approx(0.0)


@pytest.mark.parametrize(("samples", "steps"), [(24, 3), (25, 4), (32, 4), (1, 1), (7, 1)])
def test_an_epoch_is_rounded_up_to_whole_steps(samples: int, steps: int) -> None:
    config = fakes.config(optim={"batch": 4, "accumulation": 2, "epochs": 5})
    schedule = Schedule.of(config, samples)
    assert (schedule.steps_per_epoch, schedule.steps) == (steps, 5 * steps)


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (3, 3), (10, 10), (1000, 10)])
def test_warm_up_takes_a_tenth_of_the_run_at_most(asked: int, given: int) -> None:
    config = fakes.config(optim={"batch": 4, "epochs": 25, "warmup_steps": asked})
    assert Schedule.of(config, 16).warmup_steps == given


@pytest.mark.parametrize(("epochs", "step"), [(0.0, 0), (1.0, 4), (2.5, 10), (100.0, 32)])
def test_adapters_thaw_after_their_epochs(epochs: float, step: int) -> None:
    config = fakes.config("coarse", optim={"epochs": 8, "lora_warmup_epochs": epochs})
    assert Schedule.of(config, 16).thaw_step == step


def test_in_the_joint_phase_adapters_thaw_as_in_the_coarse_one() -> None:
    joint, coarse = (fakes.config(phase, optim={"lora_warmup_epochs": 1.0}) for phase in ("joint", "coarse"))
    assert Schedule.of(joint, 16).thaw_step == Schedule.of(coarse, 16).thaw_step == 4


def test_in_the_fine_phase_adapters_train_from_the_start() -> None:
    assert Schedule.of(fakes.config("fine", optim={"lora_warmup_epochs": 5.0}), 16).thaw_step == 0


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_without_adapters_nothing_thaws(mode: str) -> None:
    config = fakes.config("coarse", model={"vision": replace(fakes.VISION, mode=mode)})
    assert Schedule.of(config, 16).thaw_step == 0
