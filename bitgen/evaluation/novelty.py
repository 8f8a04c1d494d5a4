"""Does a memory know what it has seen? Its doubt about written and about unwritten photographs, as an area under a curve.

Axes: E episodes, N photographs written to each and as many not, C channels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bitgen.evaluation.bootstrap import percentiles, resampled
from bitgen.model.memory import EpisodicMemory, MemoryState


@torch.no_grad()
def novelty(
    memory: EpisodicMemory,
    written: Tensor,
    asked: Tensor,
    writes: Sequence[int],
    seed: int = 0,
    *,
    reads: int,
    resamples: int = 0,
) -> dict[str, dict[str, Any]]:
    """How often the memory doubts an unwritten photograph more than a written one, by N as a string.

    Args:
        written, asked: [I, C] codes of two views of each photograph.
        writes: N, of which those above a sixth of I are left out.
        reads: written photographs behind each figure, at least.
        resamples: of "interval": {figure: [low, high]}, by photograph (`bootstrap.py`); with 0 there is none.

    Each is {"auc" (by `Reading.novelty`, the variance of what is read), "evidence" (by `EpisodicMemory.evidence`), "nearest_key"
    (by the cosine with the nearest written key, of a cache that holds them all: the bar), "empty" (`auc` of a memory in which
    nothing was written), "shuffled" (`auc` of the memory of the episode before), "chance": 0.5, "written", "unwritten" (counts)}.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, dict[str, Any]] = {}
    for pairs in (pairs for pairs in writes if 6 * pairs <= len(written)):
        episodes = max(2, -(-reads // pairs))
        rows = apart(len(written), 2 * pairs, episodes, generator).to(written.device)
        keys, queries = written[rows[:, :pairs]], asked[rows]
        every = torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device)
        state = memory.write(
            memory.empty(episodes), keys, torch.zeros_like(keys), every
        )  # values do not enter the doubt
        before = MemoryState(*(part.roll(1, dims=0) for part in state))
        reading = memory.read(state, queries)
        cosines = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).mT
        doubts = {
            "auc": reading.novelty,
            "evidence": -memory.evidence(reading),
            "nearest_key": -cosines.amax(dim=-1),
            "empty": memory.read(memory.empty(episodes), queries).novelty,
            "shuffled": memory.read(before, queries).novelty,
        }
        scores = {name: (doubt[:, pairs:].flatten(), doubt[:, :pairs].flatten()) for name, doubt in doubts.items()}
        areas: dict[str, Any] = {name: area_under_curve(*each) for name, each in scores.items()}
        if resamples:
            unwritten, held = (part.flatten().cpu().numpy() for part in (rows[:, pairs:], rows[:, :pairs]))
            areas["interval"] = {
                name: percentiles(resampled_areas(*each, unwritten, held, seed, resamples))[0].tolist()
                for name, each in scores.items()
            }
        counts = {"written": episodes * pairs, "unwritten": episodes * pairs}
        found[str(pairs)] = {**areas, "chance": 0.5, **counts}
    return found


def area_under_curve(positive: Tensor, negative: Tensor) -> float:
    """The probability that one of `positive` [P] is greater than one of `negative` [Q], a tie counting half: the area under the
    receiver's curve, 0..1, by ranks (Source: Hanley and McNeil, 1982; Mann and Whitney's U over P Q).

    Raises `ValueError` where one of them is empty. A NaN is greater than nothing as a positive, and smaller as a negative.
    """
    if not (len(positive) and len(negative)):
        raise ValueError(f"expected scores of both kinds, found {len(positive)} and {len(negative)}")
    above = positive.double().nan_to_num(-torch.inf, torch.inf, -torch.inf)
    ordered = negative.double().nan_to_num(torch.inf, torch.inf, -torch.inf).sort().values
    below = torch.searchsorted(ordered, above, right=False)
    through = torch.searchsorted(ordered, above, right=True)
    return ((below + through).double().mean() / (2 * len(negative))).item()


def resampled_areas(
    positive: Tensor,
    negative: Tensor,
    positive_groups: NDArray[np.int64],
    negative_groups: NDArray[np.int64],
    seed: int,
    resamples: int,
) -> NDArray[np.float64]:
    """[R, 1] `area_under_curve` of every resample of photographs; of each score, its photograph stands in `..._groups`.

    A photograph that is drawn c times brings each of its scores c times, written ones and unwritten ones; NaN where a resample has
    none of one kind.
    """
    known, group = np.unique(np.concatenate([positive_groups, negative_groups]), return_inverse=True)
    above = positive.double().nan_to_num(-torch.inf, torch.inf, -torch.inf).cpu().numpy()
    below = negative.double().nan_to_num(torch.inf, torch.inf, -torch.inf).cpu().numpy()
    order = np.argsort(below, kind="stable")
    ordered, of_above, of_ordered = below[order], group[: len(above)], group[len(above) :][order]
    left, right = (np.searchsorted(ordered, above, side) for side in ("left", "right"))

    def areas(times: NDArray[np.float64]) -> NDArray[np.float64]:
        ends = np.pad(times[:, of_ordered].cumsum(axis=1), ((0, 0), (1, 0)))
        weights = times[:, of_above]
        beaten = (weights * (ends[:, left] + ends[:, right])).sum(axis=1) / 2
        with np.errstate(invalid="ignore"):
            return (beaten / (weights.sum(axis=1) * ends[:, -1]))[:, None]

    return resampled(areas, len(known), seed, resamples)


def apart(count: int, size: int, episodes: int, generator: torch.Generator) -> Tensor:
    """[E, size] of the numbers below `count`, at random; no episode shares any with the one before it, nor the last with the first.

    So that the memory of the episode before can be a control. `size` is a third of `count` at most.
    """
    rows: list[Tensor] = []
    for episode in range(episodes):
        free = torch.ones(count, dtype=torch.bool)
        for other in rows[-1:] + (rows[:1] if episode == episodes - 1 else []):
            free[other] = False
        left = free.nonzero()[:, 0]
        rows.append(left[torch.randperm(len(left), generator=generator)[:size]])
    return torch.stack(rows)
