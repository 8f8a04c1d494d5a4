"""The global order of samples: a pure function of (mixture, seed, position), so that seeking costs what walking costs.

Every block of 4,096 positions holds each source's share of it exactly, permuted by (seed, block): where a source stands
at a position is a closed form. Within a source, shards are permuted per epoch, and samples within groups of shards.
"""

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 4096
"""Positions in which every share is exact: source weights are rounded to k / 4096."""
GROUP_SHARDS = 8
GROUP_SAMPLES = 16384
"""Samples are permuted within runs of shards, each the shortest with so many shards and so many samples; what is left at
the end of an epoch belongs to the last run. Of 3.3M samples in 2,100 shards a batch of 256 then shows 11 shards at a time,
30 in a mixture of five such sources, 241 in a full permutation; runs of 262,144 samples would give 129, and would have
40 GB of shards in use in place of 3 (python -m tests.benchmarks.shuffle)."""

_SLOTS, _SHARDS, _SAMPLES, _REPLACEMENT = range(4)  # what a permutation or a draw is for: part of its seed


class Place(NamedTuple):
    """Which sample a position shows."""

    source: str
    epoch: int
    """Of the source: how often all of its samples have been shown before."""
    sample: int
    """Row in the source's index."""


def amount(weight: float, samples: int, size_power: float) -> Fraction:
    """What a source's share is in proportion to: weight x samples ** size_power, the same on every machine.

    Source of the power, 1 / temperature: arXiv 1907.05019, section 4.2.
    """
    # Decimal's powers are software, to 28 digits here, of which 20 are kept; the last bit of a float's power is up to the
    # C library, and one more position for a source would be another order.
    power = Context(prec=28).power(Decimal(samples), Decimal(repr(size_power)))
    return Fraction(weight) * Fraction(Context(prec=20).plus(power))


@dataclass(frozen=True)
class Group:
    """Shards of a source whose samples are shown together."""

    source: str
    shards: tuple[int, ...]
    positions_away: int
    """About so many until the first of them is shown; 0: it has been."""


def shares(amounts: Mapping[str, Fraction]) -> dict[str, int]:
    """Positive amounts as whole numbers that sum to 4,096: by largest remainder, none below 1, names break ties.

    Raises `ValueError` for no source, or more than 4,096.
    """
    if not 1 <= len(amounts) <= BLOCK:
        raise ValueError(f"expected 1 to {BLOCK} sources with a positive weight, found {len(amounts)}")
    total = sum(amounts.values(), Fraction(0))
    quotas = {name: BLOCK * amounts[name] / total for name in sorted(amounts)}
    counts = {name: max(1, math.floor(quota)) for name, quota in quotas.items()}
    spare = BLOCK - sum(counts.values())
    for name in sorted(counts, key=lambda name: counts[name] - quotas[name])[: max(spare, 0)]:
        counts[name] += 1
    for _ in range(-spare):  # sources lifted to 1 took too many: the largest gives
        counts[max(counts, key=lambda name: counts[name])] -= 1
    return counts


