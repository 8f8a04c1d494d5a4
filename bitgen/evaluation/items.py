"""What each phrase or query scored, kept so that two checkpoints can be compared on the same ones.

Axis: P items.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bitgen.batch import Batch

KEY, PHOTOGRAPH = "key", "photograph"
"""Columns of a file of items; each further one is a figure."""
CUT = "truncated"
"""What phrases are called, with a number, that lie beyond the token limit: the protocol asks for them, nobody knows their names."""
_MARK, _VERSION = b"bitgen_items", b"1"


class ItemsError(ValueError):
    """A file holds no items, or those of two checkpoints are not the same."""


@dataclass(frozen=True, eq=False)
class Items:
    """Values of items in the order in which they were measured."""

    keys: tuple[str, ...]
    """[P] what an item is, the same for every checkpoint: `coco-000000391895.2` (third text), `....2.5` (its phrase from token 5
    on)."""
    photographs: NDArray[np.int64]
    """[P] `bitgen.record.image_id` of its photograph; negative numbers from -1 down where that is not known."""
    values: dict[str, NDArray[np.float64]]
    """[P] of each figure, of which the figure is the mean."""

    def __post_init__(self) -> None:
        count = len(self.keys)
        shapes = {PHOTOGRAPH: self.photographs.shape, **{name: each.shape for name, each in self.values.items()}}
        wrong = {name: shape for name, shape in shapes.items() if shape != (count,)}
        if not count or not self.values or wrong:
            raise ItemsError(f"expected one or more items with a value of each figure, found {count} keys and {shapes}")
        if KEY in self.values or PHOTOGRAPH in self.values:
            raise ItemsError(f"expected figures of other names than {KEY} and {PHOTOGRAPH}, found {list(self.values)}")
        for name, each in self.values.items():
            if not np.isfinite(each).all():
                raise ItemsError(
                    f"expected a finite value of {name} for every item, found {each[~np.isfinite(each)][0]}"
                )

    def means(self) -> dict[str, float]:
        return {name: float(each.sum()) / len(each) for name, each in self.values.items()}


def text_keys(batch: Batch) -> list[str]:
    """[T] of every text: its image's key, and its number among the image's texts."""
    first = batch.first_text.tolist()
    return [f"{batch.keys[image]}.{row - first[image]}" for row, image in enumerate(batch.text_image.tolist())]


def phrase_keys(batch: Batch) -> list[str]:
    """[P] of every phrase: its text's key, and the token that it begins with; of several that begin there, the second has a `.1`.

    No number among the text's phrases: that is another where a text is cut before one of them.
    """
    texts, found, times = text_keys(batch), list[str](), Counter[str]()
    for row, start in zip(batch.phrase_text.tolist(), batch.phrase_tokens[:, 0].tolist(), strict=True):
        key = f"{texts[row]}.{start}"
        found.append(f"{key}.{times[key]}" if times[key] else key)
        times[key] += 1
    return found


def write_items(path: Path, items: Items) -> None:
    """A Parquet file with a row for each item: `key`, `photograph`, and a column for each figure."""
    table = pa.table({KEY: list(items.keys), PHOTOGRAPH: items.photographs, **items.values})
    pq.write_table(table.replace_schema_metadata({_MARK: _VERSION}), path, compression="zstd")


def read_items(path: Path) -> Items:
    """What `write_items` wrote. Raises `ItemsError` for any other file, and `OSError` where there is none."""
    try:
        with pq.ParquetFile(path) as file:  # pq.read_table would import pyarrow.dataset and pandas
            table = file.read()
    except pa.ArrowInvalid as error:
        raise ItemsError(f"expected a file of items, found another: {path}") from error
    found = (table.schema.metadata or {}).get(_MARK)
    if found != _VERSION:
        raise ItemsError(f"expected items of version {_VERSION.decode()}, found {found!r}: {path}")
    wanted = {KEY: pa.string(), PHOTOGRAPH: pa.int64()}
    for column in table.schema:
        expected = wanted.pop(column.name, pa.float64())
        if column.type != expected or table[column.name].null_count:
            found = f"{column.type}, {table[column.name].null_count:,} of them missing"
            raise ItemsError(f"expected {expected} in every row of {column.name}, found {found}: {path}")
    if wanted:
        raise ItemsError(f"expected columns {KEY} and {PHOTOGRAPH}, found {table.column_names}: {path}")
    columns = {name: table[name].to_numpy() for name in table.column_names if name != KEY}
    return Items(tuple(table[KEY].to_pylist()), columns.pop(PHOTOGRAPH), columns)
