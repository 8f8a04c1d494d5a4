"""Checkpoints: whole or not there, read back bit for bit, refused with a reason."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.optim import AdamW

from bitgen.model.bitgen import BitGen
from bitgen.objectives.total import Objective, draw
from bitgen.tokens import EOT
from bitgen.training import checkpoint
from bitgen.training.checkpoint import MODEL, STATE, TRAINER, CheckpointError, State
from bitgen.training.optimizer import build_optimizer, set_trainable
from tests import fakes
from tests.disk import files_of_at_most


def _trained(seed: int = 0, steps: int = 1) -> tuple[Objective, AdamW, State]:
    """An objective with moments and a queue."""
    config = fakes.config()
    objective = fakes.objective(config, seed)
    set_trainable(objective, lora=True)
    optimizer = build_optimizer(objective, config.optim)
    for step in range(steps):
        objective(fakes.fake_batch(), draw(0, step, 4, fakes.PATCHES, torch.device("cpu")))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return objective, optimizer, replace(fakes.state(config, objective), step=7, position=28)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Objective, AdamW, State]:
    run = tmp_path_factory.mktemp("run")
    objective, optimizer, state = _trained()
    return checkpoint.save(run, objective, optimizer, state, {}), objective, optimizer, state


@pytest.fixture
def folder(written: tuple[Path, Objective, AdamW, State], tmp_path: Path) -> Path:
    """A checkpoint to break: tmp_path/checkpoints/step-00000007."""
    shutil.copytree(written[0].parent, tmp_path / "checkpoints")
    return tmp_path / "checkpoints" / "step-00000007"


def test_a_model_comes_back_bit_for_bit(written: tuple[Path, Objective, AdamW, State]) -> None:
    folder, objective, _, _ = written
    model, _ = checkpoint.load_model(folder)
    expected = objective.model.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert [name for name, tensor in model.state_dict().items() if not tensor.equal(expected[name])] == []


def test_a_loaded_model_computes_what_the_saved_one_did(written: tuple[Path, Objective, AdamW, State]) -> None:
    folder, objective, _, _ = written
    images = fakes.fake_batch().images
    with torch.no_grad():
        found = checkpoint.load_model(folder)[0].encode_image(images).embedding
        assert found.equal(objective.model.eval().encode_image(images).embedding)


def test_a_state_comes_back(written: tuple[Path, Objective, AdamW, State]) -> None:
    assert checkpoint.read_state(written[0]) == written[3]


def test_moments_and_queue_come_back_bit_for_bit(written: tuple[Path, Objective, AdamW, State]) -> None:
    folder, objective, optimizer, _ = written
    other, others_optimizer, _ = _trained(seed=1, steps=0)
    checkpoint.load_trainer(other, others_optimizer, folder)
    pairs = dict(zip(objective.parameters(), other.parameters(), strict=True))
    for parameter, moments in optimizer.state.items():
        found = others_optimizer.state[pairs[parameter]]
        assert {name: value.tolist() for name, value in found.items()} == {n: v.tolist() for n, v in moments.items()}
    assert len(others_optimizer.state) == len(optimizer.state) > 50
    queue = objective.queue.state_dict()
    assert [name for name, tensor in other.queue.state_dict().items() if not tensor.equal(queue[name])] == []


def test_what_belongs_to_a_loss_comes_back_bit_for_bit(tmp_path: Path) -> None:
    config = fakes.config("fine", loss={"words": 1.0})
    ours, other = (fakes.objective(config, seed) for seed in (0, 1))
    for objective in (ours, other):
        set_trainable(objective, lora=True)
    optimizers = [build_optimizer(objective, config.optim) for objective in (ours, other)]
    ours(fakes.fake_batch(), draw(0, 0, 4, fakes.PATCHES, torch.device("cpu")))["loss"].backward()
    optimizers[0].step()
    saved = checkpoint.save(tmp_path, ours, optimizers[0], fakes.state(config, ours), {})
    checkpoint.load_trainer(other, optimizers[1], saved)
    assert ours.words is not None
    assert other.words is not None
    for name, value in ours.words.state_dict().items():
        assert other.words.get_parameter(name).equal(value)


def test_a_loaded_model_is_in_evaluation_mode(folder: Path) -> None:
    assert not checkpoint.load_model(folder)[0].training


@torch.no_grad()
def test_a_model_of_other_choices_is_rebuilt(tmp_path: Path) -> None:
    vision = replace(fakes.VISION, lora_layers=1, feature_layers=2)
    config = fakes.config(model={"vision": vision, "fusion": "concat", "text_pooling": "end"})
    objective, batch = fakes.objective(config), fakes.fake_batch()
    for _, parameter in objective.model.vision.lora_parameters():
        torch.nn.init.normal_(parameter)
    optimizer = build_optimizer(objective, config.optim)
    folder = checkpoint.save(tmp_path, objective, optimizer, fakes.state(config, objective), {})
    rows, found = torch.arange(4), []
    for model in (objective.model.eval(), checkpoint.load_model(folder)[0]):
        image, text = model.encode_image(batch.images), model.encode_text(batch.token_ids, batch.token_mask)
        found.append(
            torch.cat([image.embedding.flatten(), text.embedding.flatten(), model.match(image, text, rows, rows)])
        )
    assert found[0].equal(found[1])


KEPT = (11, 64, 582, EOT)


def _trimmed(run: Path) -> tuple[BitGen, Path]:
    """A model of four tokens, and its checkpoint."""
    config = fakes.config(model={"vocabulary": len(KEPT)})
    objective = Objective(BitGen(config.model, kept=KEPT), config.loss, config.data)
    optimizer = build_optimizer(objective, config.optim)
    return objective.model, checkpoint.save(run, objective, optimizer, fakes.state(config, objective), {})


@torch.no_grad()
def test_a_trimmed_vocabulary_comes_back(tmp_path: Path) -> None:
    model, folder = _trimmed(tmp_path)
    found = checkpoint.load_model(folder)[0]
    ids, mask = torch.tensor([[EOT, 64, 5, EOT], [EOT, 582, 11, EOT]]), torch.ones(2, 4, dtype=torch.bool)
    assert found.encode_text(ids, mask).dual.equal(model.eval().encode_text(ids, mask).dual)
    assert found.text.token.listed([[0, 1, 2, 3]]) == [list(KEPT)]


@pytest.mark.parametrize("kept", [[64, 11, 582, EOT], [11, 11, 64, EOT], [-1, 11, 64, EOT], [11, 64, 582, 600]])
def test_a_vocabulary_that_cannot_be_is_refused_and_named(tmp_path: Path, kept: list[int]) -> None:
    folder = _trimmed(tmp_path)[1]
    _retensor(folder / MODEL, lambda tensors: tensors.update({"text.token.kept": torch.tensor(kept)}))
    with pytest.raises(CheckpointError, match=r"^expected ascending token ids from 0, the last 50256, found ") as error:
        checkpoint.load_model(folder)
    assert str(folder / MODEL) in str(error.value)


def test_a_checkpoint_is_three_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [MODEL, STATE, TRAINER]


def test_the_published_file_holds_the_model_alone(folder: Path) -> None:
    assert load_file(folder / MODEL).keys() == BitGen(fakes.MODEL).state_dict().keys()


def test_a_checkpoint_names_the_versions_that_wrote_it(folder: Path) -> None:
    fields = json.loads((folder / STATE).read_text())
    assert fields["format_version"] == 1
    assert fields["versions"]["torch"] == torch.__version__.partition("+")[0]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def _retensor(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model file": (lambda f: (f / MODEL).unlink(), f"found no {MODEL}"),
    "no state": (lambda f: (f / STATE).unlink(), f"expected a readable {STATE}"),
    "half a model": (lambda f: _cut(f / MODEL), "expected a readable safetensors file"),
    "an empty model": (lambda f: (f / MODEL).write_bytes(b""), "expected a readable safetensors file"),
    "half a state": (lambda f: _cut(f / STATE), f"expected a readable {STATE}"),
    "a state of no object": (lambda f: (f / STATE).write_text("5"), f"expected a readable {STATE}"),
    "a state of bytes": (lambda f: (f / STATE).write_bytes(b"\xff\xfe"), f"expected a readable {STATE}"),
    "a state without a version": (lambda f: _edit(f / STATE, lambda s: s.pop("format_version")), "readable"),
    "another version": (
        lambda f: _edit(f / STATE, lambda s: s.update(format_version=9)),
        "expected checkpoint format 1, found 9",
    ),
    "an unknown field": (lambda f: _edit(f / STATE, lambda s: s.update(colour="red")), "colour"),
    "a missing field": (lambda f: _edit(f / STATE, lambda s: s.pop("position")), "position"),
    "a step of words": (lambda f: _edit(f / STATE, lambda s: s.update(step="seven")), "found 'seven'"),
    "a negative position": (lambda f: _edit(f / STATE, lambda s: s.update(position=-1)), "found -1"),
    "an unknown setting": (lambda f: _edit(f / STATE, lambda s: s["config"]["optim"].update(speed=1)), "'speed'"),
    "a tower of another kind": (
        lambda f: _edit(f / STATE, lambda s: s["vision"].update(model_type="vit")),
        "expected a model of type dinov2",
    ),
    "a missing tensor": (
        lambda f: _retensor(f / MODEL, lambda t: t.pop("image_norm.weight")),
        "1 missing ['image_norm.weight'], 0 unknown []",
    ),
    "an unknown tensor": (
        lambda f: _retensor(f / MODEL, lambda t: t.update(extra=torch.zeros(1))),
        "0 missing [], 1 unknown ['extra']",
    ),
    "a tensor of another shape": (
        lambda f: _retensor(f / MODEL, lambda t: t.update({"image_norm.weight": torch.zeros(3)})),
        "expected image_norm.weight of shape [16], found [3]",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_named(folder: Path, damage: str) -> None:
    harm, message = DAMAGES[damage]
    harm(folder)
    with pytest.raises(CheckpointError, match=r"^expected ") as error:
        checkpoint.load_model(folder)
    assert message in str(error.value)
    assert str(folder) in str(error.value)


TRAINER_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no trainer file": (lambda f: (f / TRAINER).unlink(), "expected a readable safetensors file"),
    "half a trainer file": (lambda f: _cut(f / TRAINER), "expected a readable safetensors file"),
    "no queue": (lambda f: _retensor(f / TRAINER, lambda t: t.pop("queue.count")), "count"),
    "a queue of another size": (
        lambda f: _retensor(f / TRAINER, lambda t: t.update({"queue.images": torch.zeros(3, 16)})),
        "images",
    ),
    "an unknown parameter": (
        lambda f: _retensor(f / TRAINER, lambda t: t.update({"exp_avg.model.nothing": torch.zeros(1)})),
        "model.nothing",
    ),
    "a moment of another shape": (
        lambda f: _retensor(f / TRAINER, lambda t: t.update({"exp_avg.model.image_norm.weight": torch.zeros(3)})),
        "exp_avg.model.image_norm.weight of shape [16], found [3]",
    ),
    "a missing moment": (
        lambda f: _retensor(f / TRAINER, lambda t: t.pop("exp_avg.model.image_norm.weight")),
        "model.image_norm.weight",
    ),
}


@pytest.mark.parametrize("damage", TRAINER_DAMAGES)
def test_a_damaged_trainer_state_is_refused_and_named(folder: Path, damage: str) -> None:
    harm, message = TRAINER_DAMAGES[damage]
    harm(folder)
    objective, optimizer, _ = _trained(steps=0)
    with pytest.raises(CheckpointError, match=r"^expected ") as error:
        checkpoint.load_trainer(objective, optimizer, folder)
    assert message in str(error.value)
    assert str(folder) in str(error.value)


def test_a_pickle_in_place_of_tensors_is_not_opened(folder: Path) -> None:
    torch.save({"image_norm.weight": torch.zeros(16)}, folder / MODEL)
    with pytest.raises(CheckpointError, match="expected a readable safetensors file"):
        checkpoint.load_model(folder)


@pytest.mark.parametrize("size_bytes", [1000, 3_600_000])
def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_else(folder: Path, size_bytes: int) -> None:
    objective, optimizer, state = _trained()
    run = folder.parents[1]
    assert (folder / MODEL).stat().st_size < 3_600_000 < (folder / TRAINER).stat().st_size
    with files_of_at_most(size_bytes), pytest.raises(CheckpointError, match="expected to write a checkpoint") as error:
        checkpoint.save(run, objective, optimizer, replace(state, step=8), {})
    assert "step-00000008" in str(error.value)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000007"]
    assert checkpoint.load_model(run)[1].step == 7


def _fails(code: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


FAILURES = {
    "the model": ("save_file", errno.ENOSPC),
    "the disk's cache": ("sync", errno.EIO),
    "the name": ("take_name", errno.EROFS),
}


@pytest.mark.parametrize("step", [7, 8])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_store_that_fails_at_any_point_leaves_the_last_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failure: str, step: int
) -> None:
    name, code = FAILURES[failure]
    objective, optimizer, state = _trained(seed=5, steps=0)
    before = load_file(folder / MODEL)["image_pool.query"]
    monkeypatch.setattr(checkpoint, name, _fails(code))
    with pytest.raises(CheckpointError, match=os.strerror(code)):
        checkpoint.save(folder.parents[1], objective, optimizer, replace(state, step=step), {})
    assert [path.name for path in folder.parent.iterdir()] == ["step-00000007"]
    assert load_file(folder / MODEL)["image_pool.query"].equal(before)


def test_a_checkpoint_that_cannot_be_replaced_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, optimizer, state = _trained(seed=5, steps=0)
    before, replace_file = load_file(folder / MODEL)["image_pool.query"], os.replace

    def fail_for_the_new_one(source: Path, target: Path) -> None:
        if target == folder and source.name.endswith(f".{os.getpid()}.tmp"):
            raise OSError(errno.EIO, "Input/output error")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", fail_for_the_new_one)
    with pytest.raises(CheckpointError, match="Input/output error"):
        checkpoint.save(folder.parents[1], objective, optimizer, state, {})
    assert [path.name for path in folder.parent.iterdir()] == ["step-00000007"]
    assert load_file(folder / MODEL)["image_pool.query"].equal(before)


def test_a_run_that_is_a_file_is_named(tmp_path: Path) -> None:
    objective, optimizer, state = _trained(steps=0)
    (tmp_path / "run").write_text("")
    with pytest.raises(CheckpointError, match="expected to write a checkpoint"):
        checkpoint.save(tmp_path / "run", objective, optimizer, state, {})


def test_what_a_killed_write_left_goes_with_the_next_one(folder: Path) -> None:
    objective, optimizer, state = _trained(steps=0)
    stale = folder.with_name(".step-00000006.12345.tmp")
    stale.mkdir()
    (stale / MODEL).write_bytes(b"half")
    checkpoint.save(folder.parents[1], objective, optimizer, replace(state, step=8), {})
    assert sorted(path.name for path in folder.parent.iterdir()) == ["step-00000007", "step-00000008"]


def test_a_checkpoint_of_the_same_step_is_replaced(folder: Path) -> None:
    objective, optimizer, state = _trained(seed=5, steps=0)
    checkpoint.save(folder.parents[1], objective, optimizer, state, {})
    found = load_file(folder / MODEL)["image_pool.query"]
    assert found.equal(objective.model.image_pool.query)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def _steps(run: Path, *steps: int, best: int | None = None) -> Path:
    """A run with checkpoints that hold no more than a state."""
    config = fakes.config()
    for step in steps:
        folder = run / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / STATE).write_text(checkpoint._state_json(State(step, 0, 8, config, "", {}, best_step=best)))
        (folder / MODEL).write_bytes(b"")
    return run


def _found(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoint.list_checkpoints(run)]


@pytest.mark.parametrize(
    ("keep", "best", "kept"), [(2, None, [30, 40]), (1, 20, [20, 40]), (2, 40, [30, 40]), (9, None, [10, 20, 30, 40])]
)
def test_the_last_and_the_best_are_kept(tmp_path: Path, keep: int, best: int | None, kept: list[int]) -> None:
    run = _steps(tmp_path, 10, 20, 30, 40)
    checkpoint.prune(run, keep, best)
    assert _found(run) == kept


@pytest.mark.parametrize(("best", "named"), [(20, "step-00000020"), (None, "step-00000040"), (30, "step-00000030")])
def test_the_best_and_the_last_are_named_where_they_lie(tmp_path: Path, best: int | None, named: str) -> None:
    run = _steps(tmp_path, 10, 20, 30, 40, best=best)
    checkpoint.prune(run, 1, best)
    found = [(run / "checkpoints" / name).read_text() for name in ("best", "last")]
    assert found == [f"{named}\n", "step-00000040\n"]
    assert [checkpoint.find(run / "checkpoints" / name).name for name in ("best", "last")] == [named, "step-00000040"]


def test_a_delete_that_fails_is_named_and_leaves_what_is_to_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _steps(tmp_path, 10, 20)
    monkeypatch.setattr(checkpoint.shutil, "rmtree", _fails(errno.EIO))
    with pytest.raises(CheckpointError, match=r"^expected to tidy up checkpoints, found .*: .*checkpoints$"):
        checkpoint.prune(run, 1, None)
    assert _found(run) == [20]


@pytest.mark.parametrize(("last", "name"), [(False, "step-00000010"), (True, "step-00000020")])
def test_a_run_means_its_best_or_its_last_checkpoint(tmp_path: Path, last: bool, name: str) -> None:
    assert checkpoint.find(_steps(tmp_path, 10, 20, best=10), last=last).name == name


def test_a_run_without_validation_means_its_last_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.find(_steps(tmp_path, 10, 20)).name == "step-00000020"


def test_a_run_whose_best_is_gone_means_its_last(tmp_path: Path) -> None:
    assert checkpoint.find(_steps(tmp_path, 20, 30, best=10)).name == "step-00000030"


def test_a_checkpoint_folder_means_itself(tmp_path: Path) -> None:
    folder = _steps(tmp_path, 10, 20) / "checkpoints" / "step-00000010"
    assert checkpoint.find(folder) == folder


def test_an_unfinished_checkpoint_is_not_seen(tmp_path: Path) -> None:
    run = _steps(tmp_path, 10)
    (run / "checkpoints" / ".step-00000020.1.tmp").mkdir()
    assert _found(run) == [10]


@pytest.mark.parametrize("path", ["nothing", ".", "hf:/a/b"])
def test_a_place_without_a_checkpoint_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(CheckpointError, match="expected a run folder, a checkpoint folder or hf://owner/name"):
        checkpoint.find(tmp_path / path)


def test_a_small_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    checkpoint.write_file(path, "old")
    with files_of_at_most(100), pytest.raises(OSError, match=f"File too large: '{path}'"):
        checkpoint.write_file(path, "new" * 100)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("config.json", "old")]
