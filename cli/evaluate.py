"""bitgen-eval CKPT: what a checkpoint or an export can do on training and held-out sets, as tables, as results.json and a page."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from bitgen.batch import BatchError
from bitgen.deploy.exported import is_exported
from bitgen.deploy.packed import PackedError
from bitgen.evaluation.tables import comparison_table, plain
from bitgen.training.checkpoint import CheckpointError
from bitgen.training.folders import CHECKPOINTS, latest_run
from pipeline.comparing import compare_checkpoints, names_of
from pipeline.earlier import put_aside
from pipeline.files import check_replaceable, write_text
from pipeline.holdout import HoldoutError
from pipeline.measuring import Beside, Task
from pipeline.official import CACHE, OfficialError, build_official
from pipeline.pages.comparison import write_comparison
from pipeline.pages.evaluation import PAGE, folder_of, tables, write_beside
from pipeline.ready import Choice
from pipeline.results import evaluate_checkpoint
from pipeline.sets import ResultsError, Split
from shards.format import ShardError


@dataclass(frozen=True)
class Arguments:
    """Evaluate a checkpoint or an export, every figure beside its chance level or controls; or compare two."""

    checkpoint: Annotated[str | None, tyro.conf.Positional] = None
    """A run folder, a checkpoint folder, hf://owner/name, or a folder that bitgen-export --format onnx left."""
    compare: tuple[str, str] | None = None
    """Two of them, in place of one: differences on the held-out sets, with intervals by paired bootstrap."""
    task: tuple[Task, ...] = ("retrieval", "grounding")
    """What to evaluate. memory, attention, vectors and efficiency look inside the model, on held-out sets alone."""
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
    """Of the controls, of what the memory is asked, and of the intervals."""
    rerank: int = 0
    """How many of the first that retrieval finds to order anew by the matching head; 0: none."""
    caption_tokens: int = 24
    """Of a generated caption, at most."""
    beams: int = 1
    """Of its search; 1: the likeliest token at every step."""
    java: bool = True
    """Try METEOR and SPICE too, which take half a minute a set."""
    out: Path | None = None
    """Where the results go; by default results.json in the run folder or the export, official.json with --folder (without
    retrieval and grounding memory.json or official-memory.json, by the tasks' names), comparison.json in the second one's
    with --compare. The page and its figures go into a folder beside it, results.page. Results of before that have more are
    put aside, as results-earlier-1.json."""
    folder: Path | None = None
    """A folder of official files: the evaluation sets that --manifest finds in it are evaluated, and no others."""
    manifest: tuple[Path, ...] = ()
    """With --folder: which evaluation sets, as manifests/flickr30k.toml, or a manifest of your own."""
    cache: Path = CACHE
    """With --folder: where its sets are built; needs the room of their images."""

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.compare is None):
            raise ValueError(
                "expected a checkpoint, or two after --compare, found " + ("none" if self.compare is None else "both")
            )
        if min(self.batch, self.train_limit, self.caption_tokens, self.beams) < 1 or self.rerank < 0:
            found = f"{self.batch}, {self.train_limit}, {self.caption_tokens} and {self.beams}, --rerank {self.rerank}"
            raise ValueError(
                f"expected --batch, --train-limit, --caption-tokens and --beams of 1 or more, --rerank of 0 or more, found {found}"
            )
        if (self.folder is None) != (not self.manifest):
            raise ValueError("expected --folder and --manifest together, found one of them")
        if "heldout" not in self.split and (self.folder or self.compare):
            raise ValueError("--folder and --compare are about held-out sets, found --split train alone")
        if self.seed < 0:
            raise ValueError(f"expected --seed of 0 or more, found {self.seed}")
        if self.out is None and self.last.startswith("hf://"):
            raise ValueError(f"expected --out FILE for a model from a hub, found none: {self.last}")

    @property
    def last(self) -> str:
        """The checkpoint beside which the results go."""
        return self.compare[1] if self.compare else str(self.checkpoint)


