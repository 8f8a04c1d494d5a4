"""THE LOOP: sources -> candidates -> hold-out -> image bytes -> shards; every row ends in the ledger with one outcome.

A source is built in two passes over chunks of `samples_per_shard` candidates, by worker processes. The first looks at
every image (`pipeline/survey.py`); between the two it is decided which candidates go in; the second writes a shard per
chunk. What a chunk's pass has made stays in `.parts/` until the dataset is finished, so a killed build goes on there.
"""

import hashlib
import importlib.metadata
import itertools
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitgen.progress import progress
from pipeline.annotations import OPTIONS, READERS
from pipeline.chunks import PARTS, chunks, part_path, unlisted
from pipeline.decide import Plan, decide, ledger_lines
from pipeline.fetch import digest_of
from pipeline.files import locked, read_json, write_json
from pipeline.finished import (
    IMAGES,
    STAMPS,
    compared_otherwise,
    evaluation_folders,
    is_unchanged,
    read_images,
    write_images,
    write_stamps,
)
from pipeline.holdout import BlockList, Looks, block_list, check_files
from pipeline.ledger import LEDGER, refused, write_ledger
from pipeline.locate import Locate, locate_for
from pipeline.manifest import Manifest, Source
from pipeline.nearest import hint
from pipeline.rows import Candidate
from pipeline.survey import survey
from pipeline.workers import Workers
from pipeline.write import ShardDone, shard_tasks, write_shard
from shards.format import FORMAT_VERSION, ShardError
from shards.index import DATASET, ShardIndex, write_index

log = logging.getLogger(__name__)

BUILD_VERSION = 2
"""Raised when the same files give other shards."""


class BuildError(Exception):
    """A source cannot be built, or should not be."""


@dataclass(frozen=True)
class Options:
    """What a user may ask of a build."""

    limit: int | None = None
    """Candidates of each source at most, the first ones."""
    shorter_side_px: int | None = None
    """Images with a longer shorter side are shrunk to it."""
    workers: int = 1


