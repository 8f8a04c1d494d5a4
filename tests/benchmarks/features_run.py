"""One contestant of `features.py` in a process of its own: steps of `bitgen-train` before the thaw.

    python -m tests.benchmarks.features_run NAME FOLDER TOWER BATCH STEPS REPORT

NAME is `make` (stores the features, and nothing else), `uncached`, `cached`, or `constant`: the batches of `cached`, made before
the time, all with the same features in memory, in float32. FOLDER has the datasets of `loader_data`. TOWER is `small`, `base` or
`tiny`. Writes what it found to REPORT, as JSON.
"""

import json
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from bitgen.batch import Batch
from bitgen.features import unpack
from bitgen.objectives.total import Objective
from bitgen.training.config import TrainConfig
from bitgen.training.guard import Guard
from bitgen.training.loop import _step
from bitgen.training.optimizer import build_optimizer, set_trainable
from bitgen.training.phases import configure
from cli.batches import batches
from cli.preparing import open_stream
from pipeline.cached import open_cached
from pipeline.roots import open_root
from tests import fakes
from tests.benchmarks.loader_run import cpu_s
from tests.benchmarks.loader_terms import COARSE

TOWERS = {"base": (768, 12, 12), "small": (384, 12, 6), "tiny": (32, 2, 2)}
"""Width, layers and heads, as DINOv2's; `tiny` is for tests."""
WARM_STEPS = 1
STEPS_PER_EPOCH = 100
"""So that no step comes near the thaw, whatever the number of photographs."""
CPU = torch.device("cpu")


def configured(name: str, folder: Path, tower: str, batch: int) -> TrainConfig:
    """The coarse phase at its own sizes, but for a tower of random weights, whole images and the batch."""
    width, layers, heads = TOWERS[tower]
    shape = {"random_width": width, "random_layers": layers, "random_heads": heads}
    base = configure("coarse", "base")
    data = {"root": str(folder), "mixture": {COARSE: 1.0}, "crop_scale_min": 1.0}
    return replace(
        base,
        data=replace(base.data, **data, features="none" if name == "uncached" else "int8"),
        model=replace(base.model, vision=replace(base.model.vision, weights="random", **shape)),
        optim=replace(base.optim, batch=batch, accumulation=1),
        run=replace(base.run, device="cpu"),
    )


def started(config: TrainConfig) -> tuple[Objective, Iterator[Batch]]:
    """What `bitgen-train` would train, and on which batches; makes the features first where they are asked for."""
    root = open_root(config.data)
    stream = open_stream(config, root)
    objective = fakes.objective(config)
    state = fakes.state(config, objective, config.optim.batch * STEPS_PER_EPOCH)
    cached = open_cached(config, objective.model.vision, state, stream, root, CPU)
    return objective, batches(stream, config, 0, CPU, cached)


def constant(found: Iterator[Batch], count: int) -> Iterator[Batch]:
    """The first `count` batches, made at once, all with the features of the first."""
    made = list(islice(found, count))
    assert made[0].features is not None
    features = unpack(made[0].features)
    return iter([replace(batch, features=features) for batch in made])


def run(name: str, folder: Path, tower: str, batch: int, steps: int) -> dict[str, float]:
    """Seconds and CPU seconds, of all its processes, of `steps` steps after the first; the loss of that one."""
    config = configured(name, folder, tower, batch)
    start_s, used_s = time.perf_counter(), cpu_s()
    objective, feed = started(config)
    if name == "make":
        return {"wall_s": time.perf_counter() - start_s, "cpu_s": cpu_s() - used_s}
    if name == "constant":
        feed = constant(feed, WARM_STEPS + steps)
    set_trainable(objective, lora=False)
    optimizer, guard = build_optimizer(objective, config.optim), Guard(objective, config.optim.skip_nonfinite)
    objective.train()
    loss = 0.0
    for step in range(WARM_STEPS + steps):
        if step == WARM_STEPS:
            start_s, used_s = time.perf_counter(), cpu_s()
        parts, *_ = _step(objective, objective, optimizer, feed, config, step, CPU, guard)
        loss = loss or parts["loss"].item()
    wall_s = time.perf_counter() - start_s
    if isinstance(feed, Generator):
        feed.close()  # which ends its workers: their time is known then
    return {"wall_s": wall_s, "cpu_s": cpu_s() - used_s, "first_loss": loss}


if __name__ == "__main__":
    found = run(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    Path(sys.argv[6]).write_text(json.dumps(found))
