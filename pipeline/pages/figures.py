"""How large a dataset's images are, how long its texts, how many its phrases and boxes: of every sample, from its index.

One dataset at a time is in memory, some 60 bytes a sample.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bitgen.evaluation.histograms import Axis, Histogram, histogram
from bitgen.evaluation.page import size
from bitgen.tokens import MAX_TOKENS
from shards.index import INDEX

SIDES_PX = tuple(float(round(16 * 2 ** (n / 4))) for n in range(41))
"""Edges from 16 to 16,384 px, four to a doubling."""
BYTES = tuple(1000.0 * 2 ** (n / 2) for n in range(34))
"""Edges from 1 kB to 93 MB, two to a doubling."""
TOKENS = tuple(float(n) for n in range(MAX_TOKENS + 2))
MANY = tuple(float(n) for n in range(130))
"""Edges of counts per image; the last bin holds 128 and more."""
MODEL_PX = 224
"""Sides of what the model sees by default."""

PIXELS_AXIS = Axis("shorter side, px", lambda v: f"{v:,.0f}", tuple(16.0 * 2**n for n in range(11)))
BYTES_AXIS = Axis("bytes of an image", lambda v: size(v).replace(".0 ", " "), tuple(1000.0 * 2**n for n in range(17)))
TOKENS_AXIS = Axis("tokens of a text", lambda v: f"{v:.0f}", tuple(float(n) for n in range(0, 260, 10)), is_whole=True)
_MANY_MARKED = tuple(float(n) for n in (*range(10), *range(10, 130, 5)))


def many_axis(what: str) -> Axis:
    """Of `MANY`: `boxes of an image`."""
    return Axis(f"{what} of an image", lambda v: f"{v:.0f}", _MANY_MARKED, is_whole=True)


@dataclass(frozen=True)
class Spread:
    """Numbers, told by their histogram and by what 5, 50 and 95 of 100 of them do not exceed."""

    bins: Histogram
    low: float
    middle: float
    high: float
    total: int
    """Their sum."""


@dataclass(frozen=True)
class Figures:
    """Of every sample of a dataset."""

    images: int
    shorter_side: Spread
    """Pixels."""
    sides: NDArray[np.int64]
    """[width, height]: images between `SIDES_PX`."""
    middle_size: tuple[int, int]
    """Median width and median height, pixels."""
    small: int
    """Images whose shorter side is below `MODEL_PX`."""
    image_bytes: Spread
    formats: Counter[str]
    texts: Spread
    """Per image."""
    tokens: Spread
    """Per text, both end-of-texts included."""
    cut: int
    """Texts of `MAX_TOKENS`: all but a few are longer."""
    phrases: Spread
    """Per image."""
    boxes: Spread
    """Per image."""
    photographs: NDArray[np.int64]
    """[distinct], sorted: `bitgen.record.image_id`."""


def measure(folder: Path) -> Figures:
    """The figures of a dataset that `ShardIndex.open` has found to be good."""
    with pa.memory_map(str(folder / INDEX)) as file:
        table = pa.ipc.open_file(file).read_all()
        width, height = (table.column(name).to_numpy() for name in ("width", "height"))
        shorter = np.minimum(width, height)
        tokens = flat(table.column("tokens"))
        phrases = _sums(flat(table.column("phrases")), lengths(table.column("phrases")))
        pairs = pairs_of(width, height)
        formats = table.column("extension").value_counts().to_pylist()
        return Figures(
            images=table.num_rows,
            shorter_side=spread(shorter, SIDES_PX),
            sides=pairs,
            middle_size=(_median(width), _median(height)),
            small=int((shorter < MODEL_PX).sum()),
            image_bytes=spread(table.column("image_size").to_numpy(), BYTES),
            formats=Counter({each["values"]: each["counts"] for each in formats}),
            texts=spread(lengths(table.column("tokens")), MANY),
            tokens=spread(tokens, TOKENS),
            cut=int((tokens == MAX_TOKENS).sum()),
            phrases=spread(phrases, MANY),
            boxes=spread(table.column("boxes").to_numpy(), MANY),
            photographs=np.unique(table.column("image_id").to_numpy()),
        )


def spread(values: NDArray[np.number], edges: tuple[float, ...]) -> Spread:
    """Of `values`; all zero where there are none."""
    low, middle, high = np.percentile(values, (5, 50, 95), method="lower").tolist() if len(values) else (0, 0, 0)
    return Spread(histogram(values, edges), low, middle, high, int(values.sum(dtype=np.int64)))


def pairs_of(width: NDArray[np.number], height: NDArray[np.number]) -> NDArray[np.int64]:
    """[width, height] between `SIDES_PX`; what is outside goes into the outermost bins."""
    bins = len(SIDES_PX) - 1
    across, up = (
        np.clip(np.searchsorted(SIDES_PX, values, side="right") - 1, 0, bins - 1) for values in (width, height)
    )
    return np.bincount(across * bins + up, minlength=bins * bins).reshape(bins, bins)


def distinct(found: list[NDArray[np.int64]]) -> int:
    """How many different numbers there are in all of `found`."""
    return len(np.unique(np.concatenate(found))) if found else 0


def flat(column: pa.ChunkedArray) -> NDArray[np.number]:
    """[all values] of a column of lists, one after the other."""
    return np.concatenate([np.empty(0, np.uint16), *(chunk.flatten().to_numpy() for chunk in column.chunks)])


def lengths(column: pa.ChunkedArray) -> NDArray[np.number]:
    """[rows]: values of each list of a column of them."""
    return np.concatenate([np.empty(0, np.int32), *(np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks)])


def _sums(values: NDArray[np.number], lengths: NDArray[np.number]) -> NDArray[np.int64]:
    """The sum of each run of `values`; the runs are as long as `lengths` says."""
    ends = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    stops = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return ends[stops[1:]] - ends[stops[:-1]]


def _median(values: NDArray[np.number]) -> int:
    return int(np.percentile(values, 50, method="lower")) if len(values) else 0
