"""What bitgen-shards does, once its arguments are known."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bitgen.training.phases import Phase, Preset, configure
from cli.sources import check_sources
from pipeline.audit import AuditError, audit
from pipeline.build import BuildError, Built, Options, build
from pipeline.building.send import SendError, sent_to
from pipeline.building.workers import WorkerError
from pipeline.crawling.crawled import CrawlError
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
    OSError,
)


def run(options: argparse.Namespace) -> int:
    """0 done, 1 failed, 2 wrong use."""
    try:
        return _run(options)
    except ManifestError as error:
        print(f"bitgen-shards: {error}", file=sys.stderr)
        return 2
    except _FAILURES as error:
        print(f"bitgen-shards: {error}", file=sys.stderr)
        return 1


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
