"""Our loader as `bitgen-train` calls it, and what bounds it: the same decode and resize, and nothing else.

None of this needs a package that BitGen does not depend on.
"""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from bitgen.batch import Batch, load
from bitgen.image import Transform, decode
from shards.format import shard_name
from shards.index import ShardIndex
from shards.stream import Stream
from tests.benchmarks.loader_terms import BATCH, SIDE_PX, SOURCES, TEXTS_PER_IMAGE, Start

Place = tuple[str, int, int]
"""Of a JPEG: its shard, its offset and its size in bytes."""


def batches(root: Path, workers: int, count: int) -> Iterator[Batch]:
    """The first `count` of what `cli.train.batches` gives for these two datasets, one process and seed 0.

    `test_loader.py` compares them. No more than these are planned: else threads would work on what nobody waits for.
    """
    stream = Stream.open(root / "shards", SOURCES, seed=0, texts_per_image=TEXTS_PER_IMAGE)
    plans = islice(stream.micro_batches(0, batch=BATCH), count)
    return load(stream.draw, plans, Transform(SIDE_PX), 0, workers, is_forked=True)


def ours(root: Path, count: int, workers: int) -> Start:
    """Boxes, four texts an image, two sources mixed, exact order: all that a run gets."""

    def start() -> Iterator[tuple[int, Tensor]]:
        for batch in batches(root, workers, count // BATCH):
            yield len(batch.keys), batch.images

    return start


def bare(root: Path, workers: int, processes: bool, resize: bool) -> Start:
    """Every JPEG read from the page cache, decoded and, where asked for, resized into the same memory, then forgotten; no
    order, no batch."""
    places = _places(root)
    parts = [places[part::workers] for part in range(workers)]

    def start() -> Iterator[tuple[int, None]]:
        fork = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(workers, fork) if processes else ThreadPoolExecutor(workers)
        with pool:
            for found in pool.map(partial(_decode, resize=resize), parts):
                yield found, None

    return start


def _places(root: Path) -> list[Place]:
    found = []
    for name in SOURCES:
        index = ShardIndex.open(root / "shards" / name)
        entries = (index.entry(i) for i in range(len(index)))
        found += [(str(index.folder / shard_name(e.shard)), e.image_offset, e.image_size) for e in entries]
    return found


def _decode(places: Sequence[Place], resize: bool) -> int:
    transform, files = Transform(SIDE_PX), {}
    out = torch.empty((1, 3, SIDE_PX, SIDE_PX), dtype=torch.uint8, memory_format=torch.channels_last)[0]
    try:
        for shard, offset, size in places:
            if shard not in files:
                files[shard] = os.open(shard, os.O_RDONLY)
            pixels = decode(os.pread(files[shard], size, offset))
            if resize:
                height, width = pixels.shape[1:]
                transform.resize(pixels, (0, 0, width, height), out)
    finally:
        for file in files.values():
            os.close(file)
    return len(places)
