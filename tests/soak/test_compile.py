"""Runs that are compiled to machine code, which takes a minute or two on a CPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from bitgen.objectives.total import draw
from bitgen.training.config import RunConfig
from bitgen.training.layers import prepare_layers
from bitgen.training.operations import Operations
from bitgen.training.optimizer import set_trainable
from tests import fakes
from tests.trainings import after, resume, start, tensors, weights_at

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


def test_a_compiled_run_goes_on_bit_for_bit_with_a_plain_one_s_names(tmp_path: Path) -> None:
    torch._dynamo.reset()
    counters.clear()
    model = {"vision": replace(fakes.VISION, random_layers=4)}
    config = fakes.config(model=model, run={"compile": True, "recompute": True})
    start(tmp_path / "whole", config)
    start(tmp_path / "run", config, should_stop=after(5))
    resume(tmp_path / "run", config)
    expected, found = tensors(tmp_path / "whole"), tensors(tmp_path / "run")
    assert [name for name, tensor in found.items() if not tensor.equal(expected[name])] == []
    start(tmp_path / "plain", fakes.config(model=model), should_stop=after(1))
    assert counters["stats"]["unique_graphs"] == 3
    assert weights_at(tmp_path / "plain", 1).keys() == weights_at(tmp_path / "whole", 8).keys()


def test_what_machine_code_calls_counts_as_what_is_written() -> None:
    counts = []
    for run in (RunConfig(), RunConfig(compile=True), RunConfig(compile=True, recompute=True)):
        objective = fakes.objective(fakes.config())
        set_trainable(objective, lora=True)
        prepare_layers(objective.model, run)
        for _ in range(2):  # while it is compiled, and then
            with Operations() as counted:
                objective(fakes.fake_batch(), draw(0, 0, 4, fakes.PATCHES, torch.device("cpu")))["loss"].backward()
            counts.append(counted.total)
    assert len(set(counts)) == 1
    assert counts[0] > 0