class Mixture:
    """Sources in one order. Safe to use from several threads; the same in every process that is given the same values.

    A weight multiplies a source's size: 1.0 for every source is their plain concatenation, 2.0 shows a source twice
    while the others are shown once. A weight of 0 leaves a source out.
    """

    def __init__(
        self, weights: Mapping[str, float], sizes: Mapping[str, Sequence[int]], seed: int, size_power: float = 1.0
    ) -> None:
        """A share is in proportion to weight x size ** size_power.

        Args:
            sizes: samples of each shard of each source.
            size_power: 0..1. Below 1, small sources are shown more often than large ones of the same weight; at 0 the
                weights alone decide.

        Raises `ValueError` where a weight is negative or not finite, where a source has no size or no sample, and for
        a negative seed or a power outside its range.
        """
        if seed < 0:
            raise ValueError(f"expected a seed from 0, found {seed}")
        if not 0 <= size_power <= 1:
            raise ValueError(f"expected a size_power within 0..1, found {size_power}")
        for name, weight in weights.items():
            if not math.isfinite(weight) or weight < 0:
                raise ValueError(f"expected a weight of at least 0, found {weight}: {name}")
            if name not in sizes:
                raise ValueError(f"expected one of {sorted(sizes)}, found {name!r}")
            if weight > 0 and sum(sizes[name]) < 1:
                raise ValueError(f"expected a source with samples, found none: {name}")
        self.seed = seed
        self.sources = tuple(sorted(name for name, weight in weights.items() if weight > 0))
        """The names whose weight is positive, sorted."""
        self.counts = shares({name: amount(weights[name], sum(sizes[name]), size_power) for name in self.sources})
        """Positions of each source in every block."""
        self._shards = {name: np.array(sizes[name], dtype=np.int64) for name in self.sources}
        self._totals = {name: int(self._shards[name].sum()) for name in self.sources}
        self._slots = np.repeat(np.arange(len(self.sources)), [self.counts[name] for name in self.sources])
        self._ranks = np.concatenate([np.arange(self.counts[name]) for name in self.sources])
        self._block = lru_cache(maxsize=4)(self._make_block)
        self._groups = lru_cache(maxsize=2 * len(self.sources))(self._make_groups)
        self._group = lru_cache(maxsize=2 * len(self.sources))(self._make_group)

    @property
    def size(self) -> int:
        """Samples of all its sources together, whatever their weights: an epoch of the run by default."""
        return sum(self._totals.values())

    @property
    def fingerprint(self) -> str:
        """Equal where the order is equal: a digest of seed, shares and shard sizes. Another one is another stream."""
        sizes = {name: self._shards[name].tolist() for name in self.sources}
        order = {
            "seed": self.seed,
            "counts": self.counts,
            "sizes": sizes,
            "groups": [GROUP_SHARDS, GROUP_SAMPLES, "rest joins"],
        }
        return hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()

    def at(self, position: int) -> Place:
        """The sample at `position` of the global order. Raises `ValueError` for a negative one."""
        if position < 0:
            raise ValueError(f"expected a position from 0, found {position}")
        block, slot = divmod(position, BLOCK)
        sources, ranks = self._block(block)
        name = self.sources[sources[slot]]
        rank = block * self.counts[name] + ranks[slot]
        epoch, step = divmod(rank, self._totals[name])
        starts, _ = self._groups(name, epoch)
        group = bisect_right(starts, step) - 1
        return Place(name, epoch, int(self._group(name, epoch, group)[step - starts[group]]))

    def groups(self, position: int) -> list[Group]:
        """Of each source the group that it stands in at `position`, then the one after it: nearest first."""
        block, slot = divmod(position, BLOCK)
        shown = np.bincount(self._block(block)[0][:slot], minlength=len(self.sources))
        found = []
        for name, within in zip(self.sources, shown.tolist(), strict=True):
            epoch, step = divmod(block * self.counts[name] + within, self._totals[name])
            starts, groups = self._groups(name, epoch)
            now = bisect_right(starts, step) - 1
            ends, groups = [*starts[1:], self._totals[name]], [*groups, self._groups(name, epoch + 1)[1][0]]
            away = max(1, (ends[now] - step) * BLOCK // self.counts[name])
            found += [Group(name, tuple(groups[now + i].tolist()), i * away) for i in (0, 1)]
        return sorted(found, key=attrgetter("positions_away"))

    def replacement(self, position: int, attempt: int) -> Place:
        """What stands in for an unreadable sample: any one of the same source, by (seed, position, attempt); no cursor
        moves. The epoch stays that of the position."""
        place = self.at(position)
        draw = int(self._raw(1, _REPLACEMENT, position, attempt)[0])
        return Place(place.source, place.epoch, draw % self._totals[place.source])

    def _make_block(self, block: int) -> tuple[list[int], list[int]]:
        """Source and rank within the block's part of that source, of each of its positions; lists, which answer for
        one position ten times as fast as arrays do."""
        sources = self._slots[self._permutation(BLOCK, _SLOTS, block)]
        ranks = np.empty(BLOCK, dtype=np.int64)
        ranks[np.argsort(sources, kind="stable")] = self._ranks
        return sources.tolist(), ranks.tolist()

    def _make_groups(self, name: str, epoch: int) -> tuple[list[int], list[NDArray[np.int64]]]:
        """Where each group starts in the epoch, and its shards."""
        sizes = self._shards[name]
        order = self._permutation(len(sizes), _SHARDS, _number(name), epoch)
        starts, groups, first, samples = [0], [], 0, 0
        for end in range(1, len(order) + 1):
            samples += int(sizes[order[end - 1]])
            if end - first >= GROUP_SHARDS and samples >= GROUP_SAMPLES:
                groups.append(order[first:end])
                starts.append(starts[-1] + samples)
                first, samples = end, 0
        if not groups:
            return [0], [order]
        # The rest joins the last group: of 12 shards in groups of 11 one would be left, and would fill whole batches.
        return starts[:-1], [*groups[:-1], np.concatenate([groups[-1], order[first:]])]

    def _make_group(self, name: str, epoch: int, group: int) -> NDArray[np.int64]:
        """The group's samples in the order in which they are shown."""
        sizes = self._shards[name]
        firsts = np.cumsum(sizes) - sizes
        shards = self._groups(name, epoch)[1][group]
        samples = np.concatenate([firsts[s] + np.arange(int(sizes[s])) for s in shards])
        return samples[self._permutation(len(samples), _SAMPLES, _number(name), epoch, group)]

    def _permutation(self, length: int, *key: int) -> NDArray[np.int64]:
        # Sorted raw bits, not Generator.permutation: NumPy promises that the bits of a seed stay the same in every
        # version, and promises no such thing of what Generator makes of them (NEP 19).
        return np.argsort(self._raw(length, *key), kind="stable")

    def _raw(self, length: int, *key: int) -> NDArray[np.uint64]:
        return np.random.PCG64(np.random.SeedSequence((self.seed, *key))).random_raw(length)


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
