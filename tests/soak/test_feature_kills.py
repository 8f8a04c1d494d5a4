"""`bitgen-features`, killed 50 times (`make soak KILLS=5` for fewer), goes on to the same bytes."""

import os
import sys
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from tests.kills import Work, different, digests, finish, rounds
from tests.worlds_of_features import write_images

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]


def _is_lock(path: str) -> bool:
    """Empty, and left where a process was killed after all was done."""
    return path.endswith(".lock")


def test_killed_extraction_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    write_images(tmp_path, "coarse/noise", (150, 100, 150), {3})
    torch.manual_seed(0)
    shape = Dinov2Config(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=112, patch_size=14)
    Dinov2Model(shape).save_pretrained(tmp_path / "tower")
    command = [sys.executable, "-m", "cli.features", str(tmp_path / "tower"), "--datasets", "coarse/noise"]
    command += ["--data", str(tmp_path), "--image-px", "112", "--device", "cpu"]
    work = Work(command, tmp_path / "features", tmp_path / "log.txt")
    finish(work)
    whole = digests(work.output, _is_lock)
    assert len(whole) == 3 + 2 + 2 * 3
    for _ in rounds(work, int(os.environ.get("KILLS", "50"))):
        assert different(whole, digests(work.output, _is_lock)) == []
