"""How well the stream shuffles, beside a full permutation of the same samples: `python -m tests.benchmarks.shuffle`.

Prints a table. Nothing is read or timed: an order is a function of sizes, seed and position.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from shards.mixture import Mixture

BATCH = 256
BATCHES = 400
"""Looked at, evenly spaced over an epoch."""
DRAWS = 20_000
"""Positions at which displacement is taken, over ten epochs."""
_EPOCHS = 10
CASES: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "118,000 samples in 118 shards": {"a": (118_000, 118)},
    "29,000 in 19": {"a": (29_000, 19)},
    "19,000 in 12": {"a": (19_000, 12)},
    "3,300,000 in 2,100": {"a": (3_300_000, 2_100)},
    "five sources, as coarse": {
        "coco": (113_000, 73),
        "vg": (100_000, 65),
        "sbu": (860_000, 340),
        "cc3m": (2_300_000, 900),
        "flickr30k": (29_000, 19),
    },
}
"""Samples and shards of each source."""


@dataclass(frozen=True)
class Quality:
    """Of an order, means over what was looked at."""

    displacement: float
    """Between where a sample is stored and where in its source's epoch it is shown, over a full permutation's n / 3."""
    shards: float
    """Different ones in a batch."""
    fewest_shards: float
    """In the batch that has the fewest."""
    same_shard: float
    """Share of a batch's pairs of samples that come from one shard."""
    sources: float
    """Different ones in a batch."""
    off_share: float
    """Samples by which a source's number in a batch differs from its share of the batch."""


def even(samples: int, shards: int) -> list[int]:
    """Sizes of so many shards, equal but for rounding."""
    return np.diff(np.arange(shards + 1) * samples // shards).tolist()


def measure(sizes: Mapping[str, Sequence[int]], batch: int = BATCH, batches: int = BATCHES) -> tuple[Quality, Quality]:
    """Of our order of sources at weight 1, and of a full permutation of all their samples."""
    mixture = Mixture(dict.fromkeys(sizes, 1.0), sizes, 0)
    starts = np.linspace(0, max(0, mixture.size - batch), batches).astype(int)
    firsts = dict(zip(sizes, np.cumsum([0, *map(sum, sizes.values())]).tolist(), strict=False))
    places = [[mixture.at(int(start) + i) for i in range(batch)] for start in starts]
    ours = np.array([[firsts[place.source] + place.sample for place in each] for each in places])
    full = np.random.default_rng(0).permutation(mixture.size)[starts[:, None] + np.arange(batch)]
    displaced = sum(sum(s) * displacement(name, s) for name, s in sizes.items()) / mixture.size
    return _quality(ours, sizes, displaced), _quality(full, sizes, 1.0)


def displacement(name: str, sizes: Sequence[int]) -> float:
    """Of a source's samples within its epochs, over n / 3."""
    samples, mixture = sum(sizes), Mixture({name: 1.0}, {name: sizes}, 0)
    positions = np.linspace(0, _EPOCHS * samples - 1, min(DRAWS, _EPOCHS * samples)).astype(int)
    shown = np.array([mixture.at(int(position)).sample for position in positions])
    return float(np.abs(positions % samples - shown).mean() / (samples / 3))


def _quality(shown: NDArray[np.int64], sizes: Mapping[str, Sequence[int]], displaced: float) -> Quality:
    """`shown`: [batches, batch] numbers of samples, all sources one after the other."""
    shards = np.searchsorted(np.cumsum(np.concatenate(list(sizes.values()))), shown, side="right")
    totals = np.array([sum(each) for each in sizes.values()])
    sources = np.searchsorted(np.cumsum(totals), shown, side="right")
    batch = shown.shape[1]
    counts = np.array([np.bincount(row, minlength=len(sizes)) for row in sources])
    different = [len(np.unique(row)) for row in shards]
    pairs = [(np.bincount(row) * (np.bincount(row) - 1)).sum() / (batch * (batch - 1)) for row in shards]
    return Quality(
        displacement=displaced,
        shards=float(np.mean(different)),
        fewest_shards=float(np.min(different)),
        same_shard=float(np.mean(pairs)),
        sources=float((counts > 0).sum(1).mean()),
        off_share=float(np.abs(counts - batch * totals / totals.sum()).mean()),
    )


def main() -> None:
    """Prints every case: ours, then a full permutation."""
    print(f"{'batches of ' + str(BATCH):<42}" + "".join(f"{field.name:>15}" for field in fields(Quality)))
    for case, sources in CASES.items():
        both = measure({name: even(*of) for name, of in sources.items()})
        for said, quality in zip((case, "  a full permutation"), both, strict=True):
            print(f"{said:<42}" + "".join(f"{getattr(quality, field.name):>15.4f}" for field in fields(Quality)))


if __name__ == "__main__":
    main()
