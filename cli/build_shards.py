"""bitgen-shards: downloaded sources become shards under data/shards, evaluation first."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from bitgen.training.phases import Phase, Preset, configure
from cli.arguments import check_sources, parse, positive
from pipeline.audit import AuditError, audit
from pipeline.build import BuildError, Built, Options, build
from pipeline.building.examine import Check
from pipeline.building.send import SendError, sent_to
from pipeline.building.workers import Engine, WorkerError
from pipeline.crawl import CrawlError
from pipeline.fetch import FetchError
from pipeline.files import BusyError
from pipeline.holdout import HoldoutError, block_list, missing_files
from pipeline.ledger import summary
from pipeline.manifest import Manifest, ManifestError, Source, read_manifest
from pipeline.reading import known_ids
from pipeline.rows import AnnotationError
from shards.format import ShardError
from shards.index import DATASET

MANIFESTS = Path(__file__).parents[1] / "manifests"

_FAILURES = (
    AuditError,
    BuildError,
    CrawlError,
    HoldoutError,
    AnnotationError,
    ShardError,
    SendError,
    WorkerError,
    BusyError,
    FetchError,
    OSError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong use."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = parse(_parser(), sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(options)
    except ManifestError as error:
        print(f"bitgen-shards: {error}", file=sys.stderr)
        return 2
    except _FAILURES as error:
        print(f"bitgen-shards: {error}", file=sys.stderr)
        return 1
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
        choices=get_args(Check),
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


def _run(options: argparse.Namespace) -> int:
    if options.verify:
        if options.manifests or options.sources:
            raise ManifestError("expected neither manifests nor --sources with --verify, which reads all that is built")
        return _verify(options.data)
    named = [read_manifest(path) for path in options.manifests]
    here = _downloaded(options.data)
    wanted = _wanted(named or here, options.sources, options.data, is_explicit=bool(named))
    # The rule covers all that is downloaded, so that building one dataset at a time gives what building all gives.
    manifests = named + [manifest for manifest in here if manifest.name not in {m.name for m in named}]
    for source in wanted:
        print(f"{source.dataset}: {source.manifest}, {' '.join(source.annotations)}", file=sys.stderr)
    if options.dry_run:
        return 0
    built: list[Built] = []
    how = Options(
        limit=options.limit,
        shorter_side_px=options.shorter_side,
        workers=options.workers,
        engine=options.engine,
        check=options.check,
        keep_lookalikes=options.keep_lookalikes,
        output=options.output,
    )
    failed: BuildError | None = None
    try:
        for each in build(manifests, options.data, wanted, how):
            built.append(each)
            print(_line(each), file=sys.stderr)
    except BuildError as error:
        failed = error
    if built:
        print(summary({each.dataset["name"]: each.dataset["counts"] for each in built}))
        total = sum(each.dataset["samples"] for each in built)
        print(f"{total:,} samples in {len(built)} datasets are in {options.output or options.data / 'shards'}")
    if failed:
        raise failed
    print(f"next: {_next(built, options.data)}")
    return 0


def _verify(data: Path) -> int:
    """A line for every dataset, then what they promise together; stops at the first damage."""
    shards, raw = data / "shards", data / "raw"
    for folder in sorted(path.parent for path in shards.glob(f"*/*/{DATASET}")):
        if place := sent_to(folder):
            raise BuildError(
                f"expected shards to verify, found {folder.relative_to(shards)} sent to {place}: copy it here"
            )
    blocked: frozenset[str] = frozenset()
    try:
        blocked = block_list(_downloaded(data), raw, lambda source: known_ids(source, raw)).ids
    except HoldoutError as error:
        print(f"ids are not followed from one dataset to the other: {error}", file=sys.stderr)
    found = audit(shards, blocked=blocked, done=lambda each: print(f"{each.name}: whole", file=sys.stderr))
    print(found.table())
    print(found.holdout())
    print(f"{len(found.datasets)} datasets in {shards} are whole; next, to look at them: bitgen-show {data}")
    return 0


def _next(built: Sequence[Built], data: Path) -> str:
    """A command that works with what is in `data` now."""
    phases: tuple[Phase, ...] = ("coarse", "fine")
    presets: tuple[Preset, ...] = ("base", "demo")
    for phase in phases:
        names = [each.dataset["name"] for each in built if _trains(each, phase)]
        if not names:
            continue
        for preset in presets:
            wanted = configure(phase, preset).data
            needed = [*wanted.mixture, *wanted.validation]
            if set(names) <= set(needed) and all((data / "shards" / name / DATASET).is_file() for name in needed):
                return f"bitgen-train --phase {phase}{' --preset demo' * (preset == 'demo')} --data.root {data}"
        return f"bitgen-train --phase {phase} --mixture {' '.join(names)} --data.root {data}"
    return f"bitgen-show {data}"


def _downloaded(data: Path) -> list[Manifest]:
    """The manifests of `manifests/` that have a folder in raw/."""
    found = [read_manifest(path) for path in sorted(MANIFESTS.glob("*.toml"))]
    return [manifest for manifest in found if manifest.sources and (data / "raw" / manifest.name).is_dir()]


def _wanted(manifests: Sequence[Manifest], names: Sequence[str], data: Path, is_explicit: bool) -> list[Source]:
    """The sources to build: those named; else all, and unless the manifests were named, all that are downloaded."""
    sources = [source for manifest in manifests for source in manifest.sources]
    if not sources:
        raise BuildError(f"expected downloads of manifests/*.toml, found none: {data / 'raw'}; run bitgen-download")
    check_sources(manifests, names)
    if names:
        return [source for source in sources if source.name in names]
    wanted = []
    for source in sources:
        missing = [*missing_files(source, data / "raw"), *_missing_roots(source, data / "raw")]
        if missing and not is_explicit:
            print(f"{source.dataset}: not built, {missing[0]} is not downloaded", file=sys.stderr)
        else:
            wanted.append(source)
    return wanted


def _missing_roots(source: Source, raw: Path) -> list[Path]:
    roots = [raw / source.manifest / root for root in source.images]
    return [] if any(root.is_dir() for root in roots) else roots


def _line(built: Built) -> str:
    dataset = built.dataset
    how = "built" if built.is_new else "up to date"
    return f"{dataset['name']}: {how}, {dataset['samples']:,} samples, {dataset['texts']:,} texts, {dataset['boxes']:,} boxes"


def _trains(built: Built, phase: str) -> bool:
    return built.dataset["role"] == "train" and built.dataset["phase"] == phase


if __name__ == "__main__":
    sys.exit(main())
