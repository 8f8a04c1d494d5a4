"""bitgen-shapes: a drawn world of coloured shapes, with captions and grounded sentences, to learn in where there is no other."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.arguments import parse, positive
from pipeline.building.workers import WorkerError
from pipeline.files import BusyError
from pipeline.shapes import MANIFEST, ShapesError, World, write_world


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong use."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = parse(_parser(), sys.argv[1:] if arguments is None else arguments)
    try:
        world = World(options.train, options.val, options.test, options.side, tuple(options.objects), options.seed)
    except ValueError as error:
        print(f"bitgen-shapes: {error}", file=sys.stderr)
        return 2
    scenes = sum(world.splits.values())
    print(f"drawing {scenes:,} scenes of {world.side_px} pixels into {options.folder}", file=sys.stderr)
    if options.dry_run:
        return 0
    try:
        is_new = write_world(options.folder, world, options.workers)
    except ShapesError as error:
        print(f"bitgen-shapes: {error}", file=sys.stderr)
        return 2
    except (BusyError, WorkerError, OSError) as error:
        print(f"bitgen-shapes: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bitgen-shapes: stopped; the same command draws it again", file=sys.stderr)
        return 1
    made = "drew" if is_new else "nothing to do, there are"
    counts = ", ".join(f"{count:,} {split}" for split, count in world.splits.items())
    print(f"{made} {scenes:,} scenes ({counts}): {options.folder}; next: bitgen-download {options.folder / MANIFEST}")
    return 0


def _parser() -> argparse.ArgumentParser:
    default = World()
    parser = argparse.ArgumentParser("bitgen-shapes", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what is drawn goes there, and its manifest")

    def number(flag: str, value: int, what: str) -> None:
        parser.add_argument(flag, type=int, default=value, metavar="N", help=f"{what} (default: {value})")

    number("--train", default.train, "scenes to train on")
    number("--val", default.val, "scenes to watch a training by, like those")
    number(
        "--test", default.test, "scenes to test on, and as many with combinations of colour and shape never trained on"
    )
    number("--side", default.side_px, "pixels to a side")
    number("--seed", default.seed, "which world")
    parser.add_argument(
        "--objects",
        type=positive,
        nargs="+",
        default=list(default.objects),
        metavar="N",
        help="things in a scene: one of these numbers (default: 4 5)",
    )
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be drawn, and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
