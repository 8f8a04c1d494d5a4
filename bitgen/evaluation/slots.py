"""Which slots of a memory are written to, episode after episode.

Axes: E episodes, N keys of each, K slots, C channels.
"""

from typing import Any

import torch
from torch import Tensor

from bitgen.model.memory import EpisodicMemory

EPISODES = 64


@torch.no_grad()
def slot_use(memory: EpisodicMemory, keys: Tensor, seed: int = 0) -> dict[str, Any]:
    """Where the keys of photographs go, over a sequence of up to `EPISODES` episodes of K / 2 of them, each photograph once.

    A key's weight on a slot is its squared address, which is what writing adds to the slot's precision (times 1 / σ²); the
    shares of an episode add up to 1.

    Args:
        keys: [I, C].

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
    overall = shares.mean(dim=0)
    return {
        "shares": shares.tolist(),
        "in_use": memory.utilisation(state).tolist(),
        "effective": effective(overall),
        "effective_random": effective(slot_shares(memory, random).mean(dim=0)),
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
