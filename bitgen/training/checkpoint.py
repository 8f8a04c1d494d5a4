"""Checkpoints: safetensors and JSON, written whole or not at all, read without running any code from them.

runs/<name>/config.json
runs/<name>/checkpoints/step-00001200/model.safetensors     the model, what is published
                                      trainer.safetensors   optimizer moments, queues and what belongs to losses
                                      state.json            step, position, configuration, hold-out hash, versions
runs/<name>/checkpoints/best, last                          the names of two of them, for whoever looks
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bitgen.disk import sync, take_name
from bitgen.model.bitgen import BitGen, build_tower
from bitgen.model.vision import VisionError
from bitgen.objectives.total import Objective
from bitgen.training.config import ConfigError, TrainConfig
from bitgen.training.folders import BEST, CHECKPOINTS, HOLDOUT, LAST, latest_run

FORMAT_VERSION = 1
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter."""
MODEL, TRAINER, STATE = "model.safetensors", "trainer.safetensors", "state.json"


class CheckpointError(Exception):
    """A checkpoint is missing, damaged, of another shape or format, or could not be written."""


@dataclass(frozen=True)
class State:
    """Where a run stands, all of it plain values: the random choices follow from the seed and the step."""

    step: int
    """Optimizer steps done."""
    position: int
    """Draws of the stream done."""
    samples_per_epoch: int
    config: TrainConfig
    holdout_sha256: str
    """Of the evaluation images that the training shards leave out."""
    vision: dict[str, Any]
    """The shape of the vision tower, as `VisionTower.config_dict` gives it."""
    stream: str = ""
    """`shards.mixture.Mixture.fingerprint` of the order that `position` counts in."""
    best_figure: float | None = None
    best_step: int | None = None
    validations_without_better: int = 0
    skipped: int = 0
    """Steps left out since the start, for figures that were not finite."""
    skipped_in_a_row: int = 0

    def __post_init__(self) -> None:
        for name in (
            "step",
            "position",
            "samples_per_epoch",
            "validations_without_better",
            "skipped",
            "skipped_in_a_row",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"expected {name} to be a whole number from 0, found {value!r}")


def write_file(path: Path, content: str) -> None:
    """Write a small file whole or not at all. Raises `OSError` that names it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = os.fspath(path)  # writing and syncing name none
        raise


def save(
    run: Path, objective: Objective, optimizer: torch.optim.Optimizer, state: State, figures: Mapping[str, Tensor]
) -> Path:
    """Write `run/checkpoints/step-...` and return it. Raises `CheckpointError`; then nothing new stays behind.

    Args:
        figures: of the steps since the last line of metrics.jsonl, whose means are still to be written.
    """
    folder = run / CHECKPOINTS / f"step-{state.step:08d}"
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for left_by_a_kill in folder.parent.glob(".step-*.tmp"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(_plain(objective.model.state_dict()), temporary / MODEL, metadata={"format": "pt"})
        tensors = _trainer_tensors(objective, optimizer) | {f"figure.{name}": v for name, v in figures.items()}
        save_file(_plain(tensors), temporary / TRAINER, metadata={"format": "pt"})
        (temporary / STATE).write_text(_state_json(state), encoding="utf-8")
        for name in (MODEL, TRAINER, STATE):
            sync(temporary / name)
        sync(temporary)
        take_name(temporary, folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"expected to write a checkpoint, found {error}: {folder}") from error
    return folder


def prune(run: Path, keep: int, best_step: int | None) -> None:
    """Delete all checkpoints but the last `keep` and the best, and note in `best` and `last` which those are.

    Raises `CheckpointError`; the checkpoints that are to stay are whole all the same.
    """
    last = list_checkpoints(run)[-max(keep, 1) :]
    best = run / CHECKPOINTS / f"step-{best_step or 0:08d}"
    try:
        for folder in list_checkpoints(run):
            if folder not in (*last, best):
                half = folder.with_name(f".{folder.name}.old.tmp")  # a kill half way leaves no folder that looks whole
                os.replace(folder, half)
                shutil.rmtree(half)
        for name, folder in ((BEST, best if best.is_dir() else last[-1]), (LAST, last[-1])):
            write_file(run / CHECKPOINTS / name, folder.name + "\n")
    except OSError as error:
        raise CheckpointError(f"expected to tidy up checkpoints, found {error}: {run / CHECKPOINTS}") from error


def list_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first. Unfinished ones have other names."""
    return sorted(run.glob(f"{CHECKPOINTS}/step-*"))


def find(path: str | Path, last: bool = False) -> Path:
    """The checkpoint folder that `path` means: itself, a run's best (its last where none was validated), or hf://owner/name.

    Of the two runs of `--phase both` the later that has a checkpoint counts; `checkpoints/best` and `checkpoints/last` of a run
    say which is meant.

    Args:
        last: prefer a run's last checkpoint, as resuming does.
    """
    if str(path).startswith("hf://"):
        return _download(str(path)[len("hf://") :])
    path = Path(path)
    if (path / MODEL).is_file():
        return path
    if path.parent.name == CHECKPOINTS and path.name in (BEST, LAST):
        return find(path.parents[1], last=path.name == LAST)
    checkpoints = list_checkpoints(latest_run(path))
    if not checkpoints:
        raise CheckpointError(
            f"expected a run folder, a checkpoint folder or hf://owner/name, found no {MODEL}: {path}"
        )
    best = read_state(checkpoints[-1]).best_step
    preferred = checkpoints[-1].with_name(f"step-{best or 0:08d}")
    return preferred if preferred.is_dir() and not last else checkpoints[-1]


