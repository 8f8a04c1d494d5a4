"""The loop: exact resumption, the thaw, and every way in which a run ends."""

import json
from collections.abc import Callable, Iterable, Iterator
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
from bitgen.training.checkpoint import MODEL, TRAINER
from bitgen.training.config import TrainConfig
from bitgen.training.loop import Result, TrainingError, precision, train
from bitgen.training.optimizer import set_trainable
from tests import fakes


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """As cli/train.py on a CPU."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def _start(run: Path, config: TrainConfig, batches: Iterable[Batch] | None = None, **options: Any) -> Result:
    run.mkdir(exist_ok=True)
    objective = fakes.objective(config)
    return train(objective, fakes.state(config, objective), batches or fakes.endless(), run, **options)


def _resume(run: Path, config: TrainConfig, **options: Any) -> Result:
    folder = checkpoint.find(run, last=True)
    state = replace(checkpoint.read_state(folder), config=config)
    objective = fakes.objective(config, seed=99)
    checkpoint.load_weights(objective.model, folder)
    stream = fakes.endless(position=state.position)
    return train(objective, state, stream, run, resume_from=folder, **options)


def _after(steps: int) -> Callable[[], bool]:
    """Asks to stop once `steps` steps are done."""
    asked = iter([False] * (steps - 1))
    return lambda: next(asked, True)


def _lines(run: Path) -> list[dict[str, Any]]:
    """Figures without the clock's."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_s"} for line in lines]


