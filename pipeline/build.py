"""THE LOOP: sources -> candidates -> hold-out -> image bytes -> shards; every row ends in the ledger with one outcome.

Worker processes make a shard of each chunk of `samples_per_shard` candidates (`pipeline/building/chunks.py`). When all are
there it is decided which samples show an evaluation image or have a double (`pipeline/building/decide.py`); the shards in which
that changes something are written again, the others stand as they are (`pipeline/building/write.py`). All of it waits in
`.parts/` until the dataset is finished, so a killed build goes on there.
"""

import hashlib
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgen.progress import progress
from pipeline.building.chunks import BUILD_VERSION, PARTS, chunks, ending, fill, note_of, part_path
from pipeline.building.decide import Plan, decide
from pipeline.building.examine import Check
from pipeline.building.finished import (
    IMAGES,
    STAMPS,
    compared_otherwise,
    evaluation_folders,
    finish,
    first_bytes,
    is_unchanged,
    read_images,
    seen_before,
    sweep,
)
from pipeline.building.send import SendError, check_output, forget, is_there, send, sent_to
from pipeline.building.workers import Engine, LocalWorkers, RayWorkers, workers_of
from pipeline.building.write import shard_tasks, write_shard
from pipeline.crawling.crawled import CrawlError
from pipeline.files import digest_of, locked, read_json
from pipeline.holdout import BlockList, Looks, block_list, check_files, keep_list, missing_lists
from pipeline.ledger import LEDGER, join_ledgers, refused
from pipeline.locate import Locate, locate_for
from pipeline.manifest import Manifest, Source
from pipeline.reading import known_ids, read
from pipeline.rows import AnnotationError
from shards.format import FORMAT_VERSION, ShardError
from shards.index import DATASET, ShardIndex

log = logging.getLogger(__name__)


class BuildError(Exception):
    """A source cannot be built, or should not be."""


_OF_ONE_SOURCE = (BuildError, AnnotationError, ShardError, CrawlError, SendError)


@dataclass(frozen=True)
class Options:
    """What a user may ask of a build."""

    limit: int | None = None
    """Candidates of each source at most, the first ones."""
    shorter_side_px: int | None = None
    """Images with a longer shorter side are shrunk to it."""
    workers: int = 1
    """Processes of this machine."""
    engine: Engine = "local"
    """`ray`: the CPUs of a Ray cluster in their place."""
    check: Check = "whole"
    """How much of an image is looked at before it goes in."""
    keep_lookalikes: bool = False
    """Train on what only looks like an evaluation image: neither its id nor its bytes are one's."""
    output: str = ""
    """A URL that fsspec opens, where finished datasets go; empty: they stay under `data`."""


@dataclass(frozen=True)
class Others:
    """What one source has to know of the others."""

    manifests: Sequence[Manifest]
    blocked: BlockList
    looks: Looks
    """Of every evaluation set on disk, whichever manifest made it; complete before a source to train on is built."""
    firsts: list[NDArray[np.uint64]]
    """Of each dataset before it, `pipeline.building.finished.first_bytes`."""


@dataclass(frozen=True)
class Built:
    """A finished dataset."""

    folder: Path
    dataset: dict[str, Any]
    """`dataset.json`."""
    is_new: bool
    """False where it was up to date."""


