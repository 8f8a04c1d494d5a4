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
from bitgen.evaluation.captioning import NOT_ASKED, constant_caption
from bitgen.evaluation.efficiency import evaluate_efficiency
from bitgen.evaluation.efficiency_figures import efficiency_figures
from bitgen.evaluation.finite import NotFiniteError, named, without_nonfinite
from bitgen.evaluation.grounding import FIT_TARGETS
from bitgen.evaluation.page import TINY_IMAGES, size_warning
from bitgen.evaluation.recall import LEAST
from bitgen.evaluation.scored import Scored
from bitgen.evaluation.tables import JAVA_FIGURES
from bitgen.model.bitgen import BitGen
from bitgen.progress import progress
from bitgen.training.config import TrainConfig
from pipeline.coverage import NOT_COVERED, SAME_LISTS, notes_on
from pipeline.measuring import SCORED, Asked, Beside, Task, measure, over_sets, split_tasks, tasks_of
from pipeline.official import Official
from pipeline.ready import Choice, Ready, prepare
from pipeline.sets import Split
from pipeline.wholes import batches, spaced
from shards.index import ShardIndex

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
_PHOTOGRAPHS: Mapping[Task, int] = {"memory": LEAST, "vectors": 2}
"""How many a set of captions needs at least."""
FEW = 30
"""Photographs below which an interval holds the truth clearly less often than it says (`bitgen/evaluation/bootstrap.py`)."""
FIT_CAPTIONS = 20_000
"""Training texts that the constant caption is found in, at most."""


def evaluate_checkpoint(
    checkpoint: str,
    root: str | Path | None,
    choice: Choice,
    official: Official | None = None,
    beside: Beside | None = None,
) -> dict[str, Any]:
    """Everything that `results.json` holds. Arguments and errors: `prepare`; beside: gets what stands beside the figures."""
    return evaluate(prepare(checkpoint, root, choice, official), choice, beside or Beside())


def evaluate(ready: Ready, choice: Choice, beside: Beside) -> dict[str, Any]:
    """Everything that `results.json` holds. Raises `CountError` where not all texts of a set were measured, and what reading
    raises."""
    folder, model, state, sets = ready.folder, ready.model, ready.state, ready.sets
    seen = sets.train_photographs()
    results: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "run": state.config.run.name,
        "checkpoint": folder.name,
        "phase": state.config.phase,
        "step": state.step,
        "lineage": [f"{config.run.name} ({config.phase})" for config in ready.configs],
        "parameters": sum(p.numel() for p in model.parameters()) if isinstance(model, BitGen) else model.parameters,
        "holdout_sha256": state.holdout_sha256,
        "other_holdout": ready.others,
        "seed": choice.seed,
        "batch": choice.batch,
        "train_photographs": len(seen),
        "missing_training_sets": list(sets.missing),
        "absent_sets": ready.absent,
    }
    if not isinstance(model, BitGen):
        results["exported"] = model.about
    fitted = Fitted(
        train_targets(sets.train) if "grounding" in choice.tasks else None,
        train_caption(sets.train) if "captioning" in choice.tasks else None,
    )
    for split, indexes in (("train", sets.train), ("heldout", sets.heldout)):
        if split in choice.splits:
            results[split] = evaluate_split(model, state.config, indexes, split, choice, fitted, seen, beside)
    if "efficiency" in choice.tasks and isinstance(model, BitGen):
        results["efficiency"] = evaluate_efficiency(model, state.config.data.image_px, folder)
        beside.figures[""] = efficiency_figures(results["efficiency"])
    for name, entry in results.get("heldout", {}).get("datasets", {}).items():
        check_measured(entry, sets.heldout[name].dataset)
        entry.update(ready.accounts.get(name, {}))
    results, places = without_nonfinite(results)
    results["not_finite"] = places
    results["notes"] = notes(results, ready.configs)
    return results


