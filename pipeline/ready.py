"""What bitgen-eval is to do, and a checkpoint to do it with, after every check that can be made before anything is measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bitgen.deploy.exported import Exported, is_exported
from bitgen.model.bitgen import BitGen
from bitgen.training.checkpoint import State, find, load_model
from bitgen.training.config import TrainConfig
from pipeline.coverage import account, coverage, list_of, trained
from pipeline.measuring import SCORED, Task, split_tasks, tasks_of
from pipeline.official import Official
from pipeline.roots import open_root
from pipeline.sets import ResultsError, Sets, Split, changed, check_holdout, lineage, open_sets
from shards.index import ShardIndex


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


@dataclass(frozen=True)
class Ready:
    """A checkpoint, and what it is asked about."""

    folder: Path
    model: BitGen | Exported
    state: State
    """Of an export that of the checkpoint it was made of."""
    configs: tuple[TrainConfig, ...]
    """Of its run and of those that it started from, nearest first."""
    sets: Sets
    others: list[str]
    """Names of sets under other hold-out lists."""
    accounts: dict[str, dict[str, Any]]
    """What is said of each held-out set that is asked, as `pipeline.coverage.account`."""
    absent: dict[str, str]
    """Official sets that are not there, and why."""


def asked(sets: Sets, choice: Choice) -> dict[tuple[Split, str], list[Task]]:
    """By split and set, what is asked of it; sets of which nothing is are left out."""
    splits: dict[Split, dict[str, ShardIndex]] = {"train": sets.train, "heldout": sets.heldout}
    found: dict[tuple[Split, str], list[Task]] = {}
    for split in choice.splits:
        for name, index in splits[split].items():
            wanted = split_tasks(choice.tasks, split)
            tasks: list[Task] = [task for task in tasks_of(index) if task in wanted]
            if tasks:
                found[split, name] = tasks
    return found


def prepare(checkpoint: str, root: str | Path | None, choice: Choice, official: Official | None = None) -> Ready:
    """A checkpoint and the sets that `choice` is about.

    Args:
        checkpoint: a run folder, a checkpoint folder, hf://owner/name, or a folder that `bitgen-export --format onnx` left.
        root: the data folder or URL, which holds shards/; by default that of the checkpoint's configuration.
        official: sets to evaluate in place of everything under eval/.

    Raises `ResultsError` where a task cannot be asked of an export, no set fits, or one that is asked is not covered by the
    checkpoint's hold-out lists (`pipeline.coverage`) and `choice.allow_other_holdout` does not say otherwise; `CountError` where
    a set is not as large as published; also what loading and reading raise.
    """
    folder = find(checkpoint)
    if is_exported(folder):
        wrong = [task for task in choice.tasks if task not in SCORED]
        if wrong:
            raise ResultsError(
                f"expected tasks that an exported model can do, {', '.join(SCORED)}, found {', '.join(wrong)}: {folder}"
            )
        model, state = Exported.open(folder, torch.get_num_threads())
    else:
        model, state = load_model(folder, "cuda" if torch.cuda.is_available() else "cpu")
    states = lineage(state)
    configs = tuple(each.config for each in states)
    if choice.rerank and "retrieval" in choice.tasks and not state.config.loss.itm:
        raise ResultsError(
            f"expected a checkpoint of a run that trains the matching head to re-rank by, found loss.itm 0 in {checkpoint}"
        )
    data = open_root(state.config.data, root)
    asks_sets = set(choice.tasks) != {"efficiency"}
    sets = open_sets(configs, data, official) if asks_sets else Sets({}, {}, ())
    wanted = asked(sets, choice)
    if asks_sets and not wanted:
        raise ResultsError(
            f"expected a dataset for {' or '.join(choice.tasks)} in {' or '.join(choice.splits)}, found none among "
            f"{sorted(sets.train)} and {sorted(sets.heldout)}"
        )
    heldout = {name: sets.heldout[name] for split, name in wanted if split == "heldout"}
    listed = list_of(state.holdout_sha256, folder, data.folder)
    gaps = changed(states, sets.train)
    if checkpoint.startswith("hf://"):  # whose datasets may have the names of those here
        gaps.append("what a published model was trained on is not here")
    known = trained(state.holdout_sha256, configs, sets.train, sets.missing, gaps)
    covers = coverage(heldout, known, listed)
    others = check_holdout(sets, state, covers, choice.allow_other_holdout)
    accounts = {name: account(index, covers[name]) for name, index in heldout.items()}
    return Ready(folder, model, state, configs, sets, others, accounts, dict(official.absent) if official else {})
