"""Two runs in a row that are killed 50 times (`make soak KILLS=5` for fewer) end in the same weights as one that never was."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests import fakes
from tests.kills import Work, different, digests, finish, rounds
from tests.trainings import lines

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("KILLS", "50"))
COMMAND = """
import sys
from pathlib import Path
from cli.train import main
folder, arguments = Path(sys.argv[1]), sys.argv[2:]
sys.exit(main(["--resume", str(folder)] if (folder / "coarse/config.json").is_file() else arguments))
"""
TINY = """
--phase both --preset demo --mixture coarse/squares --data.image-px 56 --data.workers 1 --model.vision.random-width 32
--model.vision.random-layers 2 --model.vision.random-heads 2 --model.vision.lora-rank 2 --model.width 16
--model.compressor-width 24 --model.heads 2 --model.ffn 24 --model.text-layers 2 --model.fusion-layers 1
--model.decoder-layers 1 --model.grounding-layers 1 --model.memory-slots 4 --optim.batch 4 --optim.epochs 10
--optim.lora-warmup-epochs 2.5 --loss.queue 8 --loss.episode 4 --run.log-every 2 --run.checkpoint-every 3
--run.name pair
"""
"""20 steps on 8 samples in each phase, the coarse one thawed at step 5."""


def is_left_out(path: str) -> bool:
    """Figures, which hold times and are compared without them; where a run is, which a resumed one says from where it was
    resumed; and what a kill left half-written beside what is whole."""
    is_said = path.endswith(("metrics.jsonl", "config.json", "state.json"))
    return is_said or re.search(r"(^|/)\.[^/]+\.tmp(/|$)", path) is not None


def test_killed_runs_end_in_the_same_weights_and_figures(tmp_path: Path) -> None:
    fakes.write_shards(tmp_path / "data", "coarse/squares")
    runs = tmp_path / "runs"
    arguments = [*TINY.split(), "--data.root", str(tmp_path / "data"), "--run.runs", str(runs)]
    work = Work([sys.executable, "-c", COMMAND, str(runs / "pair"), *arguments], runs, tmp_path / "log.txt")
    finish(work)
    whole, figures = digests(runs, is_left_out), _figures(runs)
    assert len([name for name in whole if name.endswith("model.safetensors")]) == 6
    total, wrong = 0, []
    for killed in rounds(work, KILLS):
        total += killed
        wrong += different(whole, digests(runs, is_left_out))
        wrong += ["figures"] * (_figures(runs) != figures)
    assert (total, wrong) == (KILLS, [])


def _figures(runs: Path) -> list[list[dict[str, object]]]:
    return [lines(runs / "pair" / stage) for stage in ("coarse", "fine")]
