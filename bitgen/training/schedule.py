"""When what happens, as functions of the step: the learning rate, the thaw of the adapters, the epochs."""

import math
from dataclasses import dataclass

from bitgen.training.config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """A run in steps. An epoch is `samples` draws, rounded up to whole steps."""

    steps_per_epoch: int
    steps: int
    warmup_steps: int
    thaw_step: int
    """The first step whose adapters train; 0 where they do from the start."""

    @staticmethod
    def of(config: TrainConfig, samples: int) -> "Schedule":
        """The schedule of a run over an epoch of `samples` draws."""
        draws = config.optim.batch * config.optim.accumulation
        per_epoch = max(1, math.ceil(samples / draws))
        steps = per_epoch * config.optim.epochs
        frozen = config.phase != "fine" and config.model.vision.mode == "lora"
        thaw = round(config.optim.lora_warmup_epochs * per_epoch) if frozen else 0
        return Schedule(per_epoch, steps, min(config.optim.warmup_steps, max(1, steps // 10)), min(thaw, steps))


def learning_rate_scale(step: int, schedule: Schedule, final: float) -> float:
    """The share of the full rate at `step` (from 0): linear warm-up, then a cosine down to `final`.

    Source: arXiv 1608.03983, without restarts.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps)
    return final + (1 - final) * (1 + math.cos(math.pi * min(1.0, done))) / 2
