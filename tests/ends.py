"""How a run ends on every rank where only one has the reason, as `tests/training/test_distributed.py` compares it."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from bitgen.batch import Batch
from bitgen.training.checkpoint import CheckpointError
from bitgen.training.distributed import RankError, rank, world
from bitgen.training.loop import TrainingError, train
from tests import fakes
from tests.disk import files_of_at_most
from tests.trainings import figures

LONG = "x" * (24 << 20)
"""A figure's name that makes of a line of figures more than of a checkpoint's files, each below 16 MB."""
SIZE_BYTES = 16 << 20


class LostError(Exception):
    """What reading a batch, a validation or pictures may raise."""


def ends(folder: Path) -> dict[str, str]:
    """By what goes wrong, and on which rank alone: the error that ends the run on this one."""
    found = {
        "a checkpoint, 0": _ended(folder / "unwritten", file="checkpoints"),
        "the first figures, 0": _ended(folder / "unopened", file="metrics.jsonl/x"),
        "validation, 0": _ended(folder / "unmeasured", validate=_raise),
        "pictures, 0": _ended(folder / "unshown", show=_raise),
        "a batch, 1": _ended(folder / "unread", _batches(7, 1, LostError())),
        "the end of the batches, 1": _ended(folder / "ended", _batches(7, 1)),
    }
    with files_of_at_most(SIZE_BYTES):
        found["figures, 0"] = _ended(folder / "unlogged", validate=figures(0.1, name=LONG))
    return found


def _ended(run: Path, batches: Iterator[Batch] | None = None, *, file: str = "", **options: Any) -> str:
    """Of a run of 4 steps of two micro-steps, after each a checkpoint, and a validation and pictures where `options` have them;
    `file` is in its folder before."""
    if rank() == 0 and file:
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).write_text("in the way")
    run.mkdir(parents=True, exist_ok=True)
    every = {"checkpoint_every": 1, "validate_every": 0.5, "show_every": 1}
    config = fakes.config("fine", optim={"accumulation": 2}, run=every)
    objective = fakes.objective(config)
    try:
        train(objective, fakes.state(config, objective), batches or _batches(100, -1), run, **options)
    except (CheckpointError, TrainingError, RankError, LostError, OSError) as error:
        return type(error).__name__
    return "none"


def _batches(count: int, ends_on: int, error: Exception | None = None) -> Iterator[Batch]:
    """This rank's micro-batches of 4 images; on one rank only so many, and then an error."""
    for batch in islice(fakes.endless(4), count if rank() == ends_on else None):
        yield fakes.part(batch, rank(), world())
    if error is not None:
        raise error


def _raise(*step: int) -> NoReturn:
    raise LostError
