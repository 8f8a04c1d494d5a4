"""Numbers become a gradient step: the loop over batches of one phase.

A step is `accumulation` micro-steps. Every random choice follows from (seed, micro-step, row), the learning rate and the
thaw from the step, and the samples from the position: so a run that stopped goes on from its last checkpoint as if it had
not, bit for bit on a CPU.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from bitgen.batch import Batch
from bitgen.objectives.total import Objective, draw
from bitgen.training.checkpoint import State, load_trainer, prune, save
from bitgen.training.config import TrainConfig
from bitgen.training.distributed import agree, rank
from bitgen.training.metrics import MetricsLog
from bitgen.training.optimizer import build_optimizer, set_trainable
from bitgen.training.schedule import Schedule, learning_rate_scale

log = logging.getLogger(__name__)

Validate = Callable[[], tuple[float, dict[str, float]]]
"""Gives the figure that decides (more is better) and all figures by name."""


class TrainingError(Exception):
    """The run cannot go on: a loss that is not finite, or a stream that ended."""


@dataclass(frozen=True)
class Result:
    state: State
    reason: str
    """Why the run ended: `done`, `patience` or `stopped`."""
    checkpoint: Path


def train(
    objective: Objective,
    state: State,
    batches: Iterable[Batch],
    run: Path,
    *,
    resume_from: Path | None = None,
    validate: Validate | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train from `state` to the end of the phase; returns where the run stands and its last checkpoint.

    Args:
        objective: on its device, its weights loaded.
        state: step 0, or that of a checkpoint.
        batches: this rank's micro-batches from `state.position` on; never-ending.
        run: the run's folder.
        resume_from: the checkpoint whose optimizer moments and queue to go on with.
        validate: called every `run.validate_every` epochs, on rank 0.
        should_stop: asked after every step; when true the run saves and ends.

    Raises:
        TrainingError: a loss is not finite, or `batches` ended early. Checkpoints written before are whole.
    """
    config = state.config
    device = next(objective.parameters()).device
    schedule = Schedule.of(config, state.samples_per_epoch)
    set_trainable(objective, lora=state.step >= schedule.thaw_step)
    optimizer = build_optimizer(objective, config.optim)
    if resume_from is not None:
        load_trainer(objective, optimizer, resume_from)
    module = _wrap(objective)
    objective.train()
    stream = iter(batches)
    leads = rank() == 0
    every = round(config.run.validate_every * schedule.steps_per_epoch)
    bar = tqdm(total=schedule.steps, initial=state.step, unit="step", desc=config.phase, disable=not leads)
    reason, checkpoint = "done", resume_from or run
    with MetricsLog(run, config, state.step) if leads else _Silence() as metrics, bar:
        meter = _Meter()
        while state.step < schedule.steps:
            if state.step == schedule.thaw_step and schedule.thaw_step:
                module = _thaw(objective, state.step, metrics)
            rate = _set_rate(optimizer, config, state.step, schedule)
            parts, norm, keys, images = _step(module, objective, optimizer, stream, config, state.step, device)
            state = replace(
                state, step=state.step + 1, position=state.position + config.optim.batch * config.optim.accumulation
            )
            meter.add(parts, norm, images)
            bar.update()
            last = state.step == schedule.steps
            if state.step % config.run.log_every == 0 or last:
                values = meter.read()
                _check_finite(values, state.step, keys)
                bar.set_postfix(loss=f"{values['loss']:.3f}")
                gates = {name: gate.item() for name, gate in objective.model.gates().items()}
                epoch = state.step / schedule.steps_per_epoch
                metrics.write(state.step, epoch=epoch, lr=rate, **values, **gates)
            if validate is not None and every and (state.step % every == 0 or last):
                state = _validate(validate, state, objective, metrics)
            stops = agree(should_stop(), device)
            exhausted = bool(config.run.patience) and state.validations_without_better >= config.run.patience
            if (
                last
                or stops
                or exhausted
                or state.step % config.run.checkpoint_every == 0
                or state.best_step == state.step
            ):
                checkpoint = _save(run, objective, optimizer, state, leads)
            if (stops or exhausted) and not last:
                reason = "patience" if exhausted else "stopped"
                break
    return Result(state, reason, checkpoint)


