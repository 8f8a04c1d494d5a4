"""How well a memory recalls: by the written key, by another key of the same thing, and by controls that must fail.

N pairs are written to each of E memories. Reading i counts where, of the values of its own episode, the one that was written
with key i has the highest cosine with it (recall@1; an equal value written twice counts as itself; a tie or a NaN is a miss):

    written_key   read with the very keys that were written: what capacity alone costs
    held_out_key  read with other keys, such as the code of another view of the image: what a user asks with
    nearest_key   no memory: the value of the written key with the highest cosine to the other key: the bar
    empty         nothing was written, read with the written keys
    shuffled      the memory of the episode before, read with the written keys: a value must come from its memory
    forgotten     the first half of each episode, after it was forgotten, read with its keys
    kept          the second half, by then: forgetting is selective
    chance        the expected recall of a random guess

Beside the values of the episode may stand some that were not written, so that one pair can be written, and so that few and many
written pairs are searched among as many. Controls should be at chance or below it: a forgotten key still reads a mixture of what
is left. `utilisation` is the mean of `EpisodicMemory.utilisation`, 0..K slots; `known` and `known_unwritten` are the shares of
held-out keys, and of the keys of the episode before, that `EpisodicMemory.is_known` takes.

Axes: E episodes, N pairs, D further values, C channels, K slots. Source: the controls of arXiv 2403.11901, section 5
(forgetting), and of retrieval (`bitgen/evaluation/retrieval.py`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from bitgen.evaluation.ranking import ranks
from bitgen.model.memory import EpisodicMemory, MemoryState


def memory_quality(
    memory: EpisodicMemory, keys: Tensor, held_out_keys: Tensor, values: Tensor, others: Tensor | None = None
) -> dict[str, float]:
    """The means of `memory_hits`, whose arguments it takes: shares 0..1, and `utilisation` in slots."""
    return means(memory_hits(memory, keys, held_out_keys, values, others))


def means(hits: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: each.double().mean().item() for name, each in hits.items()}


@torch.no_grad()
def memory_hits(
    memory: EpisodicMemory, keys: Tensor, held_out_keys: Tensor, values: Tensor, others: Tensor | None = None
) -> dict[str, Tensor]:
    """The figures above by name, for each pair that they are of: [E, N], of `forgotten` and `kept` [E, their pairs], of
    `utilisation` [E]. `kept` is left out where one pair is written.

    Args:
        keys: [E, N, C], written.
        held_out_keys: [E, N, C], asked with in their place.
        values: [E, N, C].
        others: [E, D, C], values that are not written and searched among too. `nearest_key`, which finds keys, has none.

    Raises `ValueError` for fewer than two episodes, or two values to search among: the controls need another of each.
    """
    episodes, pairs = keys.shape[:2]
    searched = values if others is None else torch.cat([values, others], dim=1)
    if episodes < 2 or searched.shape[1] < 2:
        raise ValueError(f"expected 2 or more episodes of 2 or more pairs, found {episodes} of {searched.shape[1]}")
    keys, held_out_keys, values, searched = (each.float() for each in (keys, held_out_keys, values, searched))
    mask = torch.ones(episodes, pairs, dtype=torch.bool, device=keys.device)
    half = max(1, pairs // 2)
    first = mask & (torch.arange(pairs, device=keys.device) < half)
    empty = memory.empty(episodes)
    written = memory.write(empty, keys, values, mask)
    before = MemoryState(*(part.roll(1, dims=0) for part in written))
    without = memory.forget(written, keys, values, first)
    same = (values[:, :, None] == searched[:, None]).all(dim=-1)

    def recalled(state: MemoryState, queries: Tensor) -> Tensor:
        return is_first(memory.read(state, queries).values, searched, same)

    after = recalled(without, keys)
    found = {
        "written_key": recalled(written, keys),
        "held_out_key": recalled(written, held_out_keys),
        "nearest_key": is_first(held_out_keys, keys, same[:, :, :pairs]),
        "empty": recalled(empty, keys),
        "shuffled": recalled(before, keys),
        "forgotten": after[:, :half],
        "kept": after[:, half:],
        "chance": same.double().mean(dim=-1),
        "known": memory.is_known(memory.read(written, held_out_keys)),
        "known_unwritten": memory.is_known(memory.read(before, held_out_keys)),
        "utilisation": memory.utilisation(written),
    }
    return {name: hits for name, hits in found.items() if hits.numel()}


def is_first(queries: Tensor, entries: Tensor, same: Tensor) -> Tensor:
    """[E, N] bool: whether of G `entries` [E, G, C] one that is the `same` [E, N, G] has the highest cosine with each of
    `queries` [E, N, C], strictly higher than all that are not."""
    cosines = F.normalize(queries, dim=-1) @ F.normalize(entries, dim=-1).mT
    return (ranks(cosines.flatten(0, 1), same.flatten(0, 1)) == 1).view(queries.shape[:2])
