"""What only the records in the shards tell: words, licences, sizes of boxes. Read from a sample of them, spread evenly
over a dataset by a seed; where a dataset is no larger than that, from all.

A record is read where the index says that it lies, without its image.
"""

import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bitgen.evaluation.histograms import Histogram, histogram
from bitgen.record import RecordError, Sample
from pipeline.pages.figures import flat, lengths
from shards.format import shard_name
from shards.index import INDEX

AREAS = tuple(10.0 ** (n / 4) for n in range(-16, 1))
"""Edges of a box's share of its image, from a ten-thousandth to all of it, four to a power of ten."""
_OUTER = ".,;:!?\"'()[]{}<>*_-–—…“”‘’`"
_COLUMNS = ("key", "shard", "json_offset", "json_size", "tokens")


@dataclass
class Records:
    """What the records of a dataset said."""

    of: int
    """Samples that the dataset has."""
    all_tokens: int
    """Of all its texts, end-of-texts left out."""
    read: int = 0
    damaged: int = 0
    """Records that are not what the index says."""
    texts: int = 0
    words: int = 0
    tokens: int = 0
    """Of the texts that were read, end-of-texts left out."""
    vocabulary: set[str] = field(default_factory=set)
    """Different words, as `words_of` gives them."""
    licences: Counter[str] = field(default_factory=Counter)
    """Images of each."""
    areas: Histogram = field(default_factory=lambda: histogram(np.empty(0), AREAS))
    """Boxes by their share of the image."""
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Sums over records of words², words x tokens, tokens²."""

    @property
    def is_whole(self) -> bool:
        """Whether every record was read."""
        return self.read == self.of

    @property
    def all_words(self) -> int:
        """Words of all texts: counted, or the words per token of the sample times the tokens of all texts."""
        if self.is_whole or not self.tokens:
            return self.words
        return round(self.words / self.tokens * self.all_tokens)

    @property
    def error(self) -> int:
        """How far `all_words` may be off, in 19 of 20 samples; 0 where it is counted.

        The ratio estimator's: Cochran, Sampling Techniques, 3rd edition, 6.4.
        """
        if self.is_whole or self.read < 2 or not self.tokens:
            return 0
        ratio = self.words / self.tokens
        residual = self.squares[0] - 2 * ratio * self.squares[1] + ratio**2 * self.squares[2]
        variance = max(0.0, residual) / (self.read - 1) * (1 - self.read / self.of) / self.read
        return round(1.96 * variance**0.5 / (self.tokens / self.read) * self.all_tokens)


def quotas(sizes: Mapping[str, int], most: int) -> dict[str, int]:
    """How many records to read of each dataset: `most` in all, the same number of each, all of a smaller one."""
    left, given = most, {}
    for place, name in enumerate(sorted(sizes, key=lambda name: sizes[name])):
        given[name] = min(sizes[name], max(1, left // (len(sizes) - place)))
        left -= given[name]
    return given


def read_records(folder: Path, most: int, seed: str) -> Records:
    """Reads `most` records of a dataset that `ShardIndex.open` has found to be good, the same ones for equal seeds."""
    with pa.memory_map(str(folder / INDEX)) as file:
        table = pa.ipc.open_file(file).read_all().select(_COLUMNS)
        tokens = table.column("tokens")
        # Both end-of-texts of every text are no words.
        all_tokens = int(flat(tokens).sum(dtype=np.int64)) - 2 * int(lengths(tokens).sum(dtype=np.int64))
        found = Records(table.num_rows, all_tokens)
        rows = range(table.num_rows)
        if most < table.num_rows:
            rows = sorted(random.Random(seed).sample(range(table.num_rows), most))
        places = table.take(pa.array(rows, pa.int64())).to_pylist()
    areas: list[float] = []
    by_shard: dict[int, list[dict[str, Any]]] = {}
    for place in places:
        by_shard.setdefault(place["shard"], []).append(place)
    for shard, some in by_shard.items():
        _read_shard(folder / shard_name(shard), some, found, areas)
    found.areas = histogram(np.array(areas), AREAS)
    return found


def words_of(text: str) -> list[str]:
    """What stands between white space, as BabyLM counts."""
    return text.split()


def _read_shard(path: Path, places: Sequence[Mapping[str, Any]], found: Records, areas: list[float]) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        for place in places:
            line = os.pread(file, place["json_size"], place["json_offset"])
            try:
                sample = Sample.from_json(line)
            except RecordError:
                found.damaged += 1
                continue
            if sample.key != place["key"]:
                found.damaged += 1
                continue
            _add(found, sample, sum(place["tokens"]) - 2 * len(place["tokens"]), areas)
    finally:
        os.close(file)


def _add(found: Records, sample: Sample, tokens: int, areas: list[float]) -> None:
    words = 0
    for text in sample.texts:
        some = words_of(text.text)
        words += len(some)
        found.vocabulary.update(word.strip(_OUTER) for word in text.text.lower().split())
        areas.extend((b.x1 - b.x0) * (b.y1 - b.y0) for phrase in text.phrases for b in phrase.boxes)
    found.vocabulary.discard("")
    found.read += 1
    found.texts += len(sample.texts)
    found.words += words
    found.tokens += tokens
    found.licences[sample.licence] += 1
    found.squares[0] += words * words
    found.squares[1] += words * tokens
    found.squares[2] += tokens * tokens
