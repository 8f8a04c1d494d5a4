"""The candidates of a source in chunks, with what can be said of each before its image is opened."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.holdout import BlockList, is_val2017, missing_lists, open_kinds
from pipeline.locate import Locate
from pipeline.manifest import Source
from pipeline.rows import Candidate
from pipeline.survey import Chunk, Fate, read_part, stamp_of

PARTS = ".parts"
"""Folder in a dataset's: what an unfinished build has made so far."""


def chunks(
    source: Source, candidates: Iterable[Candidate], folder: Path, blocked: BlockList, locate: Locate
) -> Iterator[Chunk]:
    """Surveys to make of `candidates`, `samples_per_shard` of them to a chunk.

    A candidate to train on is held out by its ids, and where its URL or path says COCO val2017.
    """
    left = iter(candidates)
    for number in itertools.count():
        lines = tuple(
            _fate(candidate, source, blocked, locate).to_line()
            for candidate in itertools.islice(left, source.samples_per_shard)
        )
        if not lines:
            return
        yield Chunk(part_path(folder, number), lines, source.orientation == "apply")


def unlisted(parts: Iterable[Path], raw: Path) -> list[str]:
    """Evaluation sets that samples of surveyed `parts` may belong to by their ids, and whose lists are not on disk."""
    kinds: set[str] = set()
    for fate in (fate for part in parts for fate in read_part(part) if fate.outcome == "kept"):
        sample = fate.candidate.sample
        kinds |= open_kinds(sample.ids, (sample.url, fate.candidate.image, fate.file))
    return missing_lists(kinds, raw)


def part_path(folder: Path, number: int) -> Path:
    """Where the survey of chunk `number` goes."""
    return folder / PARTS / f"{number:06d}.jsonl"


def _fate(candidate: Candidate, source: Source, blocked: BlockList, locate: Locate) -> Fate:
    if not candidate.sample.texts:
        return Fate(candidate, "no_text")
    if source.role == "train" and (id := blocked.blocking(candidate.sample.ids)):
        return Fate(candidate, "held_out", id)
    found = locate(candidate.image)
    if source.role == "train" and is_val2017((candidate.sample.url, candidate.image, str(found))):
        return Fate(candidate, "held_out", "of COCO val2017, by its url or path")
    if isinstance(found, str):
        return Fate(candidate, found, candidate.image)
    return Fate(candidate, file=str(found), stamp=stamp_of(found))
