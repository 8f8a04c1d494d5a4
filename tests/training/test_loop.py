"""The loop: what a step does, and every way in which a run ends."""

import errno
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgen.batch import Batch
from bitgen.training import checkpoint
from bitgen.training.checkpoint import TRAINER
from bitgen.training.config import TrainConfig
from bitgen.training.loop import TrainingError, train
from bitgen.training.metrics import Shown
from bitgen.training.precision import autocast
from tests import fakes
from tests.disk import files_of_at_most
from tests.ends import LONG, SIZE_BYTES
from tests.trainings import PATIENT, after, figures, lines, resume, start, tensors, weights_at


def test_the_position_counts_draws(tmp_path: Path) -> None:
    result = start(tmp_path, fakes.config("fine", optim={"accumulation": 2}), should_stop=after(1))
    assert result.state.position == 8


def test_accumulated_micro_steps_are_one_step_of_their_mean(tmp_path: Path) -> None:
    config = fakes.config("fine", loss={"itc": 0.0, "text": 0.0, "region": 0.0}, optim={"accumulation": 2})
    batches = [fakes.fake_batch(seed=0), fakes.fake_batch(seed=1)]
    start(tmp_path / "both", config, batches, should_stop=after(1))
    one = replace(config, optim=replace(config.optim, accumulation=1))
    singles = []
    for i, batch in enumerate(batches):
        start(tmp_path / str(i), one, [batch], should_stop=after(1))
        singles.append(lines(tmp_path / str(i))[0]["grounding"])
    assert lines(tmp_path / "both")[0]["grounding"] == pytest.approx(sum(singles) / 2, rel=1e-6)


STILL = {"lr": 1e-30, "weight_decay": 0.0}
"""Nothing moves, so that a loss depends on its draws alone."""