def build(manifests: Sequence[Manifest], data: Path, wanted: Sequence[Source], options: Options) -> Iterator[Built]:
    """Builds the `wanted` sources of `manifests` under `data`, evaluation first; each is finished when it is yielded.

    The hold-out rule covers all of `manifests`, whichever sources are wanted. A source to train on that cannot be built
    does not keep the others from being: its error is raised at the end. Raises `BuildError`, and the errors of
    the stages: `AnnotationError`, `HoldoutError`, `ShardError`, `SendError`, `WorkerError`, `BusyError`, `OSError`.
    """
    if options.engine == "ray":
        data = data.absolute()  # its workers have working directories of their own
    if options.check == "header":
        log.warning("only headers are read: damage stays unseen, and no image is compared by its look")
    raw, shards = data / "raw", data / "shards"
    options = replace(options, output=check_output(options.output, shards))
    manifests = list({manifest.path.resolve(): manifest for manifest in manifests}.values())
    _check_distinct(manifests)
    with locked(shards), workers_of(options.engine, options.workers) as workers:
        log.info("reading annotations for the hold-out rule")
        blocked = keep_list(block_list(manifests, raw, lambda source: known_ids(source, raw)), shards)
        log.info("%s ids of evaluation images are blocked, sha256 %s", f"{len(blocked.ids):,}", blocked.sha256)
        others, before = Others(manifests, blocked, Looks(), []), list[Path]()
        sources = [source for manifest in manifests for source in manifest.sources]
        for source in (s for s in sources if s.role == "eval"):
            folder = shards / source.dataset
            if source in wanted:
                yield _build_source(source, raw, folder, others, options, workers)
            elif not (folder / DATASET).exists():
                log.warning("%s is not built: training images are not compared with its pixels", source.dataset)
        _add_evaluation_images(others, shards)
        failed: list[str] = []
        for source in (s for s in sources if s.role == "train"):
            folder = shards / source.dataset
            try:
                if source in wanted:
                    others.firsts.extend(map(first_bytes, before))
                    before.clear()
                    yield _build_source(source, raw, folder, others, options, workers)
            except _OF_ONE_SOURCE as error:
                log.error("%s: %s", source.dataset, error)
                failed.append(f"{source.dataset}: {error}")
            before.append(folder)
        for name in compared_otherwise(shards, others.looks.sha256):
            log.warning("%s was compared with other evaluation images than are there now: build it again", name)
        if failed:
            raise BuildError("; ".join(failed))


def _check_distinct(manifests: Sequence[Manifest]) -> None:
    made_by: dict[str, Path] = {}
    for dataset, path in ((source.dataset, manifest.path) for manifest in manifests for source in manifest.sources):
        if dataset in made_by:
            raise BuildError(f"expected distinct sources, found {dataset} in {made_by[dataset]} and in {path}")
        made_by[dataset] = path


def _check_own(source: Source, folder: Path) -> None:
    """Refuses a folder that another manifest filled."""
    dataset = read_json(folder / DATASET)
    if dataset is not None and dataset.get("manifest", source.manifest) != source.manifest:
        raise BuildError(
            f"expected a dataset of manifest {source.manifest!r}, found one of {dataset['manifest']!r}: {folder};"
            " name the source otherwise, or delete the folder"
        )


def _add_evaluation_images(others: Others, shards: Path) -> None:
    """Those of every dataset in `shards/eval`, whichever manifest made it."""
    for folder in evaluation_folders(shards):
        name = folder.relative_to(shards).as_posix()
        if not (folder / IMAGES).exists():
            log.warning("%s has no %s: training images are not compared with its pixels", name, IMAGES)
        dataset = read_json(folder / DATASET) or {}
        if dataset.get("limit") or dataset.get("check") == "header":
            log.warning("%s was built with a limit, or by headers: not all that it could hold out is known", name)
        for image in read_images(folder):
            others.looks.add(image.sha256, image.look, f"{name} {image.key}")
        others.firsts.append(first_bytes(folder))


