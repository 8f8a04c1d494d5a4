"""By how much a loss rises where something of a model is masked, by photograph.

Axis: P images, tokens or phrases.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgen.evaluation.bootstrap import percentiles, resampled_means

_LEAST = 1e-12
"""Instead of a loss of 0, where something is divided by it."""
Masked = tuple[str, int | str] | None
"""A way, and what of it is masked; None: nothing."""


@dataclass(frozen=True)
class Rise:
    """Of a loss without a head, and over the loss; with the ends of their intervals, empty of a single photograph."""

    mean: float
    ends: list[float]
    share: float
    share_ends: list[float]


class Rises:
    """What a loss was of each of P images, tokens or phrases, with all heads (None) and without some."""

    def __init__(self) -> None:
        self.photographs: list[Tensor] = []
        """[P] in parts."""
        self.values: dict[Masked, list[Tensor]] = {}
        """[P] in parts, float64."""

    def add(self, masked: Masked, values: Tensor) -> None:
        self.values.setdefault(masked, []).append(values.double().cpu())

    def has(self, photographs: NDArray[np.int64]) -> bool:
        return bool(np.isin(torch.cat(self.photographs).numpy(), photographs).any())

    def rises(self, seed: int, resamples: int, photographs: NDArray[np.int64]) -> dict[Masked, Rise]:
        """Over these photographs; without `resamples` they have no ends."""
        groups = torch.cat(self.photographs).numpy()
        kept = np.isin(groups, photographs)
        groups, columns = (
            groups[kept],
            torch.stack([torch.cat(each) for each in self.values.values()], dim=1).numpy()[kept],
        )
        whole = columns[:, 0].mean()
        means = (columns - columns[:, :1]).mean(axis=0)
        ends = shares = np.empty((columns.shape[1], 0))
        if resamples and len(np.unique(groups)) > 1:
            draws = resampled_means(columns, groups, seed, resamples)
            apart = draws - draws[:, :1]
            ends, shares = percentiles(apart), percentiles(apart / draws[:, :1].clip(min=_LEAST))
        parts = zip(means.tolist(), ends.tolist(), (means / max(whole, _LEAST)).tolist(), shares.tolist(), strict=True)
        return {masked: Rise(*each) for masked, each in zip(self.values, parts, strict=True)}