def notes(results: Mapping[str, Any], configs: Sequence[TrainConfig]) -> list[str]:
    """What a reader must know before believing the figures, as sentences; `configs` as `lineage` gives them."""
    found = []
    if exported := results.get("exported"):
        found.append(
            f"An exported model of {exported['bytes'] / 1e6:.2f} MB, computed by ONNX Runtime: vision tower in "
            f"{exported['tower']}, {exported['weight_bits']} bits of a weight in bytes, {exported['vocabulary']:,} tokens."
        )
    if places := results.get("not_finite"):
        found.append(f"Not finite, and null in the results: {named(places)}.")
    trained = results["train_photographs"]
    if trained and trained < TINY_IMAGES:
        found.append(size_warning(trained))
    if results.get("heldout", {}).get("grounding") and not any(config.loss.grounding for config in configs):
        found.append("The grounding head of this model has not been trained: the fine phase does that.")
    heldout = results.get("heldout", {}).get("datasets", {})
    if missing := results.get("missing_training_sets"):
        found.append(f"Not here, so that nothing tells whether they show held-out photographs: {', '.join(missing)}.")
    found += [f"{name} was not evaluated: {why}." for name, why in results.get("absent_sets", {}).items()]
    covers = {name: entry.get("holdout", SAME_LISTS) for name, entry in heldout.items()}
    found += notes_on({**dict.fromkeys(results["other_holdout"], NOT_COVERED), **covers})
    found += [entry["lost"] for entry in heldout.values() if entry.get("lost")]
    for name, entry in heldout.items():
        if entry["seen_in_training"]:
            found.append(f"{name} holds {entry['seen_in_training']:,} photographs that were trained on.")
    counted = {
        name: entry[task]["bootstrap"]["photographs"]
        for name, entry in heldout.items()
        for task in SCORED
        if "bootstrap" in entry.get(task, {})
    }
    if few := [f"{name} ({n})" for name, n in counted.items() if 1 < n < FEW]:
        found.append(f"Of fewer than {FEW} photographs intervals are too narrow: {', '.join(few)}.")
    lacks: dict[str, list[str]] = {}
    for split in ("train", "heldout"):
        for name, entry in results.get(split, {}).get("datasets", {}).items():
            for metric, why in entry.get("captioning", {}).get("missing", {}).items():
                if why != NOT_ASKED and JAVA_FIGURES[metric] not in lacks.setdefault(why, []):
                    lacks[why].append(JAVA_FIGURES[metric])
            if why := entry.get("not_asked"):
                found.append(f"{name}: {why}.")
            for task, why in entry.get("not_measured", {}).items():
                found.append(f"{name}: {task} was not measured: {why}.")
            if wrong := entry.get("retrieval", {}).get("not_finite"):
                found.append(
                    f"{name}: {wrong:,} images and texts have embeddings that are not finite; they are found last."
                )
            if wrong := entry.get("grounding", {}).get("not_finite"):
                found.append(f"{name}: {wrong:,} predictions of boxes are not finite; each counts as a miss.")
            if truncated := entry.get("grounding", {}).get("truncated"):
                found.append(f"{name}: {truncated:,} phrases lie beyond the token limit; each counts as a miss.")
    found += [f"Not measured: {' and '.join(metrics)}: {why}." for why, metrics in lacks.items()]
    return found


@dataclass(frozen=True)
class Fitted:
    """What the constant controls say of every image, as found in the sets that were trained on; None without any."""

    targets: Tensor | None
    caption: str | None


def evaluate_split(
    model: Scored,
    config: TrainConfig,
    indexes: Mapping[str, ShardIndex],
    split: Split,
    choice: Choice,
    fitted: Fitted,
    seen: NDArray[np.int64],
    beside: Beside,
) -> dict[str, Any]:
    """{"datasets": {NAME: {task: figures, "samples", "evaluated"}}, task: their mean over sets, with intervals}.

    A task that has no figures because what the model gives are no numbers is under "not_measured", with the reason.

    Held-out sets also say how many of their photographs were trained on, "seen_in_training": that must be 0.
    """
    datasets: dict[str, dict[str, Any]] = {}
    for name, index in indexes.items():
        rows = spaced(len(index), choice.train_limit if split == "train" else len(index))
        entry: dict[str, Any] = {"samples": len(index), "evaluated": len(rows)}
        if split == "heldout":
            entry["seen_in_training"] = int(np.isin(np.unique(np.asarray(index.image_ids)), seen).sum())
            if entry["seen_in_training"]:
                log.warning("%s holds %d photographs that were trained on", name, entry["seen_in_training"])
        mine = tasks_of(index)
        lacking = {task: n for task, n in _PHOTOGRAPHS.items() if task in choice.tasks and task not in mine}
        if split == "heldout" and lacking and "captioning" in mine:
            takes = " and ".join(f"{task} ({n} or more)" for task, n in lacking.items())
            entry["not_asked"] = f"too few photographs for {takes}"
            datasets[name] = entry
        for task in split_tasks(choice.tasks, split):
            if task not in mine:
                continue
            with progress(f"{task} {name}", len(rows), "images") as counter:
                data = config.data
                made = partial(batches, index, side_px=data.image_px, max_tokens=data.max_tokens)
                asked = Asked(
                    name,
                    index,
                    partial(made, rows, size=choice.batch, counter=counter),
                    lambda some, size, made=made: made(some, size=size),
                    choice.seed,
                    choice.rerank,
                    choice.caption_tokens,
                    choice.beams,
                    choice.java,
                    fitted.targets,
                    fitted.caption,
                )
                try:
                    entry[task] = measure(task, model, asked, beside)
                except NotFiniteError as error:
                    entry.setdefault("not_measured", {})[task] = str(error)
            datasets[name] = entry
    figures: dict[Task, dict[str, dict[str, Any]]] = {
        task: {name: entry[task] for name, entry in datasets.items() if task in entry} for task in SCORED
    }
    means = {task: over_sets(task, found, beside, choice.seed) for task, found in figures.items() if found}
    return {**means, "datasets": datasets}


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
