"""What bitgen-train looks at before the first step: data that may be trained on together, and where the run starts from."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bitgen.model.bitgen import BitGen
from bitgen.objectives.total import Objective
from bitgen.training import checkpoint, distributed
from bitgen.training.checkpoint import CheckpointError, State
from bitgen.training.config import ConfigError, ModelConfig, TrainConfig
from pipeline.roots import open_mixture, open_root
from pipeline.validation import open_sets
from shards.format import ShardError
from shards.mixture import Mixture
from shards.root import Root
from shards.stream import Stream

log = logging.getLogger(__name__)


def open_stream(config: TrainConfig, root: Root) -> Stream:
    """The mixture's datasets in their order. Raises `ConfigError` where ranks cannot share a micro-batch of them evenly."""
    if config.optim.batch % distributed.world():
        raise ConfigError(
            f"expected optim.batch to be a multiple of {distributed.world()} ranks, found {config.optim.batch}"
        )
    if not config.data.mixture:
        raise ConfigError("expected data.mixture to name a dataset, found none")
    return open_mixture(root, config)


def check_together(stages: Sequence[TrainConfig]) -> None:
    """What a later run lacks is said before the first begins. Raises as `check_datasets` and `open_sets`."""
    found: dict[str, TrainConfig] = {}
    for config in stages if len(stages) > 1 else ():
        root = open_root(config.data)
        holdout = check_datasets(open_stream(config, root), config)
        open_sets(config, holdout, root)
        root.close()
        found[holdout] = config
    if len(found) > 1 and not all(config.data.allow_other_holdout for config in stages):
        raise ConfigError(
            f"expected shards of both phases built under one hold-out list, found {', '.join(each[:12] for each in found)}; "
            "build them together, or pass --data.allow-other-holdout"
        )


def check_ranks(stream: Stream, device: torch.device) -> None:
    """Raises `ConfigError` on every rank where the datasets changed between one rank's look at them and another's."""
    mine = float(int(stream.mixture.fingerprint[:12], 16))  # 48 bits, which a float holds
    if distributed.agree(distributed.from_first(mine, device) != mine, device):
        raise ConfigError("expected the same shards on every rank, found others: were they replaced just now?")


def check_side(config: TrainConfig, model: BitGen) -> None:
    """Raises `ConfigError` for images that are no whole number of patches wide."""
    if config.data.image_px % model.vision.patch_px:
        expected = f"a multiple of the vision tower's patch, {model.vision.patch_px}"
        raise ConfigError(f"expected data.image_px to be {expected}, found {config.data.image_px}")


def check_datasets(stream: Stream, config: TrainConfig) -> str:
    """The hold-out hash that all training shards share; of mixed ones, where they are allowed, a hash that no dataset has.

    Raises `ConfigError` for evaluation data, for mixed hashes that are not allowed, and for a fine phase without a phrase to
    ground.
    """
    for name, index in stream.indexes.items():
        absent = [field for field in ("role", "holdout_sha256") if field not in index.dataset]
        if absent:
            raise ShardError(
                f"expected role and holdout_sha256 in dataset.json, found no {absent[0]}: {index.files.place}"
            )
        if index.dataset["role"] == "eval":
            raise ConfigError(f"expected training data in data.mixture, found evaluation data: {name}")
    if config.phase == "fine" and all(index.dataset.get("phrases") == 0 for index in stream.indexes.values()):
        raise ConfigError(f"expected phrases with boxes for the fine phase, found none in {', '.join(stream.indexes)}")
    hashes = {name: str(index.dataset["holdout_sha256"]) for name, index in stream.indexes.items()}
    if len(set(hashes.values())) > 1 and not config.data.allow_other_holdout:
        found = ", ".join(f"{name} {value[:12]}" for name, value in hashes.items())
        raise ConfigError(
            f"expected shards built under one hold-out list, found {found}; build them together, "
            "or pass --data.allow-other-holdout"
        )
    first, *others = sorted(set(hashes.values()))
    return first if not others else hashlib.sha256("".join([first, *others]).encode()).hexdigest()


def prepare(
    config: TrainConfig, mixture: Mixture, holdout: str, resumed_run: Path | None, kept: Sequence[int] | None
) -> tuple[Objective, State, Path | None]:
    """The objective with its weights, where the run stands, and the checkpoint that it goes on from, if any."""
    torch.manual_seed(config.run.seed)
    if resumed_run is not None:
        folder = checkpoint.find(resumed_run, last=True)
        state = replace(checkpoint.read_state(folder), config=config)
        _check_holdout(state, holdout, config)
        if state.stream != mixture.fingerprint:
            log.warning("mixture or shards are not those that the run started with: a new order of samples starts here")
            state = replace(state, position=0, stream=mixture.fingerprint)
        model = checkpoint.build_model(state, folder)
        checkpoint.load_weights(model, folder)
        return Objective(model, config.loss, config.data), state, folder
    if config.run.init:
        folder = checkpoint.find(config.run.init)
        origin = replace(checkpoint.read_state(folder), config=config)
        _check_holdout(origin, holdout, config)
        model = _built_as(origin, folder)
    else:
        if config.phase == "fine":
            log.warning("no --init: the fine phase starts from layers that have learned nothing")
        model = BitGen(config.model, kept=kept)
    epoch = config.data.samples_per_epoch or mixture.size
    state = State(0, 0, epoch, config, holdout, model.vision.config_dict(), stream=mixture.fingerprint)
    return Objective(model, config.loss, config.data), state, None


def _built_as(origin: State, folder: Path) -> BitGen:
    """The checkpoint's model with its weights. Raises `ConfigError` where flags ask for another than it was built as, and
    `CheckpointError` where that is not what is wrong."""
    try:
        model = checkpoint.build_model(origin, folder)
        checkpoint.load_weights(model, folder)
    except CheckpointError as error:
        was, asked = (_leaves(c) for c in (checkpoint.read_state(folder).config.model, origin.config.model))
        others = [f"{name} {asked[name]} (it was built with {was[name]})" for name in asked if asked[name] != was[name]]
        if not others:
            raise
        raise ConfigError(
            f"expected the model of the checkpoint, found {', '.join(others)}: {folder}; --init takes the model over, so "
            "leave these flags out, or start without --init"
        ) from error
    return model


def _leaves(model: ModelConfig) -> dict[str, Any]:
    """Every field of a model's configuration by its flag."""
    fields = asdict(model)
    vision = {f"vision.{name}": value for name, value in fields.pop("vision").items()}
    return {f"--model.{name}".replace("_", "-"): value for name, value in (vision | fields).items()}


def _check_holdout(state: State, holdout: str, config: TrainConfig) -> None:
    if state.holdout_sha256 != holdout and not config.data.allow_other_holdout:
        raise ConfigError(
            f"expected shards that hold out what the checkpoint did ({state.holdout_sha256[:12]}), found {holdout[:12]}; "
            "build them under the same lists, or pass --data.allow-other-holdout"
        )
