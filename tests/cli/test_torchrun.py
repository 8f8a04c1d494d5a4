"""A run that torchrun started on two ranks of this machine, one of which fails in the middle of a step."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bitgen.training import checkpoint
from bitgen.training.checkpoint import list_checkpoints, read_state
from bitgen.training.distributed import ANOTHER
from cli.train import main
from tests import fakes
from tests.trainings import lines

ROOT = Path(__file__).parents[2]
TINY = """
--preset demo --phase coarse --mixture coarse/squares --data.image-px 28 --data.workers 1 --model.width 16
--model.compressor-width 16 --model.ffn 16 --model.heads 2 --model.memory-slots 4 --model.vision.random-width 16
--model.vision.random-heads 2 --model.vision.random-layers 1 --optim.batch 4 --optim.epochs 5 --loss.queue 8
--loss.episode 4 --run.log-every 1 --run.checkpoint-every 4 --run.show-every 3 --run.device cpu --run.name tiny
"""
"""10 steps."""


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """The exit code of a run whose rank 1 fails in its seventh step, what it said, and its folder."""
    folder = tmp_path_factory.mktemp("torchrun")
    fakes.write_shards(folder / "data", "coarse/squares")
    # --standalone takes a free port; without it torchrun takes 29500.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.failing"]
    places = ["--data.root", f"{folder}/data", "--run.runs", str(folder)]
    command = [sys.executable, *torchrun, *TINY.split(), *places]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return ended.returncode, ended.stdout, folder / "tiny"


def test_a_rank_that_fails_in_a_step_ends_all(failed: tuple[int, str, Path]) -> None:
    code, said, _ = failed
    assert code == 1, said


def test_the_rank_that_failed_says_why_and_the_other_that_it_did(failed: tuple[int, str, Path]) -> None:
    said = failed[1].splitlines()
    assert said.count(f"bitgen-train: {ANOTHER}") == 1
    assert said.count("[rank1]: MemoryError: no room for what a layer makes") == 1
    assert [line for line in said if line.startswith("[rank0]")] == []


def test_torchrun_ends_with_the_rank_that_failed_and_why(failed: tuple[int, str, Path]) -> None:
    cause = failed[1].partition("Root Cause")[2]
    assert re.search(r"rank +: 1 ", cause)
    assert "MemoryError: no room for what a layer makes" in cause


@pytest.mark.usefixtures("own_switches")
def test_the_run_goes_on_from_its_last_checkpoint(failed: tuple[int, str, Path]) -> None:
    run = failed[2]
    assert [path.name for path in list_checkpoints(run)] == ["step-00000004"]
    assert main(["--resume", str(run)]) == 0
    assert read_state(checkpoint.find(run, last=True)).step == 10
    assert [line["step"] for line in lines(run) if "event" not in line] == list(range(1, 11))


def test_pictures_of_the_steps_before_are_there(failed: tuple[int, str, Path]) -> None:
    shown = {path.name for path in (failed[2] / "shown").iterdir()}
    assert shown >= {"step-00000003.html", "step-00000006.html"}