def _build_source(
    source: Source, raw: Path, folder: Path, others: Others, options: Options, workers: LocalWorkers | RayWorkers
) -> Built:
    _check_own(source, folder)
    check_files(source, others.manifests, raw)
    locate = locate_for(source, raw)
    inputs = _inputs(source, raw, others, options)
    if dataset := _finished(folder, inputs, locate, options.output):
        sweep(folder, dataset)
        return _sent(Built(folder, dataset, is_new=False), options.output)
    forget(folder)

    # Every image is opened and written, by the workers.
    parts: list[Path] = []
    with progress(f"{source.dataset}: writing", None, "images") as bar:
        candidates = itertools.islice(read(source, raw), options.limit)
        how = options.shorter_side_px, options.check
        for done in workers.each(fill, chunks(source, candidates, folder, others.blocked, locate, *how)):
            parts.append(part_path(folder, len(parts)))
            bar.update(done)
    notes = [note_of(part) for part in parts]
    for name in (
        missing_lists({kind for note in notes for kind in note["kinds"]}, raw) if source.role == "train" else ()
    ):
        log.warning("%s: some of its ids may be of %s, which is not on disk and so not held out", source.dataset, name)

    # What of it goes in, and the ledger.
    plan = decide(parts, others.looks if source.role == "train" else None, options.keep_lookalikes)
    with progress(f"{source.dataset}: ledger", None, "rows"):
        ends = ((n, plan.changes[n].ends if n in plan.changes else {}) for n in range(len(parts)))
        ledgers = ((ending(parts[n], ".ledger.parquet"), each) for n, each in ends)
        counts = join_ledgers(folder / PARTS / LEDGER, ledgers)
    _check_counts(source, counts, plan, folder / PARTS)

    # What an earlier build left stays good up to here, whatever fails.
    (folder / DATASET).unlink(missing_ok=True)
    os.replace(folder / PARTS / LEDGER, folder / LEDGER)
    written = list(workers.each(write_shard, shard_tasks(folder, parts, plan, source.role == "eval")))
    counted = plan.counted(source.role, counts, sum(note["candidates"] for note in notes))
    published = {} if options.limit else dict(source.published)
    for what, count in published.items():
        if counted[what] != count:
            log.warning("%s: expected %s %s as published, found %s", source.dataset, count, what, counted[what])
    dataset = finish(
        source,
        folder,
        parts,
        written,
        {
            "inputs": inputs,
            "holdout_sha256": others.blocked.sha256,
            **({"looks_sha256": others.looks.sha256} if source.role == "train" else {}),
            "counts": dict(sorted(counts.items())),
            "counted": counted,
            "published": published,
            "refusal_ceiling": source.refusal_ceiling,
            "duplicates_across_sources": seen_before(plan.firsts, others.firsts),
            "sample_side_px": options.shorter_side_px,
            "check": options.check,
            "keep_lookalikes": options.keep_lookalikes,
            "limit": options.limit,
        },
    )
    return _sent(Built(folder, dataset, is_new=True), options.output)


def _sent(built: Built, output: str) -> Built:
    """`built`, once it is where it is wanted."""
    there = sent_to(built.folder)
    if output and there not in (None, output):
        raise BuildError(
            f"expected {built.dataset['name']} to go to {output}, found it sent to {there}: copy it from there"
        )
    if output:
        send(built.folder, output)
    return built


def _check_counts(source: Source, counts: Counter[str], plan: Plan, folder: Path) -> None:
    against, rows = refused(counts), counts.total()
    if against.total() > source.refusal_ceiling * rows:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in against.most_common(3))
        raise BuildError(
            f"expected at most {source.refusal_ceiling:.2%} of the rows refused, found {against.total() / rows:.2%}"
            f" of {rows:,}: {reasons}; row by row in {folder / LEDGER}"
        )
    if not sum(plan.samples):
        raise BuildError(f"expected one or more samples, found none, rows {dict(counts)}: {source.dataset}")


def _inputs(source: Source, raw: Path, others: Others, options: Options) -> str:
    """Digest of all that a dataset depends on, but for its images: those are known by their stamps."""
    said = [
        BUILD_VERSION,
        FORMAT_VERSION,
        source.what,
        [digest_of(raw / source.manifest / path) for path in source.annotations],
        others.blocked.sha256,
        others.looks.sha256 if source.role == "train" else "",
        options.limit,
        options.shorter_side_px,
        options.check,
        options.keep_lookalikes,
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=dict).encode()).hexdigest()


def _finished(folder: Path, inputs: str, locate: Locate, output: str) -> dict[str, Any] | None:
    """`dataset.json` of a dataset that another build would make again; None where there is something to do."""
    try:
        if (place := sent_to(folder)) and place == output and not is_there(folder, output):
            return None
        dataset = read_json(folder / DATASET) if place else dict(ShardIndex.open(folder).dataset)
    except ShardError:
        return None
    whole = all((folder / name).is_file() for name in (IMAGES, STAMPS, LEDGER))
    return dataset if dataset and dataset.get("inputs") == inputs and whole and is_unchanged(folder, locate) else None
