"""Whole runs of `bitgen.training.loop` on fake batches, and what they leave on disk."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from bitgen.batch import Batch
from bitgen.training import checkpoint
from bitgen.training.checkpoint import MODEL, TRAINER
from bitgen.training.config import TrainConfig
from bitgen.training.loop import Result, train
from tests import fakes


def start(run: Path, config: TrainConfig, batches: Iterable[Batch] | None = None, **options: Any) -> Result:
    """Train anew, by default on an endless stream; `options` as `train` takes them."""
    run.mkdir(exist_ok=True)
    objective = fakes.objective(config).to(config.run.device)
    return train(objective, fakes.state(config, objective), batches or fakes.endless(), run, **options)


def resume(run: Path, config: TrainConfig, **options: Any) -> Result:
    """Go on from the last checkpoint, in an objective that started otherwise."""
    folder = checkpoint.find(run, last=True)
    state = replace(checkpoint.read_state(folder), config=config)
    objective = fakes.objective(config, seed=99).to(config.run.device)
    checkpoint.load_weights(objective.model, folder)
    stream = fakes.endless(position=state.position)
    return train(objective, state, stream, run, resume_from=folder, **options)


def after(steps: int) -> Callable[[], bool]:
    """Asks to stop once `steps` steps are done."""
    asked = iter([False] * (steps - 1))
    return lambda: next(asked, True)


def lines(run: Path) -> list[dict[str, Any]]:
    """Figures without the clock's."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in ("images_per_s", "data_wait", "mfu")}
        for line in lines
    ]


def tensors(run: Path) -> dict[str, Tensor]:
    folder = checkpoint.find(run, last=True)
    return load_file(folder / MODEL) | load_file(folder / TRAINER)


def weights_at(run: Path, step: int) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / MODEL)


def figures(*values: float, name: str = "r1") -> Callable[[], tuple[float, dict[str, float]]]:
    """A validation that gives these figures, one after the other."""
    coming = iter(values)

    def validate() -> tuple[float, dict[str, float]]:
        figure = next(coming)
        return figure, {name: figure}

    return validate


PATIENT = {"validate_every": 0.25, "patience": 2, "checkpoint_every": 100, "keep": 1}
"""A validation after every step."""
