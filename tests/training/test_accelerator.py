"""On an accelerator: the losses, gradients and features of a CPU; compiled and in bf16 as written and in fp32; a run that was
stopped or killed goes on; NCCL carries what lies on the device and Gloo what lies on the host.

Run by `pytest -m gpu`. What adds floats in no fixed order there makes no two runs equal in bits, so bounds are on relative norms.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from bitgen.batch import Batch
from bitgen.objectives.total import Objective, draw
from bitgen.training import checkpoint
from bitgen.training.checkpoint import list_checkpoints, load_model, read_state
from bitgen.training.config import TrainConfig
from bitgen.training.distributed import _Gather
from bitgen.training.graphs import Graphs
from bitgen.training.layers import prepare_layers
from bitgen.training.loop import to_device
from bitgen.training.optimizer import set_trainable
from bitgen.training.precision import autocast
from tests import fakes
from tests.trainings import after, lines, resume, start, tensors

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

CUDA = torch.device("cuda")
ROOT = Path(__file__).parents[2]
FULL = {"ternary": False}
"""Rounding to a few levels turns a last bit into a whole level, so that what is bound tightly is bound without it."""
TINY = """
--preset demo --phase coarse --mixture coarse/squares --data.image-px 28 --data.workers 1 --model.width 16
--model.compressor-width 16 --model.ffn 16 --model.heads 2 --model.memory-slots 4 --model.vision.random-width 16
--model.vision.random-heads 2 --model.vision.random-layers 1 --optim.batch 4 --optim.epochs 20 --loss.queue 8
--loss.episode 4 --run.log-every 1 --run.checkpoint-every 4 --run.keep 20 --run.device cuda --run.precision fp32
"""
"""40 steps."""


@pytest.fixture(autouse=True)
def _as_on_an_accelerator() -> Iterator[None]:
    """In place of `_exact`, which is for a CPU."""
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True)


def distance(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|; where both are 0, 0."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return ((found - expected).norm() / expected.norm().clamp(min=1e-12)).item()


def step(config: TrainConfig, device: torch.device) -> dict[str, Tensor]:
    """The losses and, of all weights together, the gradient of one micro-step of a thawed model."""
    objective = _objective(config).to(device)
    prepare_layers(objective.model, config.run)
    with autocast(config, device):
        parts = objective(to_device(fakes.fake_batch(), device), draw(0, 0, 4, fakes.PATCHES, device))
    parts["loss"].backward()
    found = torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])
    return {name: parts[name].detach() for name in parts} | {"gradient": found}


def _objective(config: TrainConfig) -> Objective:
    objective = fakes.objective(config)
    set_trainable(objective, lora=True)
    for _, parameter in objective.model.vision.lora_parameters():
        nn.init.normal_(parameter, std=0.05)
    return objective.train()


def _config(phase: Any = "joint", model: dict[str, Any] | None = None, **run: Any) -> TrainConfig:
    return fakes.config(phase, model=model or {}, run={"precision": "fp32"} | run)


@pytest.mark.parametrize("phase", ["coarse", "fine", "joint"])
@pytest.mark.parametrize(("model", "bound"), [(FULL, 1e-3), ({}, 3e-2)], ids=["full precision", "ternary"])
def test_losses_and_gradients_are_those_of_a_cpu(phase: str, model: dict[str, Any], bound: float) -> None:
    config = _config(phase, model)
    expected, found = step(config, torch.device("cpu")), step(config, CUDA)
    distances = {name: distance(found[name], expected[name]) for name in ("loss", "gradient")}
    assert {name: each for name, each in distances.items() if not each < bound} == {}


def test_losses_in_bf16_are_near_those_in_fp32() -> None:
    """bf16 has 8 bits: a relative 4e-3 an operation."""
    expected, found = (step(_config(precision=name), CUDA) for name in ("fp32", "bf16"))
    assert distance(found["loss"], expected["loss"]) < 2e-2
    assert distance(found["gradient"], expected["gradient"]) < 0.3


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-3), ("bf16", 0.1)])
def test_compiled_layers_are_the_same_layers(precision: str, bound: float) -> None:
    expected, found = (step(_config("joint", FULL, precision=precision, compile=on), CUDA) for on in (False, True))
    assert distance(found["loss"], expected["loss"]) < bound / 5
    assert distance(found["gradient"], expected["gradient"]) < bound


@pytest.mark.parametrize(
    ("accumulation", "precision", "bound"), [(1, "fp32", 1e-3), (2, "fp32", 1e-3), (1, "bf16", 5e-2)]
)
@pytest.mark.parametrize("more", [{}, {"itm_negatives": "queue"}], ids=["batch", "queue"])
def test_a_run_of_graphs_is_the_run_without_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accumulation: int,
    precision: str,
    bound: float,
    more: dict[str, Any],
) -> None:
    """Captured before and after the thaw, of texts of two numbers of rows."""
    replayed: list[int] = []
    replay = Graphs._replay
    monkeypatch.setattr(Graphs, "_replay", lambda *each: (replayed.append(len(each[2].token_ids)), replay(*each))[1])
    for graphs in (False, True):
        optim = {"accumulation": accumulation, "epochs": 6 * accumulation, "lora_warmup_epochs": 3.0 * accumulation}
        run = {"device": "cuda", "precision": precision, "graphs": graphs}
        config = fakes.config("coarse", model=FULL, optim=optim, run=run, loss=more, data={"max_tokens": 16})
        start(tmp_path / str(graphs), config, alternating())
    assert set(replayed) == {4, 8}
    expected, found = tensors(tmp_path / "False"), tensors(tmp_path / "True")
    assert found.keys() == expected.keys()
    assert {name for name, each in expected.items() if not distance(found[name], each) < 30 * bound} == set()
    losses = [[line["loss"] for line in lines(tmp_path / name) if "loss" in line] for name in ("True", "False")]
    assert len(losses[0]) == 24
    assert losses[0] == pytest.approx(losses[1], rel=bound)


def alternating() -> Iterator[Batch]:
    """Images with two texts each, and with one."""
    for position in itertools.count(0, 4):
        yield fakes.fake_batch(seed=position, position=position, texts=1 + position // 4 % 2)


@pytest.mark.parametrize("compile", [False, True])
def test_a_run_that_stopped_goes_on(tmp_path: Path, compile: bool) -> None:
    """Over the thaw at step 4."""
    config = fakes.config("coarse", model=FULL, run={"device": "cuda", "precision": "fp32", "compile": compile})
    start(tmp_path / "whole", config)
    assert start(tmp_path / "run", config, should_stop=after(3)).state.step == 3
    assert resume(tmp_path / "run", config).reason == "done"
    expected, found = tensors(tmp_path / "whole"), tensors(tmp_path / "run")
    assert found.keys() == expected.keys()
    assert {name for name, each in expected.items() if not distance(found[name], each) < 1e-2} == set()
    losses = [[line["loss"] for line in lines(tmp_path / name) if "loss" in line] for name in ("run", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    fakes.write_shards(tmp_path / "data", "coarse/squares")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert _train(*_new(tmp_path, "whole")).wait() == 0
    first = _train(*_new(tmp_path, "run"))
    while first.poll() is None and not (run.is_dir() and list_checkpoints(run)):
        time.sleep(0.005)
    assert first.poll() is None, "expected a run that still goes on"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert 4 <= read_state(checkpoint.find(run, last=True)).step < 40
    assert _train("--resume", str(run)).wait() == 0
    assert read_state(checkpoint.find(run, last=True)).step == 40
    assert [line["step"] for line in lines(run) if "event" not in line] == list(range(1, 41))
    found = [[line["itc"] for line in lines(each) if "event" not in line] for each in (run, whole)]
    assert found[0] == pytest.approx(found[1], rel=0.05)


def _new(folder: Path, name: str) -> list[str]:
    return [*TINY.split(), "--run.name", name, "--data.root", f"{folder}/data", "--run.runs", str(folder)]


def _train(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "cli.train", *arguments], cwd=ROOT, env=environment)


def test_what_was_trained_there_answers_alike_on_a_cpu(tmp_path: Path) -> None:
    config = fakes.config("coarse", model=FULL, run={"device": "cuda"})
    start(tmp_path, config)
    batch = fakes.fake_batch()
    there, here = (load_model(tmp_path, device)[0].eval() for device in ("cuda", "cpu"))
    with torch.no_grad():
        found, expected = (
            model.encode_image(batch.images.to(next(model.parameters()).device)).embedding for model in (there, here)
        )
    assert distance(found, expected) < 1e-3


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone, as `join` makes it."""
    torch.cuda.set_device(0)
    store = f"file://{tmp_path / 'store'}"
    distributed.init_process_group("cpu:gloo,cuda:nccl", init_method=store, world_size=1, rank=0)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda", "nccl")])
def test_each_device_has_a_backend_of_its_own(device: str, backend: str) -> None:
    world = distributed.distributed_c10d._get_default_group()
    assert world._get_backend(torch.device(device)).name() == backend
    rows = torch.randn(3, 2, device=device, requires_grad=True)
    gathered = _Gather.apply(rows)
    gathered.pow(2).sum().backward()
    assert gathered.equal(rows)
    assert rows.grad is not None
    assert rows.grad.equal(2 * rows.detach())
    value = torch.ones(1, device=device)
    distributed.all_reduce(value)
    assert value.item() == 1


@pytest.mark.usefixtures("group")
def test_gradients_that_nccl_averages_are_those_of_a_run_without_it() -> None:
    config = _config("joint", FULL)
    expected = step(config, CUDA)["gradient"]
    objective = _objective(config).to(CUDA)
    wrapped = DistributedDataParallel(objective, device_ids=[0])
    wrapped(to_device(fakes.fake_batch(), CUDA), draw(0, 0, 4, fakes.PATCHES, CUDA))["loss"].backward()
    found = torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])
    assert distance(found, expected) < 1e-4