@dataclass(frozen=True)
class Others:
    """What one source has to know of the others."""

    manifests: Sequence[Manifest]
    blocked: BlockList
    looks: Looks
    """Of every evaluation set on disk, whichever manifest made it; complete before a source to train on is built."""
    digests: set[str]
    """Of all images of the sources before it."""


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

    The hold-out rule covers all of `manifests`, whichever sources are wanted. Raises `BuildError`, and the errors of
    the stages: `AnnotationError`, `HoldoutError`, `ShardError`, `WorkerError`, `BusyError`, `OSError`.
    """
    raw, shards = data / "raw", data / "shards"
    manifests = list({manifest.path.resolve(): manifest for manifest in manifests}.values())
    _check_distinct(manifests)
    with locked(shards), Workers(options.workers) as workers:
        log.info("reading annotations for the hold-out rule")
        blocked = block_list(manifests, raw, lambda source: read(source, raw))
        log.info("%s ids of evaluation images are blocked, sha256 %s", f"{len(blocked.ids):,}", blocked.sha256)
        others = Others(manifests, blocked, Looks(), set())
        sources = [source for manifest in manifests for source in manifest.sources]
        for source in (s for s in sources if s.role == "eval"):
            folder = shards / source.dataset
            if source in wanted:
                yield _build_source(source, raw, folder, others, options, workers)
            elif not (folder / DATASET).exists():
                log.warning("%s is not built: training images are not compared with its pixels", source.dataset)
            others.digests.update(image.sha256 for image in read_images(folder))
        _add_evaluation_images(others, shards)
        for source in (s for s in sources if s.role == "train"):
            folder = shards / source.dataset
            if source in wanted:
                yield _build_source(source, raw, folder, others, options, workers)
            others.digests.update(image.sha256 for image in read_images(folder))
        for name in compared_otherwise(shards, others.looks.sha256):
            log.warning("%s was compared with other evaluation images than are there now: build it again", name)


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
        for image in read_images(folder):
            others.looks.add(image.sha256, image.look, f"{name} {image.key}")
            others.digests.add(image.sha256)


def read(source: Source, raw: Path) -> Iterator[Candidate]:
    """The candidates of `source`. Raises `BuildError` for a reader, or an option of it, that there is not."""
    if source.reader not in READERS:
        near = hint(source.reader, READERS)
        raise BuildError(f"expected a reader of {', '.join(READERS)}, found {source.reader!r}{near}: {source.dataset}")
    known = OPTIONS.get(source.reader, {})
    for name, value in source.options.items():
        if name not in known:
            expected = f"options of reader {source.reader} ({', '.join(known) or 'it takes none'})"
            raise BuildError(f"expected {expected}, found {name!r}{hint(name, known)}: {source.dataset}")
        if type(value) is not known[name]:
            raise BuildError(
                f"expected option {name} of type {known[name].__name__}, found {value!r}: {source.dataset}"
            )
    return READERS[source.reader](source, raw / source.manifest)


def _build_source(source: Source, raw: Path, folder: Path, others: Others, options: Options, workers: Workers) -> Built:
    _check_own(source, folder)
    check_files(source, others.manifests, raw)
    locate = locate_for(source, raw)
    inputs = _inputs(source, raw, others, options)
    if dataset := _finished(folder, inputs, locate):
        return Built(folder, dataset, is_new=False)

    # First pass: every image is opened, by the workers.
    parts: list[Path] = []
    with progress(f"{source.dataset}: looking", None, "images") as bar:
        candidates = itertools.islice(read(source, raw), options.limit)
        for done in workers.each(survey, chunks(source, candidates, folder, others.blocked, locate)):
            parts.append(part_path(folder, len(parts)))
            bar.update(done)

    for name in unlisted(parts, raw) if source.role == "train" else ():
        log.warning("%s: some of its ids may be of %s, which is not on disk and so not held out", source.dataset, name)

    # Between the passes: what goes in, and the ledger.
    plan = decide(parts, others.looks if source.role == "train" else None)
    with progress(f"{source.dataset}: ledger", None, "rows"):
        counts = write_ledger(folder / PARTS, ledger_lines(parts, plan, source.name))
    _check_counts(source, counts, plan, folder / PARTS)

    # What an earlier build left stays good up to here, whatever fails.
    (folder / DATASET).unlink(missing_ok=True)
    os.replace(folder / PARTS / LEDGER, folder / LEDGER)

    # Second pass: a shard per chunk that has samples, by the workers.
    tasks = shard_tasks(folder, parts, plan, source.orientation == "apply", options.shorter_side_px)
    written: list[ShardDone] = []
    with progress(f"{source.dataset}: writing", len(plan.images), "images") as bar:
        for shard in workers.each(write_shard, tasks):
            written.append(shard)
            bar.update(shard.listed["samples"])
    dataset = _finish(
        source,
        folder,
        parts,
        written,
        plan,
        {
            "inputs": inputs,
            "holdout_sha256": others.blocked.sha256,
            **({"looks_sha256": others.looks.sha256} if source.role == "train" else {}),
            "counts": dict(sorted(counts.items())),
            "duplicates_across_sources": sum(image.sha256 in others.digests for image in plan.images),
            "sample_side_px": options.shorter_side_px,
            "limit": options.limit,
        },
    )
    return Built(folder, dataset, is_new=True)


def _check_counts(source: Source, counts: Counter[str], plan: Plan, folder: Path) -> None:
    against, rows = refused(counts), counts.total()
    if against.total() > source.refusal_ceiling * rows:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in against.most_common(3))
        raise BuildError(
            f"expected at most {source.refusal_ceiling:.2%} of the rows refused, found {against.total() / rows:.2%}"
            f" of {rows:,}: {reasons}; row by row in {folder / LEDGER}"
        )
    if not plan.images:
        raise BuildError(f"expected one or more samples, found none, rows {dict(counts)}: {source.dataset}")


def _finish(
    source: Source,
    folder: Path,
    parts: Sequence[Path],
    written: Sequence[ShardDone],
    plan: Plan,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Writes the index and, last of all, `dataset.json`; sweeps the folder."""
    samples = write_index(folder, (entry for shard in written for entry in shard.entries()))
    write_images(folder, plan.images)
    write_stamps(folder, parts)
    dataset = facts | {
        "format_version": FORMAT_VERSION,
        "code_version": importlib.metadata.version("bitgen"),
        "name": source.dataset,
        "source": source.name,
        "split": source.split,
        "phase": source.phase,
        "role": source.role,
        "manifest": source.manifest,
        "licence": source.licence,
        "reader": source.reader,
        "rows": sum(facts["counts"].values()),
        "samples": samples,
        **{what: sum(shard.totals[what] for shard in written) for what in ("texts", "phrases", "boxes")},
        "shards": [dict(shard.listed) for shard in written],
    }
    current = {shard.listed["file"] for shard in written}
    for stale in (p for pattern in ("*.tar", "*.partial", ".*.tmp") for p in folder.glob(pattern)):
        if stale.name not in current:
            stale.unlink()
    write_json(folder / DATASET, dataset)
    shutil.rmtree(folder / PARTS)
    return dataset


def _inputs(source: Source, raw: Path, others: Others, options: Options) -> str:
    """Digest of all that a dataset depends on, but for its images: those are known by their stamps."""
    said = [
        BUILD_VERSION,
        FORMAT_VERSION,
        asdict(source),
        [digest_of(raw / source.manifest / path) for path in source.annotations],
        others.blocked.sha256,
        others.looks.sha256 if source.role == "train" else "",
        options.limit,
        options.shorter_side_px,
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=dict).encode()).hexdigest()


def _finished(folder: Path, inputs: str, locate: Locate) -> dict[str, Any] | None:
    """`dataset.json` of a dataset that another build would make again; None where there is something to do."""
    try:
        dataset = dict(ShardIndex.open(folder).dataset)
    except ShardError:
        return None
    whole = all((folder / name).is_file() for name in (IMAGES, STAMPS, LEDGER))
    return dataset if dataset.get("inputs") == inputs and whole and is_unchanged(folder, locate) else None