def test_every_micro_step_has_draws_of_its_own(tmp_path: Path) -> None:
    losses = {"itc": 0.0, "episode_share": 0.5}
    found = {}
    for accumulation in (1, 2):
        config = fakes.config(loss=losses, optim=STILL | {"accumulation": accumulation, "lora_warmup_epochs": 0.0})
        start(tmp_path / str(accumulation), config, [fakes.fake_batch()] * 4, should_stop=after(4 // accumulation))
        found[accumulation] = [line["loss"] for line in lines(tmp_path / str(accumulation))]
    first, second, third, fourth = found[1]
    assert len({first, second, third, fourth}) == 4
    assert found[2] == pytest.approx([(first + second) / 2, (third + fourth) / 2], rel=1e-5)


def test_a_batch_twice_has_the_gradient_of_the_batch(tmp_path: Path) -> None:
    only_grounding = {"itc": 0.0, "text": 0.0, "region": 0.0}
    for accumulation in (1, 2):
        config = fakes.config("fine", loss=only_grounding, optim={"accumulation": accumulation})
        start(tmp_path / str(accumulation), config, [fakes.fake_batch()] * 2, should_stop=after(1))
    once, twice = (lines(tmp_path / name)[0]["grad_norm"] for name in ("1", "2"))
    assert twice == pytest.approx(once, rel=1e-5)


def _moved(run: Path, config: TrainConfig) -> dict[str, float]:
    """How far each parameter moves in one step, at most."""
    before = fakes.objective(config).model.state_dict()
    start(run, config, should_stop=after(1))
    return {name: float((after - before[name]).abs().max()) for name, after in weights_at(run, 1).items()}


def test_each_group_moves_at_its_own_rate(tmp_path: Path) -> None:
    scales = {"ternary_lr_scale": 2.0, "gate_lr_scale": 5.0, "weight_decay": 0.0, "lr": 1e-3}
    moved = _moved(tmp_path, fakes.config(optim=scales))
    names = ("image_layers.0.attention.query.weight", "text.fused_layers.0.gate", "image_norm.weight")
    # Adam's first step is the rate itself, wherever the gradient is much larger than its epsilon.
    assert [moved[name] for name in names] == pytest.approx([2e-3, 5e-3, 1e-3], rel=1e-2)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    moved = _moved(tmp_path, fakes.config(optim={"clip": 1e-12, "weight_decay": 0.0, "lr": 1e-3}))
    assert max(moved.values()) < 1e-6  # far below Adam's epsilon, a gradient moves next to nothing


def test_the_norm_is_written_down_before_clipping(tmp_path: Path) -> None:
    start(tmp_path, fakes.config(optim={"clip": 1e-12}), should_stop=after(1))
    assert lines(tmp_path)[0]["grad_norm"] > 0.1


def test_the_loss_falls(tmp_path: Path) -> None:
    batch = fakes.fake_batch()
    config = fakes.config("coarse", optim={"epochs": 10, "lr": 3e-3}, loss={"queue": 0})
    start(tmp_path, config, [batch] * 40)
    losses = [line["loss"] for line in lines(tmp_path) if "event" not in line]
    assert losses[-1] < 0.8 * losses[0]


def _poisoned(*at: int) -> Iterator[Batch]:
    """Boxes that are not a number in the batches `at`."""
    for step, batch in enumerate(fakes.endless()):
        boxes = batch.boxes * torch.nan if step in at else batch.boxes
        yield replace(batch, boxes=boxes)


@pytest.mark.parametrize("log_every", [1, 3, 100])
def test_a_loss_that_is_not_finite_stops_the_run_with_its_samples(tmp_path: Path, log_every: int) -> None:
    config = fakes.config("fine", run={"log_every": log_every})
    with pytest.raises(TrainingError, match=r"^expected finite .*focal.* at step 4: fake-12, .*, fake-15$"):
        start(tmp_path, config, _poisoned(3))


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    config = fakes.config("fine", run={"log_every": 100, "checkpoint_every": 2})
    with pytest.raises(TrainingError):
        start(tmp_path, config, _poisoned(2))
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000002"]
    assert all(tensor.isfinite().all() for tensor in weights_at(tmp_path, 2).values())


def test_a_step_that_is_not_finite_is_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    config = fakes.config("fine", optim={"skip_nonfinite": 1}, run={"checkpoint_every": 1, "keep": 8})
    start(tmp_path, config, _poisoned(2), should_stop=after(4))
    state = checkpoint.read_state(checkpoint.find(tmp_path, last=True))
    assert (state.step, state.position, state.skipped, state.skipped_in_a_row) == (4, 16, 1, 0)
    assert [line for line in lines(tmp_path) if "skipped" in line] == [{"step": 3, "skipped": 1}]
    before, skipped, later = (_kept(tmp_path, step) for step in (2, 3, 4))
    assert {"queue.images", "image_norm.weight", "exp_avg.model.image_norm.weight"} <= before.keys()
    assert [name for name in before if not skipped[name].equal(before[name])] == []
    assert later["step.model.image_norm.weight"].item() == 3
    assert not later["image_norm.weight"].equal(skipped["image_norm.weight"])


def _kept(run: Path, step: int) -> dict[str, Tensor]:
    """Weights, moments and queues of a checkpoint."""
    trainer = load_file(run / "checkpoints" / f"step-{step:08d}" / TRAINER)
    return weights_at(run, step) | {name: value for name, value in trainer.items() if not name.startswith("figure.")}


def test_without_a_step_that_is_not_finite_looking_for_one_changes_nothing(tmp_path: Path) -> None:
    for name, most in (("looked", 3), ("not", 0)):
        start(tmp_path / name, fakes.config("fine", optim={"skip_nonfinite": most}), should_stop=after(3))
    assert lines(tmp_path / "looked") == lines(tmp_path / "not")


def test_too_many_steps_left_out_in_a_row_stop_the_run_with_its_samples(tmp_path: Path) -> None:
    config = fakes.config("fine", optim={"skip_nonfinite": 2}, run={"checkpoint_every": 1, "keep": 8})
    message = r"^expected finite losses again after 2 steps left out, found .*focal.* at step 8: fake-28, .*, fake-31$"
    with pytest.raises(TrainingError, match=message):
        start(tmp_path, config, _poisoned(1, 2, 5, 6, 7))
    assert checkpoint.read_state(checkpoint.find(tmp_path, last=True)).skipped == 4


def test_a_store_that_fails_stops_the_run_with_its_last_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fakes.config("coarse", run={"checkpoint_every": 1})
    start(tmp_path / "whole", config)
    save, calls = checkpoint.save_file, iter(range(100))

    def fail_in_the_third(tensors: Any, path: Path, **more: Any) -> None:
        if next(calls) == 5:  # two files each: the trainer's of step 3
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path, **more)

    monkeypatch.setattr(checkpoint, "save_file", fail_in_the_third)
    with pytest.raises(checkpoint.CheckpointError, match=r"No space left on device: .*step-00000003$"):
        start(tmp_path / "run", config)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path / "run")] == ["step-00000001", "step-00000002"]
    resume(tmp_path / "run", config)
    expected = tensors(tmp_path / "whole")
    assert [name for name, tensor in tensors(tmp_path / "run").items() if not tensor.equal(expected[name])] == []


def test_a_disk_too_full_for_figures_stops_the_run_with_a_checkpoint_of_its_last_step(tmp_path: Path) -> None:
    config = fakes.config("coarse", run={"validate_every": 0.25})
    start(tmp_path / "whole", config, validate=figures(*[0.0] * 8))
    named = pytest.raises(OSError, match=r"File too large: .*/run/metrics\.jsonl")
    validations = iter([(0.5, {}), (0.4, {LONG: 0.4}), (0.3, {})])  # the second is no better: no checkpoint is due
    with files_of_at_most(SIZE_BYTES), named:
        start(tmp_path / "run", config, validate=lambda: next(validations))
    names = [path.name for path in checkpoint.list_checkpoints(tmp_path / "run")]
    assert names == ["step-00000001", "step-00000002"]
    resume(tmp_path / "run", config, validate=figures(*[0.0] * 6))
    expected = tensors(tmp_path / "whole")
    assert [name for name, tensor in tensors(tmp_path / "run").items() if not tensor.equal(expected[name])] == []


