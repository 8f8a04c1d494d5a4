"""Numbers become a gradient step: the loop over batches of one phase.

A step is `accumulation` micro-steps. Every random choice follows from (seed, micro-step, row), the learning rate and the
thaw from the step, and the samples from the position: so a run that stopped goes on from its last checkpoint as if it had
not, bit for bit on a CPU.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bitgen.batch import Batch
from bitgen.model.bitlinear import ternarised_once
from bitgen.objectives.total import Objective, draw
from bitgen.progress import progress
from bitgen.training.checkpoint import State, load_trainer, prune, save
from bitgen.training.config import TrainConfig
from bitgen.training.distributed import agree, from_first, is_distributed, rank, together, world
from bitgen.training.figures import gradient_norms, rates, terminal_line
from bitgen.training.graphs import Graphs, build_graphs
from bitgen.training.guard import Guard
from bitgen.training.layers import as_written, prepare_layers
from bitgen.training.metrics import Meter, MetricsLog, Shown, Silence, TrainingError
from bitgen.training.operations import Utilisation
from bitgen.training.optimizer import build_optimizer, set_trainable
from bitgen.training.precision import autocast
from bitgen.training.schedule import Schedule, learning_rate_scale

log = logging.getLogger(__name__)

HOST = torch.device("cpu")
"""Where ranks agree after every step: an accelerator would be waited for."""
Validate = Callable[[], tuple[float, dict[str, float]]]
"""Gives the figure that decides (more is better) and all figures by name."""
Show = Callable[[int], Shown]
"""Gives the pictures of a step."""


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
    show: Show | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train from `state` to the end of the phase; returns where the run stands and its last checkpoint.

    Args:
        objective: on its device, its weights loaded.
        state: step 0, or that of a checkpoint.
        batches: this rank's micro-batches from `state.position` on; never-ending.
        run: the run's folder.
        resume_from: the checkpoint whose optimizer moments and queues to go on with.
        validate: called every `run.validate_every` epochs, on rank 0.
        show: gives pictures of what the model makes of some samples; called every `run.show_every` steps, on rank 0.
        should_stop: asked after every step; when true the run saves and ends.

    Raises:
        TrainingError: a loss is not finite, or `batches` ended early.
        CheckpointError: a checkpoint could not be written.
        OSError: metrics.jsonl could not be written; where possible there is a checkpoint of its last step.
        RankError: another rank raised one of these, or what `batches`, `validate` or `show` raise.

    In every case all ranks raise, and the checkpoints written before are whole.
    """
    config = state.config
    device = next(objective.parameters()).device
    schedule = Schedule.of(config, state.samples_per_epoch)
    # A checkpoint of the thaw's own step was written before it: adapters have no moments yet, and the event comes again.
    set_trainable(objective, lora=state.step > schedule.thaw_step or schedule.thaw_step == 0)
    optimizer = build_optimizer(objective, config.optim)
    guard = Guard(objective, config.optim.skip_nonfinite)
    meter = Meter(load_trainer(objective, optimizer, resume_from) if resume_from is not None else {})
    prepare_layers(objective.model, config.run)
    module = _wrap(objective)
    graphs = build_graphs(objective, config, device)
    objective.train()
    leads = rank() == 0
    utilisation = Utilisation(device) if leads else None
    stream = meter.watched(iter(batches))
    with together():
        # A kill may have come between the last checkpoint and what is noted of it.
        if resume_from is not None and leads:
            prune(run, config.run.keep, state.best_step)
        metrics = MetricsLog(run, config, state.step) if leads else Silence()
    every = round(config.run.validate_every * schedule.steps_per_epoch)
    reason, checkpoint = "done", resume_from or run
    exhausted = _is_exhausted(state)
    with (
        metrics,
        progress(config.phase, schedule.steps, "steps", state.step) if leads else Silence() as bar,
    ):
        while state.step < schedule.steps and not exhausted:
            if state.step == schedule.thaw_step and schedule.thaw_step:
                module = _thaw(objective, state.step, metrics)
            rate = _set_rate(optimizer, config, state.step, schedule)
            parts, keys, is_left_out = _step(
                module, objective, optimizer, stream, config, state.step, device, guard, utilisation, graphs
            )
            state = replace(
                state, step=state.step + 1, position=state.position + config.optim.batch * config.optim.accumulation
            )
            if is_left_out:
                state = guard.count(state, parts, keys)
                metrics.write(state.step, skipped=state.skipped)
            else:
                state = replace(state, skipped_in_a_row=0)
                meter.add(state.step, parts, keys)
            bar.update(1)
            last = state.step == schedule.steps
            if state.step % config.run.log_every == 0 or last:
                values = meter.read()
                if utilisation is not None:
                    values |= utilisation.read(values["images_per_s"] / world())
                bar.set_postfix_str(terminal_line(values, rate))
                gates = {name: gate.item() for name, gate in objective.model.gates().items()}
                epoch = state.step / schedule.steps_per_epoch
                metrics.write(state.step, epoch=epoch, lr=rate, **rates(optimizer), **values, **gates)
            if validate is not None and every and (state.step % every == 0 or last):
                with meter.paused():
                    state = _validate(validate, state, objective, metrics)
            if config.run.show_every and state.step % config.run.show_every == 0:
                with meter.paused():
                    _show(show, state, objective, metrics)
            stops = agree(should_stop() or metrics.failed is not None, HOST)
            exhausted = _is_exhausted(state)
            is_due = state.step % config.run.checkpoint_every == 0 or state.best_step == state.step
            if is_due or last or stops or exhausted:
                with meter.paused():
                    checkpoint = _save(run, objective, optimizer, state, meter, metrics)
            if stops and not last:
                reason = "stopped"
                break
    if exhausted and state.step < schedule.steps:
        reason = "patience"
    return Result(state, reason, checkpoint)


