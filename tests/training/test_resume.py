"""A run that stopped, or was killed, goes on as if it had not; the thaw, which lies between, included."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgen.training import checkpoint
from bitgen.training.checkpoint import TRAINER
from bitgen.training.config import TrainConfig
from bitgen.training.optimizer import set_trainable
from tests import fakes
from tests.trainings import PATIENT, after, figures, lines, resume, start, tensors, weights_at


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 steps that nothing interrupted, thawed at step 4, a checkpoint at every step."""
    torch.use_deterministic_algorithms(True)
    run = tmp_path_factory.mktemp("whole") / "run"
    start(run, _config())
    return run


def _config(**changes: Any) -> TrainConfig:
    return fakes.config("coarse", run={"checkpoint_every": 1, "keep": 8} | changes)


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_a_run_that_stopped_goes_on_bit_for_bit(whole: Path, tmp_path: Path, stop: int) -> None:
    stopped = start(tmp_path / "run", _config(), should_stop=after(stop))
    assert (stopped.reason, stopped.state.step) == ("stopped", stop)
    assert resume(tmp_path / "run", _config()).reason == "done"
    expected = tensors(whole)
    assert tensors(tmp_path / "run").keys() == expected.keys()
    assert [name for name, tensor in tensors(tmp_path / "run").items() if not tensor.equal(expected[name])] == []
    assert lines(tmp_path / "run") == lines(whole)


def test_a_run_that_was_killed_after_its_figures_goes_on_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    start(tmp_path / "run", _config(checkpoint_every=4), should_stop=after(6))
    last = checkpoint.find(tmp_path / "run", last=True)
    last.rename(last.with_name("lost"))  # as if the kill had come before it: the last is of step 4
    resume(tmp_path / "run", _config(checkpoint_every=4))
    expected = tensors(whole)
    assert [name for name, tensor in tensors(tmp_path / "run").items() if not tensor.equal(expected[name])] == []
    assert lines(tmp_path / "run") == lines(whole)


def test_figures_are_the_same_wherever_a_run_stopped_between_two_lines(tmp_path: Path) -> None:
    config = fakes.config(run={"log_every": 4})
    start(tmp_path / "whole", config)
    start(tmp_path / "run", config, should_stop=after(6))
    resume(tmp_path / "run", config)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_the_fine_phase_goes_on_bit_for_bit_too(tmp_path: Path) -> None:
    config = fakes.config("fine", optim={"accumulation": 2, "epochs": 2})
    start(tmp_path / "whole", config)
    start(tmp_path / "run", config, should_stop=after(3))
    resume(tmp_path / "run", config)
    expected = tensors(tmp_path / "whole")
    assert [name for name, tensor in tensors(tmp_path / "run").items() if not tensor.equal(expected[name])] == []


def test_a_run_with_a_queue_of_token_states_goes_on_bit_for_bit_too(tmp_path: Path) -> None:
    config = fakes.config(loss={"itm_negatives": "queue", "queue": 6}, data={"max_tokens": 16})
    start(tmp_path / "whole", config)
    start(tmp_path / "run", config, should_stop=after(3))
    resume(tmp_path / "run", config)
    expected = tensors(tmp_path / "whole")
    assert len([name for name in expected if name.startswith("token_queue.")]) == 7
    assert tensors(tmp_path / "run").keys() == expected.keys()
    assert [name for name, tensor in tensors(tmp_path / "run").items() if not tensor.equal(expected[name])] == []
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_the_thaw_is_written_down_once(whole: Path) -> None:
    objective = fakes.objective(_config())
    set_trainable(objective, lora=True)
    adapters = sum(p.numel() for _, p in objective.model.vision.lora_parameters())
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    assert [(line["step"], line["event"]) for line in lines(whole) if "event" in line] == [
        (4, f"LoRA thawed at step 4: trained parameters {trained - adapters:,} -> {trained:,}")
    ]


def _state_at(run: Path, step: int) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / TRAINER)


def test_adapters_have_no_moments_before_the_thaw(whole: Path) -> None:
    assert [name for name in _state_at(whole, 4) if ".lora_" in name] == []


def test_adapters_moments_start_at_the_thaw_and_the_others_go_on(whole: Path) -> None:
    steps = {name: value.item() for name, value in _state_at(whole, 6).items() if name.startswith("step.")}
    assert {value for name, value in steps.items() if ".lora_" in name} == {2.0}
    assert {value for name, value in steps.items() if ".lora_" not in name} == {6.0}


@pytest.mark.parametrize(("first", "last", "moved"), [(1, 4, False), (4, 5, True)])
def test_adapters_move_from_the_thaw_on(whole: Path, first: int, last: int, moved: bool) -> None:
    before, after = weights_at(whole, first), weights_at(whole, last)
    changed = {not after[name].equal(before[name]) for name in before if ".lora_B." in name}
    assert changed == {moved}


def test_the_tower_itself_never_moves(whole: Path) -> None:
    before, after = weights_at(whole, 1), weights_at(whole, 8)
    names = [name for name in before if name.startswith("vision.backbone") and ".lora_" not in name]
    assert len(names) > 20
    assert [name for name in names if not after[name].equal(before[name])] == []


FIGURES = """
step epoch loss itc itm text memory_kl acc_i2t acc_t2i itm_acc token_acc token_nats perplexity memory_utilisation memory_recall
memory_recall_others batch_similarity queue_similarity queue_age temperature gate_image_0 gate_text_0
grad_norm grad_norm_ternary grad_norm_matrix grad_norm_vector grad_norm_gate grad_norm_lora
lr lr_ternary lr_matrix lr_vector lr_gate lr_lora
"""
"""Of a line of the coarse phase, without the clock's."""


def test_a_line_has_every_figure(whole: Path) -> None:
    assert sorted(lines(whole)[0]) == sorted(FIGURES.split())


def test_epochs_and_rates_are_those_of_the_step(whole: Path) -> None:
    found = [line for line in lines(whole) if "event" not in line]
    assert [line["epoch"] for line in found] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert found[0]["lr"] == pytest.approx(1e-3)  # a tenth of 8 steps is one warm-up step
    assert found[7]["lr"] == pytest.approx(1e-3 * (0.1 + 0.9 * (1 + torch.tensor(6 / 7 * torch.pi).cos().item()) / 2))


def test_patience_survives_a_stop(tmp_path: Path) -> None:
    config = fakes.config(run=PATIENT)
    start(tmp_path, config, validate=figures(0.5, 0.1), should_stop=after(2))
    result = resume(tmp_path, config, validate=figures(0.2, 0.2))
    assert (result.reason, result.state.step) == ("patience", 3)


def test_a_run_that_is_done_stays_as_it_is(tmp_path: Path) -> None:
    config = fakes.config()
    before = start(tmp_path, config)
    written, again = lines(tmp_path), resume(tmp_path, config)
    assert (again.reason, again.state, again.checkpoint) == ("done", before.state, before.checkpoint)
    assert lines(tmp_path) == written


def test_a_run_that_ended_by_patience_stays_as_it_is(tmp_path: Path) -> None:
    config = fakes.config(run=PATIENT)
    before = start(tmp_path, config, validate=figures(0.5, 0.4, 0.3))
    again = resume(tmp_path, config, validate=figures(0.9))
    assert (again.reason, again.state) == ("patience", before.state)
