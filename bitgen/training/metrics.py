"""A run's figures: one JSON object a line in metrics.jsonl, and to Weights & Biases where asked for."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from bitgen.training.checkpoint import write_file
from bitgen.training.config import TrainConfig


class MetricsLog:
    """Appends to `run/metrics.jsonl`; a resumed run first drops the lines after the step that it goes on from."""

    def __init__(self, run: Path, config: TrainConfig, step: int) -> None:
        path = run / "metrics.jsonl"
        write_file(path, "".join(line + "\n" for line in _lines_until(path, step)))
        self._file = path.open("a", encoding="utf-8")
        self._wandb = _start_wandb(run, config) if config.run.wandb else None

    def write(self, step: int, **values: Any) -> None:
        """One line: the step and whatever goes with it."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._wandb is not None:
            self._wandb.log({name: value for name, value in values.items() if name != "event"}, step=step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=int(error is not None))


def _lines_until(path: Path, step: int) -> list[str]:
    """Whole lines of steps up to `step`. A last line that a kill cut short is dropped."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            break
    return kept


def _start_wandb(run: Path, config: TrainConfig) -> Any:
    import wandb  # here: a run without it must not pay for the import

    return wandb.init(
        project="bitgen",
        name=config.run.name,
        dir=os.fspath(run),
        id=config.run.name.replace("/", "-"),
        resume="allow",
        config=json.loads(config.to_json()),
    )