def _step(
    module: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    stream: Iterator[Batch],
    config: TrainConfig,
    step: int,
    device: torch.device,
) -> tuple[dict[str, Tensor], Tensor, tuple[str, ...], int]:
    """One optimizer step: mean losses by name, gradient norm before clipping, the keys and number of images it saw."""
    accumulation = config.optim.accumulation
    total: dict[str, Tensor] = {}
    keys: tuple[str, ...] = ()
    patches = (config.data.image_px // objective.model.vision.patch_px) ** 2
    for micro in range(accumulation):
        batch = next(stream, None)
        if batch is None:
            raise TrainingError(f"expected batches without end, found none at step {step}, micro-step {micro}")
        keys += batch.keys
        draws = draw(config.run.seed, step * accumulation + micro, len(batch.keys), patches, device)
        with precision(config, device):
            parts = module(to_device(batch, device), draws)
        (parts["loss"] / accumulation).backward()
        for name, value in parts.items():
            total[name] = total.get(name, 0) + value.detach() / accumulation
    norm = nn.utils.clip_grad_norm_([p for p in objective.parameters() if p.requires_grad], config.optim.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, norm, keys, len(keys)


def precision(config: TrainConfig, device: torch.device) -> torch.autocast:
    """The autocast that `run.precision` asks for; `auto` is bfloat16 on an accelerator that has it, float32 elsewhere."""
    wanted = config.run.precision
    if wanted == "auto":
        wanted = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted == "bf16")


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with its tensors on `device`, copied without waiting."""
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch) if isinstance(getattr(batch, f.name), Tensor)}
    return replace(batch, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})


def _wrap(objective: Objective) -> nn.Module:
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return objective
    # The queue is a buffer that every rank fills alike; broadcasting it would only hide a rank that does not.
    return DistributedDataParallel(objective, broadcast_buffers=False)


def _thaw(objective: Objective, step: int, metrics: "MetricsLog | _Silence") -> nn.Module:
    before = trained_parameters(objective)
    set_trainable(objective, lora=True)
    after = trained_parameters(objective)
    event = f"LoRA thawed at step {step}: trained parameters {before:,} -> {after:,}"
    log.info(event)
    metrics.write(step, event=event)
    return _wrap(objective)


def trained_parameters(module: nn.Module) -> int:
    """How many numbers receive a gradient now."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _set_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, schedule: Schedule) -> float:
    rate = config.optim.lr * learning_rate_scale(step, schedule, config.optim.lr_final)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    return rate


def _validate(validate: Validate, state: State, objective: Objective, metrics: "MetricsLog | _Silence") -> State:
    objective.eval()
    figure, values = validate()
    objective.train()
    metrics.write(state.step, **{f"validation_{name}": value for name, value in values.items()})
    if state.best_figure is None or figure > state.best_figure:
        return replace(state, best_figure=figure, best_step=state.step, validations_without_better=0)
    return replace(state, validations_without_better=state.validations_without_better + 1)


def _save(run: Path, objective: Objective, optimizer: torch.optim.Optimizer, state: State, leads: bool) -> Path:
    folder = run / "checkpoints" / f"step-{state.step:08d}"
    if leads:
        folder = save(run, objective, optimizer, state)
        prune(run, state.config.run.keep, state.best_step)
    return folder


def _check_finite(values: dict[str, float], step: int, keys: tuple[str, ...]) -> None:
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"expected finite losses, found {', '.join(broken)} that are not, by step {step}; "
            f"the last step's samples: {', '.join(keys[:8])}, ..."
        )


class _Meter:
    """Means since the last reading, kept on the device until then."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._images = 0
        self._since = time.monotonic()

    def add(self, parts: dict[str, Tensor], norm: Tensor, images: int) -> None:
        for name, value in {**parts, "grad_norm": norm}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
            self._counts[name] = self._counts.get(name, 0) + 1
        self._images += images

    def read(self) -> dict[str, float]:
        values = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        now = time.monotonic()
        values["images_per_s"] = self._images / max(now - self._since, 1e-9)
        self._sums, self._counts, self._images, self._since = {}, {}, 0, now
        return values


class _Silence:
    """What ranks other than 0 write their figures to."""

    def write(self, step: int, **values: object) -> None:
        pass

    def __enter__(self) -> "_Silence":
        return self

    def __exit__(self, *details: object) -> None:
        pass
