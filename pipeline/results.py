"""A checkpoint and the datasets on disk become results: which sets, which rows of them, and their figures."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgen.batch import Batch, whole
from bitgen.evaluation.breakdown import check_measured
from bitgen.evaluation.grounding import FIT_TARGETS, evaluate_grounding
from bitgen.evaluation.page import TINY_IMAGES, size_warning
from bitgen.evaluation.retrieval import evaluate_retrieval
from bitgen.evaluation.tables import mean
from bitgen.model.bitgen import BitGen
from bitgen.progress import Counter, progress
from bitgen.tokens import shared_tokenizer
from bitgen.training.checkpoint import CheckpointError, State, find, load_model, read_state
from bitgen.training.config import TrainConfig
from pipeline.coverage import NOT_COVERED, SAME_LISTS, Cover, account, coverage, list_of, notes_on, trained
from pipeline.official import Official
from pipeline.roots import open_root
from shards.format import NoDatasetError
from shards.index import ShardIndex
from shards.root import Root

log = logging.getLogger(__name__)

Task = Literal["retrieval", "grounding"]
Split = Literal["heldout", "train"]
FORMAT_VERSION = 1


class ResultsError(Exception):
    """There is nothing to evaluate, or what there is must not be compared."""


@dataclass(frozen=True)
class Choice:
    """What to evaluate, and how."""

    tasks: tuple[Task, ...] = ("retrieval", "grounding")
    splits: tuple[Split, ...] = ("train", "heldout")
    batch: int = 64
    """Images at a time."""
    train_limit: int = 5000
    """Images of each training set, evenly spaced; held-out sets are always taken whole."""
    allow_other_holdout: bool = False
    seed: int = 0
    """Of the shuffled texts."""


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


def evaluate_checkpoint(
    checkpoint: str, root: str | Path | None, choice: Choice, official: Official | None = None
) -> dict[str, Any]:
    """Everything that `results.json` holds.

    Args:
        checkpoint: a run folder, a checkpoint folder, or hf://owner/name.
        root: the data folder or URL, which holds shards/; by default that of the checkpoint's configuration.
        official: sets to evaluate in place of everything under eval/.

    Raises `ResultsError` where no set fits, or one is not covered by the checkpoint's hold-out lists
    (`pipeline.coverage`) and `choice.allow_other_holdout` does not say otherwise; `CountError` where a set is not as large
    as published; also what loading and reading raise.
    """
    model, state = load_model(checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    configs = lineage(state.config)
    data = open_root(state.config.data, root)
    sets = open_sets(configs, data, official)
    listed = list_of(state.holdout_sha256, find(checkpoint), data.folder)
    covers = coverage(sets.heldout, trained(state.holdout_sha256, configs, sets.train, sets.missing), listed)
    others = check_holdout(sets, state, choice, covers)
    asked = sets.heldout if "heldout" in choice.splits else {}
    accounts = {name: account(index, covers[name]) for name, index in asked.items()}
    seen = sets.train_photographs()
    results: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "run": state.config.run.name,
        "checkpoint": find(checkpoint).name,
        "phase": state.config.phase,
        "step": state.step,
        "lineage": [f"{config.run.name} ({config.phase})" for config in configs],
        "parameters": sum(p.numel() for p in model.parameters()),
        "holdout_sha256": state.holdout_sha256,
        "other_holdout": others,
        "seed": choice.seed,
        "train_photographs": len(seen),
        "missing_training_sets": list(sets.missing),
        "absent_sets": dict(official.absent) if official else {},
    }
    targets = train_targets(sets.train)
    for split, indexes in (("train", sets.train), ("heldout", sets.heldout)):
        if split in choice.splits:
            results[split] = evaluate_split(model, state.config, indexes, split, choice, targets, seen)
    for name, entry in results.get("heldout", {}).get("datasets", {}).items():
        check_measured(entry, sets.heldout[name].dataset)
        entry.update(accounts[name])
    if not any(results[split]["datasets"] for split in choice.splits):
        raise ResultsError(
            f"expected a dataset for {' or '.join(choice.tasks)} in {' or '.join(choice.splits)}, found none among "
            f"{sorted(sets.train)} and {sorted(sets.heldout)}"
        )
    results["notes"] = notes(results, configs)
    return results


def notes(results: Mapping[str, Any], configs: Sequence[TrainConfig]) -> list[str]:
    """What a reader must know before believing the figures, as sentences; `configs` as `lineage` gives them."""
    found = []
    trained = results["train_photographs"]
    if trained and trained < TINY_IMAGES:
        found.append(size_warning(trained))
    if results.get("heldout", {}).get("grounding") and not any(config.loss.grounding for config in configs):
        found.append("The grounding head of this model has not been trained: the fine phase does that.")
    heldout = results.get("heldout", {}).get("datasets", {})
    found += [f"{name} was not evaluated: {why}." for name, why in results.get("absent_sets", {}).items()]
    covers = {name: entry.get("holdout", SAME_LISTS) for name, entry in heldout.items()}
    found += notes_on({**dict.fromkeys(results["other_holdout"], NOT_COVERED), **covers})
    found += [entry["lost"] for entry in heldout.values() if entry.get("lost")]
    for name, entry in heldout.items():
        if entry["seen_in_training"]:
            found.append(f"{name} holds {entry['seen_in_training']:,} photographs that were trained on.")
    for split in ("train", "heldout"):
        for name, entry in results.get(split, {}).get("datasets", {}).items():
            if truncated := entry.get("grounding", {}).get("truncated"):
                found.append(f"{name}: {truncated:,} phrases lie beyond the token limit; each counts as a miss.")
    return found


def open_sets(configs: Sequence[TrainConfig], root: Root, official: Official | None = None) -> Sets:
    """The sets that a run and its ancestors drew from, so none of weight 0, and everything under eval/; where a store
    does not say what that is, the sets that they validated on. `official` sets stand in the place of those."""
    names = list(dict.fromkeys(name for config in configs for name, weight in config.data.mixture.items() if weight))
    train = {name: index for name in names if (index := _open(root, name)) is not None}
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


def lineage(config: TrainConfig) -> list[TrainConfig]:
    """The configuration, and those of the runs that it started from, nearest first, as far as they are on this machine."""
    configs = [config]
    visited = set()
    while (init := configs[-1].run.init) and init not in visited:
        visited.add(init)
        if init.startswith("hf://"):
            log.warning("the run started from %s, whose training sets are not looked up", init)
            break
        try:
            configs.append(read_state(find(init)).config)
        except CheckpointError as error:
            log.warning("the run that this one started from cannot be read: %s", error)
            break
    return configs


def check_holdout(sets: Sets, state: State, choice: Choice, covers: Mapping[str, Cover]) -> list[str]:
    """Names of the training sets under other hold-out lists than the checkpoint's, and of the evaluation sets that those
    do not cover; raises `ResultsError` unless that is allowed."""
    others = sorted(n for n, index in sets.train.items() if index.dataset.get("holdout_sha256") != state.holdout_sha256)
    others += sorted(name for name, cover in covers.items() if cover.by == NOT_COVERED)
    if others and not choice.allow_other_holdout:
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


def evaluate_split(
    model: BitGen,
    config: TrainConfig,
    indexes: Mapping[str, ShardIndex],
    split: Split,
    choice: Choice,
    targets: Tensor | None,
    seen: NDArray[np.int64],
) -> dict[str, Any]:
    """{"datasets": {NAME: {task: figures, "samples", "evaluated"}}, task: their mean over sets}.

    Held-out sets also say how many of their photographs were trained on, "seen_in_training": that must be 0.
    """
    datasets: dict[str, dict[str, Any]] = {}
    for name, index in indexes.items():
        rows = spaced(len(index), choice.train_limit if split == "train" else len(index))
        entry: dict[str, Any] = {"samples": len(index), "evaluated": len(rows)}
        if split == "heldout":
            entry["seen_in_training"] = int(np.isin(np.asarray(index.image_ids), seen).sum())
            if entry["seen_in_training"]:
                log.warning("%s holds %d photographs that were trained on", name, entry["seen_in_training"])
        for task in (task for task in choice.tasks if task in tasks_of(index)):
            with progress(f"{task} {name}", len(rows), "images") as counter:
                found = batches(index, rows, config.data.image_px, config.data.max_tokens, choice.batch, counter)
                if task == "retrieval":
                    entry[task] = evaluate_retrieval(model, found)
                else:
                    entry[task] = evaluate_grounding(model, found, train_targets=targets, seed=choice.seed)
            datasets[name] = entry
    figures = {task: [entry[task] for entry in datasets.values() if task in entry] for task in choice.tasks}
    return {**{task: mean(found) for task, found in figures.items() if found}, "datasets": datasets}


def tasks_of(index: ShardIndex) -> tuple[Task, ...]:
    """Captions are retrieved, phrases are grounded. An expression ("left man") names no image, so it is not retrieved."""
    found: list[Task] = ["retrieval"] if index.dataset.get("phase") == "coarse" else []
    return (*found, "grounding") if index.dataset.get("phrases") else tuple(found)


def batches(
    index: ShardIndex, rows: Sequence[int], side_px: int, max_tokens: int, size: int, counter: Counter | None = None
) -> Iterator[Batch]:
    """Rows of a dataset as whole images with all their texts, `size` images at a time; two batches are made ahead."""
    tokenizer = shared_tokenizer()

    def make(part: Sequence[int]) -> Batch:
        items = [(row, *index.read(row)) for row in part]
        return whole(items, side_px, tokenizer, max_tokens=max_tokens)

    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    with ThreadPoolExecutor(2, "bitgen-evaluate") as pool:
        coming = [pool.submit(make, part) for part in parts[:2]]
        for number, part in enumerate(parts):
            batch = coming.pop(0).result()
            if number + 2 < len(parts):
                coming.append(pool.submit(make, parts[number + 2]))
            yield batch
            if counter is not None:
                counter.update(len(part))


def train_targets(indexes: Mapping[str, ShardIndex]) -> Tensor | None:
    """[P, 4] smallest boxes around the boxes of training phrases, in fractions of their images; None without any.

    Of at most `FIT_TARGETS` phrases, from images evenly spaced over each set.
    """
    with_phrases = [index for index in indexes.values() if index.dataset.get("phrases")]
    merged = []
    for index in with_phrases:
        most = FIT_TARGETS // len(with_phrases)
        for row in spaced(len(index), max(1, round(most * len(index) / index.dataset["phrases"]))):
            for phrase in (phrase for text in index.read(row)[0].texts for phrase in text.phrases):
                low = (min(b.x0 for b in phrase.boxes), min(b.y0 for b in phrase.boxes))
                high = (max(b.x1 for b in phrase.boxes), max(b.y1 for b in phrase.boxes))
                merged.append((*low, *high))
    return torch.tensor(merged, dtype=torch.float64) if merged else None


def spaced(count: int, most: int) -> list[int]:
    """0..count-1, or `most` of them, evenly spaced, the first and the last included."""
    return list(range(count)) if count <= most else np.linspace(0, count - 1, most).astype(int).tolist()
