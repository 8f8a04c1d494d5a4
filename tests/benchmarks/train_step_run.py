"""One contestant of `train_step.py` in a process of its own: steps on batches that are in memory before the time begins.

    python -m tests.benchmarks.train_step_run NAME FOLDER TOWER BATCH STEPS DEVICE REPORT

NAME is one of `KINDS`, with `_compiled` or `_recomputed` behind it where the tower's layers are to be, or `open_clip`. FOLDER has
the datasets of `loader_data`. Writes what it found to REPORT, as JSON.
"""

import json
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitgen.batch import Batch
from bitgen.objectives.total import Draws, Objective, draw
from bitgen.training.config import TrainConfig
from bitgen.training.graphs import WRITTEN, Graphs, build_graphs, captures
from bitgen.training.guard import Guard
from bitgen.training.layers import prepare_layers
from bitgen.training.loop import _step
from bitgen.training.operations import Operations, peak
from bitgen.training.optimizer import build_optimizer, set_trainable
from bitgen.training.phases import configure
from bitgen.training.precision import autocast
from cli.batches import batches
from cli.preparing import open_stream
from cli.train import choose_device
from pipeline.roots import open_root
from tests import fakes
from tests.benchmarks.features_run import TOWERS
from tests.benchmarks.loader_run import cpu_s
from tests.benchmarks.loader_terms import COARSE, FINE

WARM_STEPS = 2
"""The first is counted; the second finds everything in place. On an accelerator each shape then has its graph captured."""
OPEN_CLIP = "open_clip"
Take = Callable[[int, Batch], object]
"""A step: its number, and its batch."""


def configured(name: str, folder: Path, tower: str, batch: int, device: str) -> TrainConfig:
    """A phase at its own sizes, but for a tower of random weights, whole images and the batch."""
    width, layers, heads = TOWERS[tower]
    base = configure("fine" if name.startswith("fine") else "coarse", "base")
    mixture = {FINE: 1.0} if base.phase == "fine" else {COARSE: 1.0}
    shape = {"random_width": width, "random_layers": layers, "random_heads": heads}
    switches = {"compile": name.endswith("_compiled"), "recompute": name.endswith("_recomputed")}
    return replace(
        base,
        data=replace(base.data, root=str(folder), mixture=mixture, crop_scale_min=1.0),
        model=replace(base.model, vision=replace(base.model.vision, weights="random", **shape)),
        optim=replace(base.optim, batch=batch, accumulation=1),
        run=replace(base.run, device=device, **switches),
    )


def made(config: TrainConfig, count: int, device: torch.device) -> list[Batch]:
    """The first `count` batches of a phase, where `device` copies from without waiting."""
    feed = batches(open_stream(config, open_root(config.data)), config, 0, device)
    found = list(islice(feed, count))
    assert isinstance(feed, Generator)
    feed.close()  # which ends its workers
    return found


def whole(config: TrainConfig, device: torch.device, *, is_thawed: bool) -> Take:
    """bitgen-train's own step."""
    objective = fakes.objective(config).to(device)
    set_trainable(objective, lora=is_thawed)
    prepare_layers(objective.model, config.run)
    optimizer, guard = build_optimizer(objective, config.optim), Guard(objective, config.optim.skip_nonfinite)
    graphs = build_graphs(objective.train(), config, device)
    inputs = optimizer, config, device, guard, graphs
    return lambda step, batch: _take(objective, batch, step, *inputs)


def _take(
    objective: Objective,
    batch: Batch,
    step: int,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    device: torch.device,
    guard: Guard,
    graphs: Graphs | None,
) -> object:
    return _step(objective, objective, optimizer, iter([batch]), config, step, device, guard, graphs=graphs)


