"""A run's batches: the stream's draws, made by workers, from stored features as long as those will do, then from images."""

import sys
from collections.abc import Iterator
from itertools import islice

import torch

from bitgen.batch import Batch, load
from bitgen.image import Transform
from bitgen.row import Seen
from bitgen.training import distributed
from bitgen.training.config import TrainConfig
from pipeline.cached import Cached
from shards.stream import Stream


def batches(
    stream: Stream, config: TrainConfig, position: int, device: torch.device, cached: Cached | None = None
) -> Iterator[Batch]:
    """This rank's micro-batches from a position of the stream on, in memory from which `device` copies without waiting:
    of features as far as those are `cached`, then of images."""
    if cached is not None and position < cached.stop:
        count = (cached.stop - position) // config.optim.batch
        yield from _load(cached.stream, cached.form, config, position, device, count)
        position = cached.stop
    data = config.data
    yield from _load(stream, Transform(data.image_px, data.crop_scale_min), config, position, device)


def _load(
    stream: Stream, seen: Seen, config: TrainConfig, position: int, device: torch.device, count: int | None = None
) -> Iterator[Batch]:
    data = config.data
    plans = stream.micro_batches(position, batch=config.optim.batch, rank=distributed.rank(), world=distributed.world())
    return load(
        stream.draw,
        islice(plans, count),
        seen,
        config.run.seed,
        data.workers or distributed.cores(),
        max_tokens=data.max_tokens,
        # What brings shards from a URL is threads of this process, which a fork has not; each would hash all shards.
        is_forked=stream.ahead is None and not data.verify_shards and sys.platform == "linux",
        is_pinned=device.type == "cuda",
    )