@ternarised_once()
def _step(
    module: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    stream: Iterator[Batch],
    config: TrainConfig,
    step: int,
    device: torch.device,
    guard: Guard,
    utilisation: Utilisation | None = None,
    graphs: Graphs | None = None,
) -> tuple[dict[str, Tensor], tuple[str, ...], bool]:
    """One optimizer step: figures by name, the keys of the images it saw, and whether `guard` had it left out.

    The figures are the mean over the micro-steps of what the objective gives (`queue_age` in steps), the gradient's norm before
    clipping, whole and by group, and for each reason of `Batch.dropped` how many this rank left out in the step.
    """
    guard.begin()
    accumulation = config.optim.accumulation
    total: dict[str, Tensor] = {}
    keys: tuple[str, ...] = ()
    patches = (config.data.image_px // objective.model.vision.patch_px) ** 2
    trains_tower = any(p.requires_grad for p in objective.model.vision.parameters())
    for micro in range(accumulation):
        with together():
            batch = next(stream, None)
            if batch is None:
                raise TrainingError(f"expected batches without end, found none at step {step}, micro-step {micro}")
        keys += batch.keys
        draws = draw(config.run.seed, step * accumulation + micro, len(batch.keys), patches, device)
        counting = utilisation.of(batch, trains_tower) if utilisation is not None else nullcontext()
        with _reducing(module, micro == accumulation - 1), counting:
            if graphs is not None:
                parts = graphs(batch, draws)
            else:
                with autocast(config, device):
                    parts = module(to_device(batch, device), draws)
                (parts["loss"] / accumulation).backward()
        for name, value in parts.items():
            total[name] = total.get(name, 0) + value.detach() / accumulation
        for reason, count in batch.dropped.items():
            name = f"dropped_{reason}"
            total[name] = total.get(name, 0) + torch.full((), float(count), device=device)  # no copy to wait for
    if "queue_age" in total:  # which the queue counts in micro-steps
        total["queue_age"] /= accumulation
    norms = gradient_norms(optimizer, device)
    norm = nn.utils.clip_grad_norm_([p for p in objective.parameters() if p.requires_grad], config.optim.clip)
    figures = {**total, **norms, "grad_norm": norm.detach()}
    is_left_out = guard.refuses(figures)
    if not is_left_out:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return figures, keys, is_left_out


def _reducing(module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Ranks sum their gradients in the last micro-step of a step only."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) and not is_last else nullcontext()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with its tensors on `device`, copied without waiting where they are page-locked."""
    return batch.moved(lambda tensor: tensor.to(device, non_blocking=True))


def _wrap(objective: Objective) -> nn.Module:
    if not is_distributed():
        return objective
    # A queue is a buffer that every rank fills alike; broadcasting it would only hide a rank that does not.
    return DistributedDataParallel(objective, broadcast_buffers=False)


def _thaw(objective: Objective, step: int, metrics: MetricsLog | Silence) -> nn.Module:
    before = trained_parameters(objective)
    set_trainable(objective, lora=True)
    after = trained_parameters(objective)
    event = f"LoRA thawed at step {step}: trained parameters {before:,} -> {after:,}"
    if rank() == 0:
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


def _validate(validate: Validate, state: State, objective: Objective, metrics: MetricsLog | Silence) -> State:
    objective.eval()
    # One rank measures and all take its word: figures that differ in the last digit would part the ranks' ways.
    with together(), as_written(state.config.run):
        figure, values = validate() if rank() == 0 else (0.0, {})
    figure = from_first(figure, next(objective.parameters()).device)
    objective.train()
    metrics.write(state.step, **{f"validation_{name}": value for name, value in values.items()})
    if state.best_figure is None or figure > state.best_figure:
        return replace(state, best_figure=figure, best_step=state.step, validations_without_better=0)
    return replace(state, validations_without_better=state.validations_without_better + 1)


def _show(show: Show | None, state: State, objective: Objective, metrics: MetricsLog | Silence) -> None:
    objective.eval()
    with together(), as_written(state.config.run):
        if show is not None and rank() == 0:
            metrics.show(state.step, show(state.step))
    objective.train()


def _is_exhausted(state: State) -> bool:
    patience = state.config.run.patience
    return bool(patience) and state.validations_without_better >= patience


def _save(
    run: Path,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    state: State,
    meter: Meter,
    metrics: MetricsLog | Silence,
) -> Path:
    meter.check()
    figures = meter.stored()
    folder = run / "checkpoints" / f"step-{state.step:08d}"
    with together():
        if rank() == 0:
            save(run, objective, optimizer, state, figures)
            prune(run, state.config.run.keep, state.best_step)
        metrics.check()
    return folder
