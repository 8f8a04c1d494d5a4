"""bitgen-eval CKPT: retrieval and grounding on training and held-out sets, as a table and as results.json."""

import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bitgen.batch import BatchError
from bitgen.evaluation.tables import grounding_table, plain, retrieval_table
from bitgen.training.checkpoint import CheckpointError
from bitgen.training.folders import CHECKPOINTS, latest_run
from pipeline.files import check_replaceable, write_text
from pipeline.official import CACHE, OfficialError, build_official
from pipeline.results import Choice, ResultsError, Split, Task, evaluate_checkpoint
from shards.format import ShardError


@dataclass(frozen=True)
class Arguments:
    """Evaluate a checkpoint: retrieval by the dual encoder, grounding beside its controls, chance levels beside both."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """A run folder, a checkpoint folder, or hf://owner/name."""
    task: tuple[Task, ...] = ("retrieval", "grounding")
    """What to evaluate."""
    split: tuple[Split, ...] = ("train", "heldout")
    """train: the sets it was trained on; heldout: all sets under shards/eval."""
    data: str | None = None
    """Folder or URL that holds shards/; by default the one that the run was trained from."""
    batch: int = 64
    """Images at a time."""
    train_limit: int = 5000
    """Images of each training set, evenly spaced over it; held-out sets are always evaluated whole."""
    allow_other_holdout: bool = False
    """Evaluate on sets built under other hold-out lists than the checkpoint's; the result says so."""
    seed: int = 0
    """Of the shuffled-text control."""
    out: Path | None = None
    """Where the results go; by default results.json in the run folder, official.json with --folder."""
    folder: Path | None = None
    """A folder of official files: the evaluation sets that --manifest finds in it are evaluated, and no others."""
    manifest: tuple[Path, ...] = ()
    """With --folder: which evaluation sets, as manifests/flickr30k.toml, or a manifest of your own."""
    cache: Path = CACHE
    """With --folder: where its sets are built; needs the room of their images."""

    def __post_init__(self) -> None:
        if min(self.batch, self.train_limit) < 1:
            found = f"{self.batch} and {self.train_limit}"
            raise ValueError(f"expected --batch and --train-limit of 1 or more, found {found}")
        if (self.folder is None) != (not self.manifest):
            raise ValueError("expected --folder and --manifest together, found one of them")
        if self.seed < 0:
            raise ValueError(f"expected --seed of 0 or more, found {self.seed}")
        if self.out is None and self.checkpoint.startswith("hf://"):
            raise ValueError(f"expected --out FILE for a model from a hub, found none: {self.checkpoint}")


def main(argv: list[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong use."""
    arguments = tyro.cli(Arguments, prog="bitgen-eval", args=argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return evaluate(arguments)
    except KeyboardInterrupt:
        print("bitgen-eval: stopped; nothing was written", file=sys.stderr)
        return 1
    except (BatchError, CheckpointError, OfficialError, ResultsError, ShardError, OSError, ValueError) as error:
        print(f"bitgen-eval: {error}", file=sys.stderr)
        return 1


def evaluate(arguments: Arguments) -> int:
    out = results_path(arguments)
    check_replaceable(out)
    official, splits = None, arguments.split
    if arguments.folder is not None:
        official = build_official(arguments.folder, arguments.manifest, arguments.cache, os.cpu_count() or 1)
        splits: tuple[Split, ...] = ("heldout",)
    sets = " and ".join(splits)
    print(f"evaluating {' and '.join(arguments.task)} of {arguments.checkpoint} on {sets} sets", file=sys.stderr)
    choice = Choice(
        arguments.task,
        splits,
        arguments.batch,
        arguments.train_limit,
        arguments.allow_other_holdout,
        arguments.seed,
    )
    results = evaluate_checkpoint(arguments.checkpoint, arguments.data, choice, official)
    write_text(out, json.dumps(results, indent=2, allow_nan=False) + "\n")
    for table in (retrieval_table(results), grounding_table(results)):
        if table.rows:
            print(plain(table), end="\n\n")
    for note in results["notes"]:
        print(note, end="\n\n")
    print(
        f"wrote {out}; next, to look at it: bitgen-show {out.parent if arguments.out is None else arguments.checkpoint}"
    )
    return 0


def results_path(arguments: Arguments) -> Path:
    """`--out`, or results.json, or official.json, in the folder of the run that the checkpoint belongs to."""
    if arguments.out is not None:
        return arguments.out
    path = latest_run(Path(arguments.checkpoint))
    if not path.is_dir() and path.parent.name != CHECKPOINTS:
        raise ResultsError(f"expected a run folder, a checkpoint folder or hf://owner/name, found none: {path}")
    run = path if (path / CHECKPOINTS).is_dir() else path.resolve().parent.parent
    return run / ("results.json" if arguments.folder is None else "official.json")


if __name__ == "__main__":
    sys.exit(main())
