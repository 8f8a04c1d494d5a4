"""bitgen-show DATA_OR_RUN: one self-contained HTML page of datasets or of a run."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bitgen.batch import BatchError
from pipeline.files import check_replaceable, write_text
from pipeline.pages.data import RECORDS, PageError, data_page
from pipeline.pages.run import is_run, run_of, run_page
from shards.format import ShardError
from shards.index import DATASET


class UseError(Exception):
    """Arguments that do not go together."""


@dataclass(frozen=True)
class Arguments:
    """Show datasets (what was built, what needs attention, refusals with examples, sizes, words, contact sheets) or a
    run (curves, results, predictions)."""

    path: Annotated[Path, tyro.conf.Positional]
    """A run folder, a dataset folder, or a data folder that holds shards/."""
    out: Path | None = None
    """Where the page goes; by default report.html in the run folder, data.html in the data folder, NAME.html beside a
    dataset folder."""
    data: str | None = None
    """For a run: the folder or URL that holds shards/; by default the one that the run was trained from."""
    samples: int = 12
    """Images shown: of a run over all its datasets, at least one of each; of data from every dataset."""
    records: int = RECORDS
    """For data: records read over all datasets for words, licences and sizes of boxes; smaller datasets are read whole."""
    seed: int = 0
    """Which images and records, and which crops."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"expected --samples of 1 or more, found {self.samples}")
        if self.records < 1:
            raise ValueError(f"expected --records of 1 or more, found {self.records}")
        if self.seed < 0:
            raise ValueError(f"expected --seed of 0 or more, found {self.seed}")


def main(argv: list[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong use."""
    arguments = tyro.cli(Arguments, prog="bitgen-show", args=argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        out = show(arguments)
    except KeyboardInterrupt:
        print("bitgen-show: stopped; nothing was written", file=sys.stderr)
        return 1
    except UseError as error:
        print(f"bitgen-show: {error}", file=sys.stderr)
        return 2
    except (BatchError, PageError, ShardError, OSError) as error:
        print(f"bitgen-show: {error}", file=sys.stderr)
        return 1
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB); next, open it in a browser: {out.resolve().as_uri()}")
    return 0


def show(arguments: Arguments) -> Path:
    """Write the page, whole or not at all; returns where it is."""
    path = arguments.path
    if not path.is_dir():
        raise PageError(f"expected a run folder, a dataset folder or a data folder, found none: {path}")
    if is_run(path):
        out = arguments.out or run_of(path) / "report.html"
        print(f"showing the run {run_of(path)}", file=sys.stderr)
        check_replaceable(out)
        page = run_page(path, arguments.data, arguments.samples, arguments.seed)
    else:
        if arguments.data is not None:
            raise UseError(f"expected --data with a run only, found it with {path}")
        out = arguments.out or default_page(path)
        print(f"showing the datasets of {path}", file=sys.stderr)
        check_replaceable(out)
        page = data_page(path, arguments.samples, arguments.seed, arguments.records)
    write_text(out, page)
    return out


def default_page(path: Path) -> Path:
    """A dataset folder holds only what the build made, so its page goes beside it."""
    path = path.resolve()
    return path.parent / f"{path.name}.html" if (path / DATASET).is_file() else path / "data.html"


if __name__ == "__main__":
    sys.exit(main())
