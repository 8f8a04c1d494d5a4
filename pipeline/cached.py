"""The part of a run whose tower stays as it is, on stored features in place of images."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bitgen.features import FeatureForm
from bitgen.model.vision import VisionTower
from bitgen.training import distributed
from bitgen.training.checkpoint import State
from bitgen.training.config import DataConfig, TrainConfig
from bitgen.training.features import FeatureRecipe, constant_steps
from bitgen.training.precision import precision
from bitgen.training.schedule import Schedule
from pipeline.features import check_room, feature_sets, make_features
from pipeline.roots import open_mixture, open_root
from shards.format import ShardError
from shards.root import Root
from shards.stream import Stream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cached:
    """A stream over features, in the order of the one over images."""

    stream: Stream
    form: FeatureForm
    stop: int
    """The first position whose image the tower has to see again."""


def features_place(data: DataConfig, root: Root) -> Path:
    """The folder of all features: beside the shards, or, where those are at a URL, one of that URL's own beside the cache."""
    if root.folder is not None:
        return root.folder.parent / "features"
    return Path(data.cache).parent / "features" / hashlib.sha256(root.place.encode()).hexdigest()[:16]


def open_cached(
    config: TrainConfig, tower: VisionTower, state: State, stream: Stream, root: Root, device: torch.device
) -> Cached | None:
    """Makes what is missing of the features that the run needs from `state` on, and opens them; None where it needs none.

    Args:
        tower: with its weights, on its device. While it stays as it is the whole image is seen, whatever `data.crop_scale_min`.
        stream: over the images.

    Raises what `pipeline.features.make_features` does, and `ShardError` where features are of other images than the shards'.
    """
    kind = config.data.features
    if kind == "none":
        return None
    steps = constant_steps(config, Schedule.of(config, state.samples_per_epoch))
    leads = distributed.rank() == 0
    if steps == 0 and leads:
        log.info("no features: the vision tower trains from the first step")
    if state.step >= steps:
        return None
    recipe = FeatureRecipe.of(tower, config.data.image_px, kind, precision(config.run.precision, device))
    sets = feature_sets(stream.indexes, features_place(config.data, root), recipe)
    make_features(sets, tower, config.data.workers or distributed.cores(), speaks=leads)
    place = features_place(config.data, root) / recipe.sha256[:16]
    cached = open_mixture(Root(place, verify=config.data.verify_shards), config)
    for name, each in sets.items():
        each.check(cached.indexes[name])
    if cached.mixture.fingerprint != stream.mixture.fingerprint:
        raise ShardError(f"expected features in the order of their images, found another: {place}")
    draws = config.optim.batch * config.optim.accumulation
    if leads:
        until = "" if config.model.vision.mode == "frozen" else f" until step {steps}"
        log.info("reading features in place of images%s", until)
    return Cached(cached, recipe.form, state.position + (steps - state.step) * draws)


def check_rooms(stages: Sequence[TrainConfig], tower: VisionTower, device: torch.device) -> None:
    """Raises `FullDiskError` where runs that start from one tower need features that the disk has no room for all together."""
    needs: dict[Path, int] = {}
    for config in stages:
        kind = config.data.features
        if kind == "none":
            continue
        root = open_root(config.data)
        stream = open_mixture(root, config)
        schedule = Schedule.of(config, config.data.samples_per_epoch or stream.mixture.size)
        if constant_steps(config, schedule):
            recipe = FeatureRecipe.of(tower, config.data.image_px, kind, precision(config.run.precision, device))
            for each in feature_sets(stream.indexes, features_place(config.data, root), recipe).values():
                needs[each.folder] = int(each.shard_bytes()[each.missing()].sum())
        root.close()
    check_room(needs.items())
