"""The candidates of a source in chunks, with what can be said of each before its image is opened."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.holdout import BlockList
from pipeline.locate import Locate
from pipeline.manifest import Source
from pipeline.rows import Candidate
from pipeline.survey import Chunk, Fate, stamp_of


def chunks(
    source: Source, candidates: Iterable[Candidate], folder: Path, blocked: BlockList, locate: Locate
) -> Iterator[Chunk]:
    """Surveys to make of `candidates`, `samples_per_shard` of them to a chunk."""
    left = iter(candidates)
    for number in itertools.count():
        lines = tuple(
            _fate(candidate, source, blocked, locate).to_line()
            for candidate in itertools.islice(left, source.samples_per_shard)
        )
        if not lines:
            return
        yield Chunk(part_path(folder, number), lines, source.orientation == "apply")


def part_path(folder: Path, number: int) -> Path:
    """Where the survey of chunk `number` goes."""
    return folder / ".parts" / f"{number:06d}.jsonl"


def _fate(candidate: Candidate, source: Source, blocked: BlockList, locate: Locate) -> Fate:
    if not candidate.sample.texts:
        return Fate(candidate, "no_text")
    if source.role == "train" and (id := blocked.blocking(candidate.sample.ids)):
        return Fate(candidate, "held_out", id)
    found = locate(candidate.image)
    if isinstance(found, str):
        return Fate(candidate, found, candidate.image)
    return Fate(candidate, file=str(found), stamp=stamp_of(found))