def heads(config: TrainConfig, device: torch.device) -> Take:
    """The step before the thaw on patch features that are there already: all but the tower."""
    vision = config.model.vision
    patches = (config.data.image_px // vision.random_patch_px) ** 2
    features = torch.randn(config.optim.batch, patches, vision.random_width, device=device)
    take = whole(config, device, is_thawed=False)
    return lambda step, batch: take(step, replace(batch, features=features))


def bare(config: TrainConfig, device: torch.device, *, is_thawed: bool) -> Take:
    """The tower alone, as the step calls it: forward, and backward to its adapters where they are thawed; a graph where the
    step is one."""
    model = fakes.objective(config).to(device).model
    model.vision.set_lora_trainable(is_thawed)
    prepare_layers(model, config.run)
    tower = model.vision.train()

    def forward(batch: Batch, draws: Draws) -> dict[str, Tensor]:
        with autocast(config, device):
            patches = tower(batch.images)
        return {"loss": patches.float().sum() if is_thawed else torch.zeros((), device=device, requires_grad=True)}

    def plain(step: int, batch: Batch) -> object:
        with autocast(config, device):
            patches = tower(batch.images.to(device, non_blocking=True))
        if is_thawed:
            patches.backward(torch.ones_like(patches))
            tower.zero_grad(set_to_none=True)
        return patches

    if not captures(config, device):
        return plain
    graphs = Graphs(forward, list(tower.parameters()), 1)
    side = config.data.image_px // model.vision.patch_px
    draws = draw(0, 0, config.optim.batch, side**2, device)

    def take(step: int, batch: Batch) -> object:
        found = graphs(batch, draws)
        tower.zero_grad(set_to_none=True)
        return found

    return take


KINDS: Mapping[str, Callable[[TrainConfig, torch.device], Take]] = {
    "coarse_frozen": lambda config, device: whole(config, device, is_thawed=False),
    "coarse_thawed": lambda config, device: whole(config, device, is_thawed=True),
    "fine": lambda config, device: whole(config, device, is_thawed=True),
    "heads": heads,
    "bare_forward": lambda config, device: bare(config, device, is_thawed=False),
    "bare_forward_backward": lambda config, device: bare(config, device, is_thawed=True),
}


class Traffic(Operations):
    """Counts bytes, too: of every tensor that an operator reads or writes, views apart."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if not getattr(func, "is_view", False):
            touched = (*args, *(kwargs or {}).values(), *(out if isinstance(out, tuple | list) else (out,)))
            self.bytes += sum(each.nbytes for each in touched if isinstance(each, Tensor))
        return out


@cache
def bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of a copy of 256 MiB: the best of three."""
    source = torch.zeros(1 << 26, device=device)
    target, found = torch.empty_like(source), 0.0
    for _ in range(3):
        start = time.perf_counter()
        target.copy_(source)
        _wait(device)
        found = max(found, 2 * source.nbytes / (time.perf_counter() - start))
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory_mb(device: torch.device, *, is_most: bool) -> float:
    """What the process (Linux), or on an accelerator its tensors, take now, or took at most since the process began."""
    if device.type == "cuda":
        found = torch.cuda.max_memory_allocated(device) if is_most else torch.cuda.memory_allocated(device)
        return found / 1e6
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM" if is_most else "VmRSS"].split()[0]) * 1024 / 1e6


def run(name: str, folder: Path, tower: str, batch: int, steps: int, device_name: str) -> dict[str, float]:
    """Seconds and CPU seconds of `steps` steps after two more, of which the first one's operations and bytes are counted; what
    the device can do of either in a second; the most memory in use, and how much of that was there before the first step."""
    config = configured(name, folder, tower, batch, device_name)
    device = choose_device(config)
    best = peak(device)  # before the device is busy with anything else
    feed = made(config, WARM_STEPS + steps, device)
    if name == OPEN_CLIP:
        from tests.benchmarks import train_step_peer

        take = train_step_peer.step(first_texts(folder, feed), tower, config, device)
    else:
        take = KINDS[name.removesuffix("_compiled").removesuffix("_recomputed")](config, device)
    before_mb, begin_s = _memory_mb(device, is_most=False), time.perf_counter()
    with Traffic() as counted:
        take(0, feed[0])
    _wait(device)
    first_s = time.perf_counter() - begin_s
    for step in range(1, WARM_STEPS):
        take(step, feed[step])
    if device.type == "cuda":
        shapes = {batch.token_ids.shape: step for step, batch in enumerate(feed)}
        for step in [each for each in shapes.values() for _ in range(WRITTEN + 1)]:
            take(step, feed[step])
    _wait(device)
    start_s, used_s = time.perf_counter(), cpu_s()
    for step in range(WARM_STEPS, WARM_STEPS + steps):
        take(step, feed[step])
    _wait(device)
    wall_s, memory_mb = time.perf_counter() - start_s, _memory_mb(device, is_most=True)
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s() - used_s,
        "first_step_s": first_s,
        "operations": counted.total,
        "bytes": counted.bytes,
        "memory_mb": memory_mb,
        "memory_before_mb": before_mb,
        "peak": best,
        "bandwidth": bandwidth(device),
    }


def first_texts(folder: Path, feed: Sequence[Batch]) -> list[list[str]]:
    """The first caption of every image, batch by batch."""
    captions = dict(json.loads((folder / "captions.json").read_bytes()))
    return [[captions[key] for key in batch.keys] for batch in feed]


if __name__ == "__main__":
    name, folder, tower, batch, steps, device, report = sys.argv[1:]
    found = run(name, Path(folder), tower, int(batch), int(steps), device)
    Path(report).write_text(json.dumps(found))