def _tensors(run: Path) -> dict[str, Tensor]:
    folder = checkpoint.find(run, last=True)
    return load_file(folder / MODEL) | load_file(folder / TRAINER)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 steps that nothing interrupted, thawed at step 4, a checkpoint at every step."""
    torch.use_deterministic_algorithms(True)
    run = tmp_path_factory.mktemp("whole") / "run"
    _start(run, _config())
    return run


def _config(**changes: Any) -> TrainConfig:
    return fakes.config("coarse", run={"checkpoint_every": 1, "keep": 8} | changes)


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_a_run_that_stopped_goes_on_bit_for_bit(whole: Path, tmp_path: Path, stop: int) -> None:
    stopped = _start(tmp_path / "run", _config(), should_stop=_after(stop))
    assert (stopped.reason, stopped.state.step) == ("stopped", stop)
    assert _resume(tmp_path / "run", _config()).reason == "done"
    expected = _tensors(whole)
    assert _tensors(tmp_path / "run").keys() == expected.keys()
    assert [name for name, tensor in _tensors(tmp_path / "run").items() if not tensor.equal(expected[name])] == []
    assert _lines(tmp_path / "run") == _lines(whole)


def test_a_run_that_was_killed_after_its_figures_goes_on_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    _start(tmp_path / "run", _config(checkpoint_every=4), should_stop=_after(6))
    last = checkpoint.find(tmp_path / "run", last=True)
    last.rename(last.with_name("lost"))  # as if the kill had come before it: the last is of step 4
    _resume(tmp_path / "run", _config(checkpoint_every=4))
    expected = _tensors(whole)
    assert [name for name, tensor in _tensors(tmp_path / "run").items() if not tensor.equal(expected[name])] == []
    assert _lines(tmp_path / "run") == _lines(whole)


def test_figures_are_the_same_wherever_a_run_stopped_between_two_lines(tmp_path: Path) -> None:
    config = fakes.config(run={"log_every": 4})
    _start(tmp_path / "whole", config)
    _start(tmp_path / "run", config, should_stop=_after(6))
    _resume(tmp_path / "run", config)
    assert _lines(tmp_path / "run") == _lines(tmp_path / "whole")


def test_the_fine_phase_goes_on_bit_for_bit_too(tmp_path: Path) -> None:
    config = fakes.config("fine", optim={"accumulation": 2, "epochs": 2})
    _start(tmp_path / "whole", config)
    _start(tmp_path / "run", config, should_stop=_after(3))
    _resume(tmp_path / "run", config)
    expected = _tensors(tmp_path / "whole")
    assert [name for name, tensor in _tensors(tmp_path / "run").items() if not tensor.equal(expected[name])] == []


def test_the_thaw_is_written_down_once(whole: Path) -> None:
    objective = fakes.objective(_config())
    set_trainable(objective, lora=True)
    adapters = sum(p.numel() for _, p in objective.model.vision.lora_parameters())
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    assert [(line["step"], line["event"]) for line in _lines(whole) if "event" in line] == [
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


def _weights_at(run: Path, step: int) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / MODEL)


@pytest.mark.parametrize(("first", "last", "moved"), [(1, 4, False), (4, 5, True)])
def test_adapters_move_from_the_thaw_on(whole: Path, first: int, last: int, moved: bool) -> None:
    before, after = _weights_at(whole, first), _weights_at(whole, last)
    changed = {not after[name].equal(before[name]) for name in before if ".lora_B." in name}
    assert changed == {moved}


def test_the_tower_itself_never_moves(whole: Path) -> None:
    before, after = _weights_at(whole, 1), _weights_at(whole, 8)
    names = [name for name in before if name.startswith("vision.backbone") and ".lora_" not in name]
    assert len(names) > 20
    assert [name for name in names if not after[name].equal(before[name])] == []


def test_figures_name_every_loss_the_rate_and_the_gates(whole: Path) -> None:
    losses = {"loss", "itc", "itm", "text", "memory_kl", "temperature", "grad_norm"}
    assert _lines(whole)[0].keys() == losses | {"step", "epoch", "lr", "gate_image_0", "gate_text_0"}


def test_epochs_and_rates_are_those_of_the_step(whole: Path) -> None:
    lines = [line for line in _lines(whole) if "event" not in line]
    assert [line["epoch"] for line in lines] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert lines[0]["lr"] == pytest.approx(1e-3)  # a tenth of 8 steps is one warm-up step
    assert lines[7]["lr"] == pytest.approx(1e-3 * (0.1 + 0.9 * (1 + torch.tensor(6 / 7 * torch.pi).cos().item()) / 2))


def test_the_position_counts_draws(tmp_path: Path) -> None:
    result = _start(tmp_path, fakes.config("fine", optim={"accumulation": 2}), should_stop=_after(1))
    assert result.state.position == 8


def test_accumulated_micro_steps_are_one_step_of_their_mean(tmp_path: Path) -> None:
    config = fakes.config("fine", loss={"itc": 0.0, "text": 0.0, "region": 0.0}, optim={"accumulation": 2})
    batches = [fakes.fake_batch(seed=0), fakes.fake_batch(seed=1)]
    _start(tmp_path / "both", config, batches, should_stop=_after(1))
    one = replace(config, optim=replace(config.optim, accumulation=1))
    singles = []
    for i, batch in enumerate(batches):
        _start(tmp_path / str(i), one, [batch], should_stop=_after(1))
        singles.append(_lines(tmp_path / str(i))[0]["grounding"])
    assert _lines(tmp_path / "both")[0]["grounding"] == pytest.approx(sum(singles) / 2, rel=1e-6)


STILL = {"lr": 1e-30, "weight_decay": 0.0}
"""Nothing moves, so that a loss depends on its draws alone."""


def test_every_micro_step_has_draws_of_its_own(tmp_path: Path) -> None:
    losses = {"itc": 0.0, "episode_share": 0.5}
    found = {}
    for accumulation in (1, 2):
        config = fakes.config(loss=losses, optim=STILL | {"accumulation": accumulation, "lora_warmup_epochs": 0.0})
        _start(tmp_path / str(accumulation), config, [fakes.fake_batch()] * 4, should_stop=_after(4 // accumulation))
        found[accumulation] = [line["loss"] for line in _lines(tmp_path / str(accumulation))]
    first, second, third, fourth = found[1]
    assert len({first, second, third, fourth}) == 4
    assert found[2] == pytest.approx([(first + second) / 2, (third + fourth) / 2], rel=1e-5)


def test_a_batch_twice_has_the_gradient_of_the_batch(tmp_path: Path) -> None:
    only_grounding = {"itc": 0.0, "text": 0.0, "region": 0.0}
    for accumulation in (1, 2):
        config = fakes.config("fine", loss=only_grounding, optim={"accumulation": accumulation})
        _start(tmp_path / str(accumulation), config, [fakes.fake_batch()] * 2, should_stop=_after(1))
    once, twice = (_lines(tmp_path / name)[0]["grad_norm"] for name in ("1", "2"))
    assert twice == pytest.approx(once, rel=1e-5)


def _moved(run: Path, config: TrainConfig) -> dict[str, float]:
    """How far each parameter moves in one step, at most."""
    before = fakes.objective(config).model.state_dict()
    _start(run, config, should_stop=_after(1))
    return {name: float((after - before[name]).abs().max()) for name, after in _weights_at(run, 1).items()}


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
    _start(tmp_path, fakes.config(optim={"clip": 1e-12}), should_stop=_after(1))
    assert _lines(tmp_path)[0]["grad_norm"] > 0.1


def test_the_loss_falls(tmp_path: Path) -> None:
    batch = fakes.fake_batch()
    config = fakes.config("coarse", optim={"epochs": 10, "lr": 3e-3}, loss={"queue": 0})
    _start(tmp_path, config, [batch] * 40)
    losses = [line["loss"] for line in _lines(tmp_path) if "event" not in line]
    assert losses[-1] < 0.8 * losses[0]


def _poisoned(at: int) -> Iterator[Batch]:
    """Boxes that are not a number in batch `at`."""
    for step, batch in enumerate(fakes.endless()):
        boxes = batch.boxes * torch.nan if step == at else batch.boxes
        yield replace(batch, boxes=boxes)


@pytest.mark.parametrize("log_every", [1, 3, 100])
def test_a_loss_that_is_not_finite_stops_the_run_with_its_samples(tmp_path: Path, log_every: int) -> None:
    config = fakes.config("fine", run={"log_every": log_every})
    with pytest.raises(TrainingError, match=r"^expected finite .*focal.* at step 4: fake-12, .*, fake-15$"):
        _start(tmp_path, config, _poisoned(3))


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    config = fakes.config("fine", run={"log_every": 100, "checkpoint_every": 2})
    with pytest.raises(TrainingError):
        _start(tmp_path, config, _poisoned(2))
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000002"]
    assert all(tensor.isfinite().all() for tensor in _weights_at(tmp_path, 2).values())


def test_a_stream_that_ends_is_a_fault(tmp_path: Path) -> None:
    config = fakes.config(optim={"accumulation": 2})
    with pytest.raises(TrainingError, match="expected batches without end, found none at step 1, micro-step 1"):
        _start(tmp_path, config, islice(fakes.endless(), 3))


def _figures(*values: float) -> Callable[[], tuple[float, dict[str, float]]]:
    """A validation that gives these figures, one after the other."""
    coming = iter(values)

    def validate() -> tuple[float, dict[str, float]]:
        figure = next(coming)
        return figure, {"r1": figure}

    return validate


PATIENT = {"validate_every": 0.25, "patience": 2, "checkpoint_every": 100, "keep": 1}
"""A validation after every step."""


def test_the_run_ends_when_validation_finds_nothing_better(tmp_path: Path) -> None:
    result = _start(tmp_path, fakes.config(run=PATIENT), validate=_figures(0.1, 0.5, 0.4, 0.5))
    assert (result.reason, result.state.step, result.state.best_step) == ("patience", 4, 2)


def test_the_best_checkpoint_outlives_the_last_ones(tmp_path: Path) -> None:
    _start(tmp_path, fakes.config(run=PATIENT), validate=_figures(0.1, 0.5, 0.4, 0.3))
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000002", "step-00000004"]
    assert checkpoint.find(tmp_path).name == "step-00000002"


def test_a_better_figure_restores_the_patience(tmp_path: Path) -> None:
    validate = _figures(0.1, 0.0, 0.2, 0.1, 0.3, 0.2, 0.4, 0.3)
    assert _start(tmp_path, fakes.config(run=PATIENT), validate=validate).reason == "done"


def test_without_patience_no_figure_ends_the_run(tmp_path: Path) -> None:
    result = _start(tmp_path, fakes.config(run=PATIENT | {"patience": 0}), validate=_figures(*[0.0] * 8))
    assert (result.reason, result.state.step) == ("done", 8)


def test_patience_survives_a_stop(tmp_path: Path) -> None:
    config = fakes.config(run=PATIENT)
    _start(tmp_path, config, validate=_figures(0.5, 0.1), should_stop=_after(2))
    result = _resume(tmp_path, config, validate=_figures(0.2, 0.2))
    assert (result.reason, result.state.step) == ("patience", 3)


def test_figures_of_validation_are_written_down(tmp_path: Path) -> None:
    _start(tmp_path, fakes.config(run=PATIENT), validate=_figures(0.1, 0.5), should_stop=_after(2))
    assert [line["validation_r1"] for line in _lines(tmp_path) if "validation_r1" in line] == [0.1, 0.5]


def test_a_run_that_is_done_stays_as_it_is(tmp_path: Path) -> None:
    config = fakes.config()
    before = _start(tmp_path, config)
    lines, again = _lines(tmp_path), _resume(tmp_path, config)
    assert (again.reason, again.state, again.checkpoint) == ("done", before.state, before.checkpoint)
    assert _lines(tmp_path) == lines


def test_a_run_that_ended_by_patience_stays_as_it_is(tmp_path: Path) -> None:
    config = fakes.config(run=PATIENT)
    before = _start(tmp_path, config, validate=_figures(0.5, 0.4, 0.3))
    again = _resume(tmp_path, config, validate=_figures(0.9))
    assert (again.reason, again.state) == ("patience", before.state)


@pytest.mark.parametrize(("wanted", "enabled"), [("auto", False), ("fp32", False), ("bf16", True)])
def test_a_cpu_trains_in_fp32_unless_told_otherwise(wanted: str, enabled: bool) -> None:
    context = precision(fakes.config(run={"precision": wanted}), torch.device("cpu"))
    assert (context._enabled, context.fast_dtype) == (enabled, torch.bfloat16)


@pytest.mark.parametrize("phase", ["coarse", "fine"])
def test_a_phase_trains_in_bf16(tmp_path: Path, phase: Any) -> None:
    config = fakes.config(phase, run={"precision": "bf16"})
    _start(tmp_path, config, should_stop=_after(2))
    assert [line["step"] for line in _lines(tmp_path)] == [1, 2]
    assert all(tensor.isfinite().all() for tensor in _tensors(tmp_path).values())
