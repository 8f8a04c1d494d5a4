"""Which datasets a checkpoint is measured on: those that it was trained on, and those that it was kept from."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitgen.training.checkpoint import CheckpointError, State, find, read_state
from bitgen.training.config import TrainConfig
from pipeline.coverage import NOT_COVERED, Cover
from pipeline.official import Official
from shards.format import NoDatasetError
from shards.index import ShardIndex
from shards.mixture import Mixture
from shards.remote.patience import StoreError
from shards.root import Root

log = logging.getLogger(__name__)

Split = Literal["heldout", "train"]


class ResultsError(Exception):
    """There is nothing to evaluate, or what there is must not be compared."""


@dataclass(frozen=True)
class Sets:
    """The datasets that a checkpoint was trained on, and those that it was kept from; open indexes by name."""

    train: dict[str, ShardIndex]
    heldout: dict[str, ShardIndex]
    missing: tuple[str, ...]
    """Training sets that are not on this machine."""

    def train_photographs(self) -> NDArray[np.int64]:
        """The image ids that were trained on, each once, ascending."""
        ids = [np.asarray(index.image_ids) for index in self.train.values()]
        return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *ids]))


def open_sets(configs: Sequence[TrainConfig], root: Root, official: Official | None = None) -> Sets:
    """The sets that a run and its ancestors drew from, so none of weight 0, and everything under eval/; where a store
    does not say what that is, the sets that they validated on. `official` sets stand in the place of those."""
    names = list(dict.fromkeys(name for config in configs for name, weight in config.data.mixture.items() if weight))
    open_train = _open if official is None else _open_if_there  # of which official sets do without
    train = {name: index for name in names if (index := open_train(root, name)) is not None}
    missing = tuple(name for name in names if name not in train)
    if missing:
        log.warning("not here, so not evaluated: %s below %s", ", ".join(missing), root.place)
    if official is not None:
        return Sets(train, official.open(), missing)
    listed = root.names("eval")
    if listed is None:
        listed = sorted({name for config in configs for name in config.data.validation})
        log.warning("%s cannot be listed: held-out sets are those validated on, %s", root.place, ", ".join(listed))
    heldout = {name: index for name in listed if (index := _open(root, name)) is not None}
    if not train and not heldout:
        raise ResultsError(f"expected built datasets, found neither {names} nor eval/*: {root.place}")
    return Sets(train, heldout, missing)


def _open(root: Root, name: str) -> ShardIndex | None:
    """A dataset; None where there is none."""
    try:
        return root.open(name)
    except NoDatasetError:
        return None


def _open_if_there(root: Root, name: str) -> ShardIndex | None:
    """Likewise, also where the store does not answer."""
    try:
        return _open(root, name)
    except StoreError as error:
        log.warning("%s", error)
        return None


def lineage(state: State) -> list[State]:
    """A checkpoint, and those that its run and the ones before started from, nearest first, as far as they are on this machine."""
    states = [state]
    visited = set()
    while (init := states[-1].config.run.init) and init not in visited:
        visited.add(init)
        if init.startswith("hf://"):
            log.warning("the run started from %s, whose training sets are not looked up", init)
            break
        try:
            states.append(read_state(find(init)))
        except CheckpointError as error:
            log.warning("the run that this one started from cannot be read: %s", error)
            break
    return states


def changed(states: Sequence[State], train: Mapping[str, ShardIndex]) -> list[str]:
    """Why the datasets here are not those that these checkpoints were trained on, where they are not: a stream of the same seed,
    shares and shard sizes has the same fingerprint."""
    found = []
    for state in states:
        data, seed = state.config.data, state.config.run.seed
        weights = {name: weight for name, weight in data.mixture.items() if weight}
        if not weights.keys() <= train.keys():
            continue  # which is said already
        sizes = {name: train[name].shard_sizes for name in weights}
        if Mixture(weights, sizes, seed, data.size_power).fingerprint != state.stream:
            found.append(f"the datasets of {state.config.run.name} were built again since it was trained")
    others = sorted(n for n, index in train.items() if index.dataset.get("holdout_sha256") != states[0].holdout_sha256)
    return found + [f"{name} was built under other lists" for name in others]


def check_holdout(sets: Sets, state: State, covers: Mapping[str, Cover], allowed: bool) -> list[str]:
    """Names of the training sets under other hold-out lists than the checkpoint's, and of the evaluation sets that those
    do not cover; raises `ResultsError` unless that is allowed."""
    others = sorted(n for n, index in sets.train.items() if index.dataset.get("holdout_sha256") != state.holdout_sha256)
    others += sorted(name for name, cover in covers.items() if cover.by == NOT_COVERED)
    if others and not allowed:
        found = {**sets.heldout, **sets.train}[others[0]].dataset.get("holdout_sha256")
        why = [f"{name}: {covers[name].why_not}" for name in others if name in covers]
        raise ResultsError(
            f"expected sets under the checkpoint's hold-out lists {state.holdout_sha256!r}, found {found!r} in "
            f"{', '.join(others)}: their images may have been trained on (--allow-other-holdout evaluates all the same)"
            + "".join(f"; {each}" for each in why)
        )
    if others:
        log.warning("evaluated under other hold-out lists than the checkpoint's: %s", ", ".join(others))
    return others
