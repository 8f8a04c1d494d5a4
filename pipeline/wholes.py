"""Rows of a dataset as whole images with all their texts, as everything but training takes them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bitgen.batch import Batch, whole
from bitgen.progress import Counter
from bitgen.tokens import shared_tokenizer
from shards.index import ShardIndex


def batches(
    index: ShardIndex, rows: Sequence[int], side_px: int, max_tokens: int, size: int, counter: Counter | None = None
) -> Iterator[Batch]:
    """Rows of a dataset as whole images with all their texts, `size` images at a time; two batches are made ahead."""
    tokenizer = shared_tokenizer()

    def make(part: Sequence[int]) -> Batch:
        items = [(row, *index.read(row)) for row in part]
        return whole(items, side_px, tokenizer, max_tokens=max_tokens)

    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    with ThreadPoolExecutor(2, "bitgen-evaluate") as pool:
        coming = [pool.submit(make, part) for part in parts[:2]]
        for number, part in enumerate(parts):
            batch = coming.pop(0).result()
            if number + 2 < len(parts):
                coming.append(pool.submit(make, parts[number + 2]))
            yield batch
            if counter is not None:
                counter.update(len(part))


def spaced(count: int, most: int) -> list[int]:
    """0..count-1, or `most` of them, evenly spaced, the first and the last included."""
    return list(range(count)) if count <= most else np.linspace(0, count - 1, most).astype(int).tolist()