def read_state(folder: Path) -> State:
    """The `state.json` of a checkpoint folder."""
    try:
        fields = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise TypeError(f"no object, {str(fields)[:60]!r}")
        found = fields.pop("format_version")
        if found != FORMAT_VERSION:
            raise CheckpointError(f"expected checkpoint format {FORMAT_VERSION}, found {found}: {folder}")
        del fields["versions"]
        return State(**{**fields, "config": TrainConfig.from_json(json.dumps(fields["config"]))})
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"expected a readable {STATE}, found {error!r}: {folder}") from error


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[BitGen, State]:
    """The model of a checkpoint in evaluation mode, and its state. Needs no hub: shape and weights are in the folder."""
    folder = find(path)
    state = read_state(folder)
    model = build_model(state, folder)
    load_weights(model, folder)
    return model.to(device).eval(), state


def build_model(state: State, folder: Path) -> BitGen:
    """A model of the shape that `folder`'s state gives, its weights still to come."""
    try:
        tower = build_tower(state.config.model.vision, empty=True, shape=state.vision)
    except (VisionError, ValueError, TypeError) as error:
        raise CheckpointError(f"{error}: {folder / STATE}") from error
    return BitGen(state.config.model, tower)


def load_weights(model: BitGen, folder: Path) -> None:
    """Fill `model` from a checkpoint folder. Raises `CheckpointError` where names or shapes differ."""
    tensors = _read(folder / MODEL)
    expected = model.state_dict()
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise CheckpointError(
            f"expected the {len(expected)} tensors of this model, found {len(missing)} missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}: {folder / MODEL}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"expected {name} of shape {list(expected[name].shape)}, found {list(tensor.shape)}: {folder / MODEL}"
            )
    model.load_state_dict(tensors)
    try:
        model.text.token.check()
    except ValueError as error:
        raise CheckpointError(f"{error}: {folder / MODEL}") from error


def load_trainer(objective: Objective, optimizer: torch.optim.Optimizer, folder: Path) -> dict[str, Tensor]:
    """Put queues, what belongs to a loss and the moments of every parameter that trains back; returns the figures that `save` was
    given.

    Raises `CheckpointError` where something is missing, left over, or of another shape.
    """
    path = folder / TRAINER
    tensors = _read(path)
    figures = _take(tensors, "figure.")
    for name, part in _own_parts(objective).items():
        try:
            part.load_state_dict(_take(tensors, f"{name}."))
        except RuntimeError as error:
            raise CheckpointError(f"expected the {name} of this run, found {error}: {path}") from error
    for name, parameter in objective.named_parameters():
        for moment in _MOMENTS if parameter.requires_grad else ():
            tensor = tensors.pop(f"{moment}.{name}", None)
            expected, found = list(parameter.shape), None if tensor is None else list(tensor.shape)
            if tensor is None or (moment != "step" and found != expected):
                raise CheckpointError(f"expected {moment}.{name} of shape {expected}, found {found}: {path}")
            optimizer.state[parameter][moment] = tensor.to(parameter.device)
    if tensors:
        raise CheckpointError(f"expected moments of what trains, found also {sorted(tensors)[:3]}: {path}")
    return figures


def _own_parts(objective: Objective) -> Mapping[str, nn.Module]:
    """What the objective has beside the model, by the prefix of its tensors' names."""
    parts = {"queue": objective.queue, "token_queue": objective.token_queue, "words": objective.words}
    return {name: part for name, part in parts.items() if part is not None}


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names start with `prefix`, which they and `tensors` lose."""
    return {name[len(prefix) :]: tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def _trainer_tensors(objective: Objective, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {
        f"{prefix}.{name}": value
        for prefix, part in _own_parts(objective).items()
        for name, value in part.state_dict().items()
    }
    for name, parameter in objective.named_parameters():
        if parameter in optimizer.state:
            tensors |= {f"{moment}.{name}": optimizer.state[parameter][moment] for moment in _MOMENTS}
    return tensors


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"expected a readable safetensors file, found {error}: {path}") from error


def _state_json(state: State) -> str:
    fields = {**state.__dict__, "config": json.loads(state.config.to_json()), "format_version": FORMAT_VERSION}
    fields["versions"] = {name: version(name) for name in ("bitgen", "torch", "transformers", "peft")}
    return json.dumps(fields, indent=2, sort_keys=True)


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download  # here: only hf:// paths need the hub's client
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(repository, allow_patterns=[MODEL, STATE, HOLDOUT]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(f"expected a model repository, found {error}: hf://{repository}") from error
