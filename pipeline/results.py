"""A checkpoint and the datasets on disk become results: which sets, which rows of them, and their figures."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgen.evaluation.breakdown import check_measured
from bitgen.evaluation.captioning import constant_caption
from bitgen.evaluation.efficiency import evaluate_efficiency
from bitgen.evaluation.efficiency_figures import efficiency_figures
from bitgen.evaluation.grounding import FIT_TARGETS
from bitgen.evaluation.page import TINY_IMAGES, size_warning
from bitgen.evaluation.recall import LEAST
from bitgen.evaluation.tables import mean
from bitgen.model.bitgen import BitGen
from bitgen.progress import progress
from bitgen.training.checkpoint import find, load_model
from bitgen.training.config import TrainConfig
from pipeline.coverage import NOT_COVERED, SAME_LISTS, account, coverage, list_of, notes_on, trained
from pipeline.measuring import SCORED, Asked, Beside, Task, measure, split_tasks, tasks_of
from pipeline.official import Official
from pipeline.roots import open_root
from pipeline.sets import ResultsError, Sets, Split, changed, check_holdout, lineage, open_sets
from pipeline.wholes import batches, spaced
from shards.index import ShardIndex

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
FIT_CAPTIONS = 20_000
"""Training texts that the constant caption is found in, at most."""


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
    """Of the shuffled texts and captions, of what the memory is asked, and of the intervals."""
    rerank: int = 0
    """How many of the first to order anew by the matching head; 0: none."""
    caption_tokens: int = 24
    """Of a caption, at most."""
    beams: int = 1
    java: bool = True
    """Whether METEOR and SPICE are tried."""


def evaluate_checkpoint(
    checkpoint: str,
    root: str | Path | None,
    choice: Choice,
    official: Official | None = None,
    beside: Beside | None = None,
) -> dict[str, Any]:
    """Everything that `results.json` holds.

    Args:
        checkpoint: a run folder, a checkpoint folder, or hf://owner/name.
        root: the data folder or URL, which holds shards/; by default that of the checkpoint's configuration.
        official: sets to evaluate in place of everything under eval/.
        beside: gets what stands beside the figures.

    Raises `ResultsError` where no set fits, or one is not covered by the checkpoint's hold-out lists
    (`pipeline.coverage`) and `choice.allow_other_holdout` does not say otherwise; `CountError` where a set is not as large
    as published; also what loading and reading raise.
    """
    folder = find(checkpoint)
    model, state = load_model(folder, "cuda" if torch.cuda.is_available() else "cpu")
    states, beside = lineage(state), beside or Beside()
    configs = [each.config for each in states]
    if choice.rerank and "retrieval" in choice.tasks and not state.config.loss.itm:
        raise ResultsError(
            f"expected a checkpoint of a run that trains the matching head to re-rank by, found loss.itm 0 in {checkpoint}"
        )
    data = open_root(state.config.data, root)
    asks_sets = set(choice.tasks) != {"efficiency"}
    sets = open_sets(configs, data, official) if asks_sets else Sets({}, {}, ())
    listed = list_of(state.holdout_sha256, folder, data.folder)
    gaps = changed(states, sets.train)
    if checkpoint.startswith("hf://"):  # whose datasets may have the names of those here
        gaps.append("what a published model was trained on is not here")
    known = trained(state.holdout_sha256, configs, sets.train, sets.missing, gaps)
    covers = coverage(sets.heldout, known, listed)
    others = check_holdout(sets, state, covers, choice.allow_other_holdout)
    asked = sets.heldout if "heldout" in choice.splits else {}
    accounts = {name: account(index, covers[name]) for name, index in asked.items()}
    seen = sets.train_photographs()
    results: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "run": state.config.run.name,
        "checkpoint": folder.name,
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
    fitted = Fitted(
        train_targets(sets.train) if "grounding" in choice.tasks else None,
        train_caption(sets.train) if "captioning" in choice.tasks else None,
    )
    for split, indexes in (("train", sets.train), ("heldout", sets.heldout)):
        if split in choice.splits:
            results[split] = evaluate_split(model, state.config, indexes, split, choice, fitted, seen, beside)
    if "efficiency" in choice.tasks:
        results["efficiency"] = evaluate_efficiency(model, state.config.data.image_px, folder)
        beside.figures[""] = efficiency_figures(results["efficiency"])
    for name, entry in results.get("heldout", {}).get("datasets", {}).items():
        check_measured(entry, sets.heldout[name].dataset)
        entry.update(accounts[name])
    if asks_sets and not any(results[split]["datasets"] for split in choice.splits):
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
            if why := entry.get("not_asked"):
                found.append(f"{name}: {why}.")
            if truncated := entry.get("grounding", {}).get("truncated"):
                found.append(f"{name}: {truncated:,} phrases lie beyond the token limit; each counts as a miss.")
    return found


@dataclass(frozen=True)
class Fitted:
    """What the constant controls say of every image, as found in the sets that were trained on; None without any."""

    targets: Tensor | None
    caption: str | None


def evaluate_split(
    model: BitGen,
    config: TrainConfig,
    indexes: Mapping[str, ShardIndex],
    split: Split,
    choice: Choice,
    fitted: Fitted,
    seen: NDArray[np.int64],
    beside: Beside,
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
        small: tuple[Task, ...] = ("memory", "vectors")
        lacking = [task for task in small if task in choice.tasks and task not in tasks_of(index)]
        if split == "heldout" and lacking and "captioning" in tasks_of(index):
            entry["not_asked"] = f"too few photographs for {' and '.join(lacking)}, which take {LEAST} and 2 or more"
        mine = tasks_of(index)
        for task in split_tasks(choice.tasks, split):
            if task not in mine:
                continue
            with progress(f"{task} {name}", len(rows), "images") as counter:
                data = config.data
                again = partial(batches, index, rows, data.image_px, data.max_tokens, choice.batch)
                asked = Asked(
                    name,
                    index,
                    partial(again, counter),
                    again,
                    partial(batches, index, side_px=data.image_px, max_tokens=data.max_tokens, size=1),
                    choice.seed,
                    choice.rerank,
                    choice.caption_tokens,
                    choice.beams,
                    choice.java,
                    fitted.targets,
                    fitted.caption,
                )
                entry[task] = measure(task, model, asked, beside)
            datasets[name] = entry
    figures = {task: [entry[task] for entry in datasets.values() if task in entry] for task in SCORED}
    return {**{task: mean(found) for task, found in figures.items() if found}, "datasets": datasets}


def train_caption(indexes: Mapping[str, ShardIndex]) -> str | None:
    """The caption that is most like the others of the training sets, of at most `FIT_CAPTIONS`; None without any.

    The first text of images that are evenly spaced over each set.
    """
    captioned = [index for index in indexes.values() if "captioning" in tasks_of(index)]
    rows = [(index, row) for index in captioned for row in spaced(len(index), FIT_CAPTIONS // len(captioned))]
    return constant_caption(index.record(row).texts[0].text for index, row in rows) if rows else None


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