def main(argv: list[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong use."""
    arguments = tyro.cli(Arguments, prog="bitgen-eval", args=argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return evaluate(arguments)
    except KeyboardInterrupt:
        print("bitgen-eval: stopped; where results.json is new, its page may not be there", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"bitgen-eval: {error}; an exported model needs pip install 'bitgen[edge]'", file=sys.stderr)
        return 1
    except (
        BatchError,
        CheckpointError,
        HoldoutError,
        OfficialError,
        PackedError,
        ResultsError,
        ShardError,
        OSError,
        ValueError,
    ) as error:
        print(f"bitgen-eval: {error}", file=sys.stderr)
        return 1


def evaluate(arguments: Arguments) -> int:
    out = results_path(arguments)
    check_replaceable(out)
    if out.suffix != ".json":  # what stands beside it goes into a folder of its name
        raise ResultsError(f"expected --out to end with .json, found {out}")
    folder = folder_of(out)
    official, splits = None, arguments.split
    if arguments.folder is not None:
        official = build_official(arguments.folder, arguments.manifest, arguments.cache, os.cpu_count() or 1)
        splits: tuple[Split, ...] = ("heldout",)
    choice = Choice(
        arguments.task,
        splits,
        arguments.batch,
        arguments.train_limit,
        arguments.allow_other_holdout,
        arguments.seed,
        arguments.rerank,
        arguments.caption_tokens,
        arguments.beams,
        arguments.java,
    )
    tasks = " and ".join(arguments.task)
    if arguments.compare:
        print(f"comparing {tasks} of {' and '.join(arguments.compare)} on heldout sets", file=sys.stderr)
        comparison = compare_checkpoints(*arguments.compare, arguments.data, choice, official)
        write_results(out, folder, comparison)
        write_comparison(folder, comparison)
        print(plain(comparison_table(comparison["sets"], *names_of(comparison))), end="\n\n")
        for note in comparison["notes"]:
            print(note, end="\n\n")
        print(f"wrote {out} and {folder / PAGE}")
        return 0
    print(f"evaluating {tasks} of {arguments.last} on {' and '.join(splits)} sets", file=sys.stderr)
    beside = Beside()
    results = evaluate_checkpoint(arguments.last, arguments.data, choice, official, beside)
    write_results(out, folder, results)
    write_beside(folder, results, beside)
    for table in tables(results):
        print(plain(table), end="\n\n")
    for note in results["notes"]:
        print(note, end="\n\n")
    after = f"to look at the run: bitgen-show {arguments.last}"
    if "exported" in results:
        after = f"to compare it with its checkpoint: bitgen-eval --compare CKPT {arguments.last}"
    print(f"wrote {out} and {folder / PAGE}; next, {after}")
    return 0


def write_results(out: Path, page: Path, found: Mapping[str, Any]) -> None:
    """`found` as `out`; what stood there and would be lost is put aside, and where is said."""
    if kept := put_aside(out, page, found):
        print(f"{out.name} of before, which has more than is measured now, is {kept}", file=sys.stderr)
    write_text(out, json.dumps(found, indent=2, allow_nan=False) + "\n")


def results_path(arguments: Arguments) -> Path:
    """`--out`, or a file in the folder of the export, or of the run that the checkpoint belongs to."""
    if arguments.out is not None:
        return arguments.out
    path = latest_run(Path(arguments.last))
    if not path.is_dir() and path.parent.name != CHECKPOINTS:
        raise ResultsError(f"expected a run folder, a checkpoint folder or hf://owner/name, found none: {path}")
    is_whole = (path / CHECKPOINTS).is_dir() or is_exported(path)
    run = path if is_whole else path.resolve().parent.parent
    if not is_whole and not (run / CHECKPOINTS).is_dir():
        raise ResultsError(f"expected --out FILE for a checkpoint that is in no run, found none: {path}")
    if arguments.compare:
        return run / "comparison.json"
    is_main = bool({"retrieval", "grounding"} & set(arguments.task))  # whose file others do not take the place of
    name = "" if is_main else "-".join(arguments.task)
    if arguments.folder is not None:
        return run / ("-".join(filter(None, ("official", name))) + ".json")
    return run / f"{name or 'results'}.json"


if __name__ == "__main__":
    sys.exit(main())
