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

Controls should be at chance or below it: a forgotten key still reads a mixture of what is left. `utilisation` is the mean of
`EpisodicMemory.utilisation`, 0..K slots; `known` and `known_unwritten` are the shares of held-out keys, and of the keys of
the episode before, that `EpisodicMemory.is_known` takes.

Axes: E episodes, N pairs, C channels, K slots. Source: the controls of arXiv 2403.11901, section 5 (forgetting), and of
retrieval (`bitgen/evaluation/retrieval.py`).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from bitgen.evaluation.ranking import ranks
from bitgen.model.memory import EpisodicMemory, MemoryState


@torch.no_grad()
def memory_quality(memory: EpisodicMemory, keys: Tensor, held_out_keys: Tensor, values: Tensor) -> dict[str, float]:
    """The figures above by name: shares 0..1, and `utilisation` in slots.

    Args:
        keys: [E, N, C], written.
        held_out_keys: [E, N, C], asked with in their place.
        values: [E, N, C].

    Raises `ValueError` for fewer than two episodes or two pairs: the controls need another episode, and two halves.
    """
    episodes, pairs = keys.shape[:2]
    if episodes < 2 or pairs < 2:
        raise ValueError(f"expected 2 or more episodes of 2 or more pairs, found {episodes} of {pairs}")
    keys, held_out_keys, values = keys.float(), held_out_keys.float(), values.float()
    mask = torch.ones(episodes, pairs, dtype=torch.bool, device=keys.device)
    first = mask & (torch.arange(pairs, device=keys.device) < pairs // 2)
    empty = memory.empty(episodes)
    written = memory.write(empty, keys, values, mask)
    before = MemoryState(*(part.roll(1, dims=0) for part in written))
    without = memory.forget(written, keys, values, first)
    same = (values[:, :, None] == values[:, None]).all(dim=-1)

    def recalled(state: MemoryState, queries: Tensor) -> Tensor:
        return _is_first(_cosines(memory.read(state, queries).values, values), same)

    after = recalled(without, keys)
    shares = {
        "written_key": recalled(written, keys),
        "held_out_key": recalled(written, held_out_keys),
        "nearest_key": _is_first(_cosines(held_out_keys, keys), same),
        "empty": recalled(empty, keys),
        "shuffled": recalled(before, keys),
        "forgotten": after[first],
        "kept": after[~first],
        "chance": same,
        "known": memory.is_known(memory.read(written, held_out_keys)),
        "known_unwritten": memory.is_known(memory.read(before, held_out_keys)),
    }
    utilisation = memory.utilisation(written).mean().item()
    return {name: hits.double().mean().item() for name, hits in shares.items()} | {"utilisation": utilisation}


def _cosines(readings: Tensor, values: Tensor) -> Tensor:
    """[E, N, N]."""
    return F.normalize(readings, dim=-1) @ F.normalize(values, dim=-1).mT


def _is_first(scores: Tensor, same: Tensor) -> Tensor:
    """[E, N] bool: the best of `same` scores strictly higher than all else."""
    return (ranks(scores.flatten(0, 1), same.flatten(0, 1)) == 1).view(scores.shape[:2])
