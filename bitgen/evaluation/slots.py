"""Which slots of a memory are written to, episode after episode.

Axes: E episodes, N keys of each, K slots, C channels.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitgen.evaluation.bootstrap import percentiles, resampled_means
from bitgen.model.memory import EpisodicMemory

EPISODES = 64


@torch.no_grad()
def slot_use(memory: EpisodicMemory, keys: Tensor, seed: int = 0, resamples: int = 0) -> dict[str, Any]:
    """Where the keys of photographs go, over a sequence of up to `EPISODES` episodes of K / 2 of them, each photograph once.

    A key's weight on a slot is its squared address, which is what writing adds to the slot's precision (times 1 / σ²); the
    shares of an episode add up to 1.

    Args:
        keys: [I, C].
        resamples: of "interval": {"effective": [low, high], "effective_random"}, by episode (`bootstrap.py`); with 0 there is none.
            Of few episodes both ends lie low: those that are drawn twice leave others out, so that slots look less evenly used.

    Returns {"shares": [E][K], "in_use": [E] (`EpisodicMemory.utilisation`), "effective", "effective_random", "least", "most",
    "episodes", "keys"}: `effective` is the number of slots that, used alike, would be as evenly used as these over all episodes
    (the exponential of the entropy), 1..K; `effective_random` that of as many random keys, a control; `least` and `most` the
    share of the least and the most used slot, 1 / K where all are used alike.
    """
    pairs = max(1, min(memory.slots // 2, len(keys)))
    episodes = min(EPISODES, len(keys) // pairs)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(keys), generator=generator)[: episodes * pairs].to(keys.device)
    written = keys[order].float().unflatten(0, (episodes, pairs))
    every = torch.ones(episodes, pairs, dtype=torch.bool, device=keys.device)
    state = memory.write(memory.empty(episodes), written, torch.zeros_like(written), every)
    shares = slot_shares(memory, written)
    random = torch.randn(written.shape, generator=generator).to(keys.device)
    overall, of_random = shares.mean(dim=0), slot_shares(memory, random)
    ends = {}
    if resamples and episodes > 1:
        for name, each in (("effective", shares), ("effective_random", of_random)):
            draws = resampled_means(each.double().cpu().numpy(), np.arange(episodes), seed, resamples)
            ends[name] = percentiles(np.array([[effective(torch.from_numpy(draw))] for draw in draws]))[0].tolist()
    return {
        "shares": shares.tolist(),
        "in_use": memory.utilisation(state).tolist(),
        "effective": effective(overall),
        "effective_random": effective(of_random.mean(dim=0)),
        **({"interval": ends} if resamples else {}),
        "least": overall.min().item(),
        "most": overall.max().item(),
        "episodes": episodes,
        "keys": episodes * pairs,
    }


def slot_shares(memory: EpisodicMemory, keys: Tensor) -> Tensor:
    """[E, K]: the share of the squared addresses of `keys` [E, N, C] that lies on each slot; rows add up to 1."""
    weights = memory.address(keys).square().sum(dim=1)
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)


def effective(shares: Tensor) -> float:
    """The exponential of the entropy of shares [K], 1..K: how many things of equal shares are as evenly spread."""
    return torch.special.entr(shares).sum().exp().item()
