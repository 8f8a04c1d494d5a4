"""The tokens of a run's corpora, for a model that has rows for no others."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from bitgen.progress import progress
from bitgen.tokens import EOT, VOCABULARY
from bitgen.training import distributed
from bitgen.training.config import ConfigError, TrainConfig
from shards.format import NoDatasetError
from shards.index import ShardIndex
from shards.root import Root

log = logging.getLogger(__name__)

FOLDERS = ("coarse", "fine")
"""Of training datasets, below the root."""


def trimmed(
    config: TrainConfig, root: Root, device: torch.device, to_come: Sequence[TrainConfig] = ()
) -> tuple[TrainConfig, tuple[int, ...]]:
    """The configuration with a vocabulary of the tokens that its corpora use, and their ids, as `TokenEmbedding` keeps them.

    The corpora are the mixtures, of the runs `to_come` too, and all other training datasets below the root, whatever phase they
    are for: a model keeps its tokens from the first phase to the last. Ranks read a part each. Raises `ConfigError` where no
    dataset is there; what reading them raises comes through.
    """
    mixtures = [each.data.mixture for each in (config, *to_come)]
    indexes = corpora(root, [name for mixture in mixtures for name, weight in mixture.items() if weight])
    if not indexes:
        raise ConfigError(f"expected datasets to take a vocabulary from, found none: {root.place}")
    used = distributed.any_of(used_tokens(indexes, distributed.rank(), distributed.world()).to(device))
    kept = tuple(used.nonzero().flatten().tolist())
    if distributed.rank() == 0:
        log.info("vocabulary: %s of %s tokens, from %s", f"{len(kept):,}", f"{VOCABULARY:,}", ", ".join(indexes))
    return replace(config, model=replace(config.model, vocabulary=len(kept))), kept


def corpora(root: Root, mixture: Sequence[str]) -> dict[str, ShardIndex]:
    """The training datasets below `root`, by name, ascending; where a store does not say which there are, those of `mixture`."""
    listed = [root.names(folder) for folder in FOLDERS]
    if None in listed and distributed.rank() == 0:
        log.warning("%s cannot be listed: words of other datasets than the mixture's are left out", root.place)
    found: dict[str, ShardIndex] = {}
    for name in sorted({*mixture, *chain.from_iterable(names or () for names in listed)}):
        try:
            index = root.open(name)
        except NoDatasetError:
            continue  # without a finished dataset of this name `Stream.open` has said so, or a dry run will
        if index.dataset.get("role") != "eval":
            found[name] = index
    return found


def used_tokens(indexes: Mapping[str, ShardIndex], rank: int = 0, world: int = 1) -> Tensor:
    """[VOCABULARY] bool, true for the tokens of all texts of this rank's part of the samples, and for end-of-text."""
    flags = torch.zeros(VOCABULARY, dtype=torch.bool)
    flags[EOT] = True
    with progress("vocabulary", sum(map(len, indexes.values())) // world, "samples") as counter:
        for index in indexes.values():
            for samples, ids in index.token_ids(rank, world):
                flags[torch.from_numpy(np.unique(ids).astype(np.int64))] = True
                if rank == 0:
                    counter.update(samples)
    return flags