def test_a_stream_that_ends_is_a_fault(tmp_path: Path) -> None:
    config = fakes.config(optim={"accumulation": 2})
    with pytest.raises(TrainingError, match="expected batches without end, found none at step 1, micro-step 1"):
        start(tmp_path, config, islice(fakes.endless(), 3))


def test_the_run_ends_when_validation_finds_nothing_better(tmp_path: Path) -> None:
    result = start(tmp_path, fakes.config(run=PATIENT), validate=figures(0.1, 0.5, 0.4, 0.5))
    assert (result.reason, result.state.step, result.state.best_step) == ("patience", 4, 2)


def test_the_best_checkpoint_outlives_the_last_ones(tmp_path: Path) -> None:
    start(tmp_path, fakes.config(run=PATIENT), validate=figures(0.1, 0.5, 0.4, 0.3))
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000002", "step-00000004"]
    assert checkpoint.find(tmp_path).name == "step-00000002"


def test_a_better_figure_restores_the_patience(tmp_path: Path) -> None:
    validate = figures(0.1, 0.0, 0.2, 0.1, 0.3, 0.2, 0.4, 0.3)
    assert start(tmp_path, fakes.config(run=PATIENT), validate=validate).reason == "done"


def test_without_patience_no_figure_ends_the_run(tmp_path: Path) -> None:
    result = start(tmp_path, fakes.config(run=PATIENT | {"patience": 0}), validate=figures(*[0.0] * 8))
    assert (result.reason, result.state.step) == ("done", 8)


def test_figures_of_validation_are_written_down(tmp_path: Path) -> None:
    start(tmp_path, fakes.config(run=PATIENT), validate=figures(0.1, 0.5), should_stop=after(2))
    assert [line["validation_r1"] for line in lines(tmp_path) if "validation_r1" in line] == [0.1, 0.5]


@pytest.mark.parametrize(("wanted", "enabled"), [("auto", False), ("fp32", False), ("bf16", True)])
def test_a_cpu_trains_in_fp32_unless_told_otherwise(wanted: str, enabled: bool) -> None:
    context = autocast(fakes.config(run={"precision": wanted}), torch.device("cpu"))
    assert (context._enabled, context.fast_dtype) == (enabled, torch.bfloat16)


@pytest.mark.parametrize("phase", ["coarse", "fine", "joint"])
def test_a_phase_trains_in_bf16(tmp_path: Path, phase: Any) -> None:
    config = fakes.config(phase, run={"precision": "bf16"})
    start(tmp_path, config, should_stop=after(2))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert all(tensor.isfinite().all() for tensor in tensors(tmp_path).values())


def test_a_line_of_the_fine_phase_has_figures_of_phrases(tmp_path: Path) -> None:
    start(tmp_path, fakes.config("fine"), should_stop=after(1))
    of_phrases = {"grounding", "grounding_acc50", "l1", "giou", "focal", "dice", "region", "region_temperature"}
    assert of_phrases < lines(tmp_path)[0].keys()


def test_the_queue_s_age_is_in_steps(tmp_path: Path) -> None:
    config = fakes.config(optim={"accumulation": 2})
    start(tmp_path, config, should_stop=after(3))
    # Two micro-steps of 4 fill the 8 slots: entries are 1 and 2 micro-steps old from then on, in the first step 0 and 1.
    assert [line["queue_age"] for line in lines(tmp_path) if "event" not in line] == pytest.approx([0.25, 0.75, 0.75])


def test_showing_comes_every_so_many_steps_and_changes_nothing(tmp_path: Path) -> None:
    config, steps = fakes.config(run={"show_every": 3}), list[int]()
    shown = start(tmp_path / "shown", config, show=lambda step: steps.append(step) or Shown(f"page {step}", "less"))
    plain = start(tmp_path / "plain", fakes.config())
    assert steps == [3, 6]
    assert (tmp_path / "shown/shown/step-00000006.html").read_text() == "page 6"
    assert lines(tmp_path / "shown") == lines(tmp_path / "plain")
    assert shown.state.step == plain.state.step == 8
    expected = tensors(tmp_path / "plain")
    assert [name for name, tensor in tensors(tmp_path / "shown").items() if not tensor.equal(expected[name])] == []


def test_pictures_are_of_a_model_that_does_not_train(tmp_path: Path) -> None:
    config, found = fakes.config(run={"show_every": 2}), list[bool]()
    objective = fakes.objective(config)

    def show(step: int) -> Shown:
        found.append(objective.training)
        return Shown("", "")

    train(objective, fakes.state(config, objective), fakes.endless(), tmp_path, show=show, should_stop=after(2))
    assert found == [False]
    assert objective.training
