"""Photographs are given names; which name does another view of one bring back, and by whom?

Axes: M names, S photographs written of each, Q queries, C channels, K slots.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bitgen.evaluation.bootstrap import intervals
from bitgen.model.memory import EpisodicMemory
from bitgen.recollections import Recollections

WAYS = (5, 20, 100)
"""Names to tell apart: the first two are what one-shot learning is compared at (arXiv 1606.04080)."""


@torch.no_grad()
def naming(
    memory: EpisodicMemory,
    written: Tensor,
    asked: Tensor,
    values: Tensor,
    seed: int = 0,
    *,
    reads: int,
    resamples: int = 0,
) -> dict[str, dict[str, Any]]:
    """One-shot naming: one photograph is written under each of M names, and another view of each asked for.

    A name is the text of another photograph, which is not among those written: nothing in a picture says which is its name.

    Args:
        written, asked: [I, C] codes of two views of each photograph.
        values: [I, C] codes of texts, all of which differ.
        reads: queries behind each share, at least.
        resamples: of "interval": {who: [low, high]}, by photograph (`bootstrap.py`); with 0 there is none.

    Returns {str(M): {who: share}} for those of `WAYS` up to half of I: who as in `named`, "chance", and "asked", the queries.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, dict[str, Any]] = {}
    for ways in (ways for ways in WAYS if 2 * ways <= len(written)):
        hits: dict[str, list[Tensor]] = {}
        photographs: list[Tensor] = []
        for _ in range(-(-reads // ways)):
            order = torch.randperm(len(written), generator=generator).to(written.device)
            shown, names = order[:ways], order[ways : 2 * ways]
            photographs.append(shown.cpu())
            for who, which in named(memory, written[shown][:, None], values[names], asked[shown]).items():
                hits.setdefault(who, []).append(which == torch.arange(ways))
        right = {who: torch.cat(each).double().numpy() for who, each in hits.items()}
        shares: dict[str, Any] = {who: float(each.mean()) for who, each in right.items()}
        found[str(ways)] = {**shares, "chance": 1 / ways, "asked": ways * len(photographs)}
        if resamples:
            found[str(ways)]["interval"] = intervals(right, torch.cat(photographs).numpy(), seed, resamples)
    return found


def named(memory: EpisodicMemory, written: Tensor, values: Tensor, queries: Tensor) -> dict[str, Tensor]:
    """The number of the name, [Q] on the CPU, that each way gives to each of `queries` [Q, C]:

    recall    `Recollections`' surest name, -1 for none: it keeps the key of every photograph beside the memory
    reading   the name whose text code is nearest to what the memory alone reads: as many numbers whatever was written
    cache     the nearest key of a cache of as many numbers as the memory's state, which holds the last that were written
    nearest   the nearest key of all
    empty     `reading` of a memory in which nothing was written
    shuffled  `recall` where each photograph was written under the name of the next

    Args:
        written: [M, S, C] keys; one of every name is written, then another of each.
        values: [M, C] codes of the names.
    """
    turns = written.transpose(0, 1).flatten(0, 1)
    of_turn = torch.arange(len(values)).repeat(written.shape[1])
    every = torch.ones(1, len(turns), dtype=torch.bool, device=turns.device)
    state = memory.write(memory.empty(1), turns[None], values[of_turn.to(values.device)][None], every)
    held = cache_size(memory.slots, memory.width)
    return {
        "recall": _recalled(memory, written, values, queries),
        "reading": _nearest(memory.read(state, queries[None]).values[0], values),
        "cache": of_turn[-held:][_nearest(queries, turns[-held:])],
        "nearest": of_turn[_nearest(queries, turns)],
        "empty": _nearest(memory.read(memory.empty(1), queries[None]).values[0], values),
        "shuffled": _recalled(memory, written.roll(1, dims=0), values, queries),
    }


def cache_size(slots: int, width: int) -> int:
    """Entries of a key and the number of a name that fit into as many numbers as a memory's state, S and η, has."""
    return (slots * slots + slots * width) // (width + 1)


def _recalled(memory: EpisodicMemory, written: Tensor, values: Tensor, queries: Tensor) -> Tensor:
    recollections = Recollections(memory)
    for name, (keys, value) in enumerate(zip(written, values, strict=True)):
        recollections.remember(keys, value, str(name))
    return torch.tensor([int(next(iter(each.names), "-1")) for each in recollections.recall(queries)])


def _nearest(queries: Tensor, entries: Tensor) -> Tensor:
    """[Q], on the CPU: the entry of the highest cosine."""
    return (F.normalize(queries, dim=-1) @ F.normalize(entries, dim=-1).T).argmax(dim=1).cpu()
