"""bitgen-shards: downloaded sources become shards under data/shards, evaluation first."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from cli.arguments import parse, positive
from pipeline.building.workers import Engine, start_server


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong use."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = parse(_parser(), sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads, which spin a while when it is imported
    try:
        if options.workers > 1 and options.engine == "local" and not (options.dry_run or options.verify):
            start_server()
        # Beside the workers' own imports; and each worker imports this file, which is the program, but not what it runs.
        from cli.building import run

        return run(options)
    except KeyboardInterrupt:
        print("bitgen-shards: stopped; the same command goes on from here", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bitgen-shards", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "manifests",
        nargs="*",
        type=Path,
        metavar="MANIFEST",
        help="TOML files (default: those of manifests/ whose files are there)",
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="where raw/ is and shards/ goes (default: data)"
    )
    parser.add_argument(
        "--sources", nargs="+", default=[], metavar="NAME", help="only these, under the hold-out of all"
    )
    parser.add_argument("--limit", type=positive, help="images of each source at most, the first ones")
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument(
        "--shorter-side",
        type=positive,
        metavar="PX",
        help="shrink larger images to this (default: bytes as they came)",
    )
    parser.add_argument(
        "--check",
        choices=("whole", "header"),
        default="whole",
        help="decode every byte of an image before it goes in (whole, the default), or read its header only (faster;"
        " damage stays unseen, and no image is compared with the evaluation images by its look)",
    )
    parser.add_argument(
        "--engine",
        choices=get_args(Engine),
        default="local",
        help="worker processes here (local, the default), or the CPUs of a Ray cluster that shares the data folder",
    )
    parser.add_argument(
        "--keep-lookalikes",
        action="store_true",
        help="train on images that look like an evaluation image, though neither their ids nor their bytes are one's"
        " (default: they are held out; the ledger lists them either way)",
    )
    parser.add_argument(
        "--output",
        default="",
        metavar="URL",
        help="where finished datasets go, any URL that fsspec opens, as s3://bucket/shards; the shards are then deleted"
        " here (default: they stay in DATA/shards)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be built, and end")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="build nothing: read all that is built; compare every digest, every published count, and every id and image"
        " with the evaluation sets'",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
