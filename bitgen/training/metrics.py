"""A run's figures: one JSON object a line in metrics.jsonl, and to Weights & Biases where asked for."""

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitgen.batch import Batch
from bitgen.training.checkpoint import write_file
from bitgen.training.config import TrainConfig
from bitgen.training.distributed import agree, mean_over_ranks, world
from bitgen.training.folders import SHOWN

log = logging.getLogger(__name__)


class TrainingError(Exception):
    """The run cannot go on: a loss that is not finite, or a stream that ended."""


def not_finite(figures: Mapping[str, Tensor]) -> list[str]:
    """Names of the scalars that are not; waits for the device."""
    finite = torch.stack([value.float() for value in figures.values()]).isfinite().tolist()
    return [name for name, is_finite in zip(figures, finite, strict=True) if not is_finite]


class Shown(NamedTuple):
    """Pictures of what a model makes of some samples, as pages of HTML."""

    page: str
    """For this machine."""
    may_leave: str
    """For others: without what is under a licence that does not allow that."""


class Meter:
    """Figures of every step since the last reading, kept on the device until then.

    Args:
        stored: what `stored` gave when a checkpoint was written between two readings.
    """

    def __init__(self, stored: Mapping[str, Tensor]) -> None:
        self._figures: dict[str, list[Tensor]] = {name: list(values.unbind()) for name, values in stored.items()}
        self._samples: list[tuple[int, tuple[str, ...]]] = [(0, ())] * max(map(len, stored.values()), default=0)
        self._images = 0
        self._since = time.monotonic()
        self._waited_s = 0.0

    def watched(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time that this rank waits for them counts in `data_wait`."""
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self._waited_s += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def add(self, step: int, figures: Mapping[str, Tensor], keys: tuple[str, ...]) -> None:
        """Scalars of one step by name, and the keys of its images."""
        if self._figures and self._figures.keys() != figures.keys():  # stored by a version that had others
            log.info("figures since the last reading are left out: the checkpoint has %s", ", ".join(self._figures))
            self._figures.clear()
            self._samples.clear()
        for name, value in figures.items():
            self._figures.setdefault(name, []).append(value)
        self._samples.append((step, keys))
        self._images += len(keys)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count in `images_per_s`."""
        start = time.monotonic()
        yield
        self._since += time.monotonic() - start

    def check(self) -> None:
        """Raises `TrainingError`, naming the first step whose figures are not all finite, and its samples; on all ranks where
        one finds such a step, so that none waits for another."""
        broken = {name: (~torch.stack(values).isfinite()).tolist() for name, values in self._figures.items()}
        found = ""
        for row, (step, keys) in enumerate(self._samples):
            names = [name for name, rows in broken.items() if rows[row]]
            if names:
                more = ", ..." if len(keys) > 8 else ""
                found = f"{', '.join(names)} not finite at step {step}: {', '.join(keys[:8])}{more}"
                break
        device = next((values[0].device for values in self._figures.values()), torch.device("cpu"))
        if self._figures and agree(bool(found), device):
            raise TrainingError(f"expected finite losses, found {found or 'some not finite on another rank'}")

    def read(self) -> dict[str, float]:
        """Means since the last reading over steps and ranks; `perplexity`, of the caption tokens of all those steps;
        `images_per_s` of all ranks; `data_wait`, the share of the time, 0..1, in which this rank had no batch to work on.
        Raises as `check`.

        All ranks must call it, and `stored`, together."""
        self.check()
        means = {name: values.mean().item() for name, values in self.stored().items()}
        if "token_nats" in means:
            means["perplexity"] = math.exp(min(means["token_nats"], 700.0))  # a float ends at exp(709)
        now = time.monotonic()
        elapsed_s = max(now - self._since, 1e-9)
        means["images_per_s"], means["data_wait"] = world() * self._images / elapsed_s, self._waited_s / elapsed_s
        self._figures, self._samples, self._images, self._since, self._waited_s = {}, [], 0, now, 0.0
        return means

    def stored(self) -> dict[str, Tensor]:
        """[steps since the last reading] of every figure, means over ranks, for a checkpoint."""
        if not self._figures:
            return {}
        table = mean_over_ranks(torch.stack([torch.stack(values) for values in self._figures.values()]))
        return dict(zip(self._figures, table, strict=True))


class MetricsLog:
    """Appends to `run/metrics.jsonl`; a resumed run first drops the lines after the step that it goes on from.

    One rank has it. What cannot be written is kept in `failed` until `check`, which is called where the others hear of it.
    """

    def __init__(self, run: Path, config: TrainConfig, step: int) -> None:
        self._run = run
        path = run / "metrics.jsonl"
        write_file(path, "".join(line + "\n" for line in _lines_until(path, step)))
        self._file = path.open("a", encoding="utf-8")
        self.failed: OSError | None = None
        self._wandb = _start_wandb(run, config) if config.run.wandb else None

    def write(self, step: int, **values: Any) -> None:
        """One line: the step and whatever goes with it."""
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            error.filename = self._file.name
            self.failed = self.failed or error
        if self._wandb is not None:
            self._wandb.log({name: value for name, value in values.items() if name != "event"}, step=step)

    def check(self) -> None:
        """Raises the first `OSError` of `write`, which names the file."""
        if self.failed is not None:
            raise self.failed

    def show(self, step: int, shown: Shown) -> None:
        """Pictures of a step, below `run/shown/`; to Weights & Biases goes what may leave. Raises `OSError` that names the file."""
        path = self._run / SHOWN / f"step-{step:08d}.html"
        path.parent.mkdir(exist_ok=True)
        write_file(path, shown.page)
        if self._wandb is not None:
            import wandb

            self._wandb.log({"shown": wandb.Html(shown.may_leave, inject=False)}, step=step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError as lost:  # raised, it would end one rank alone; most often a full disk again, which `check` told
            log.warning("figures were lost: %s: %s", lost, self._file.name)
        if self._wandb is not None:
            self._wandb.finish(exit_code=int(error is not None))


class Silence:
    """What ranks other than 0 write their figures and their progress to."""

    failed = None

    def check(self) -> None:
        pass

    def write(self, step: int, **values: object) -> None:
        pass

    def show(self, step: int, shown: Shown) -> None:
        pass

    def update(self, n: int) -> None:
        pass

    def set_postfix_str(self, s: str) -> None:
        pass

    def __enter__(self) -> "Silence":
        return self

    def __exit__(self, *details: object) -> None:
        pass


def _lines_until(path: Path, step: int) -> list[str]:
    """Whole lines from before a checkpoint at `step`: an event of that step comes after it, and comes again. A last line
    that a kill cut short is dropped."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            values = json.loads(line)
            if values["step"] < step + ("event" not in values):
                kept.append(line)
        except (ValueError, TypeError, KeyError):  # a kill cut it short, or it is no line of ours
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
