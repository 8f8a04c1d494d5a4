"""How well predicted boxes and peaks fit what phrases name, phrase by phrase and on the whole.

Axes: P phrases, N boxes. Boxes are corners; "pixels" are those of the stored image.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitgen.boxes import aligned_overlap, generalised_overlap
from bitgen.evaluation.bootstrap import RESAMPLES, intervals
from bitgen.evaluation.items import CUT, Items


@dataclass(frozen=True)
class Answers:
    """What was asked and answered, one row a phrase, on the CPU."""

    boxes: Tensor
    """[P, 4] float64, pixels: the predicted box."""
    peaks: Tensor
    """[P, 2] float64, pixels: the centre of the heat-map's highest patch."""
    finite: Tensor
    """[P] bool: false where the model gave something that is not a number; such an answer is a miss."""


@dataclass(frozen=True)
class Targets:
    """What a set of phrases names. Rows as in `Answers`."""

    boxes: Tensor
    """[N, 4] float64, pixels."""
    box_phrase: Tensor
    """[N] int64, ascending."""
    merged: Tensor
    """[P, 4] float64, pixels: the smallest box around all boxes of a phrase."""
    sizes: Tensor
    """[P, 2] float64: width and height of each phrase's image in pixels."""
    photographs: Tensor
    """[P] int64: the image id of each phrase."""
    keys: tuple[str, ...]
    """[P] as in `bitgen.evaluation.items`."""

    @property
    def fractions(self) -> Tensor:
        """[P, 4] float64: `merged` in fractions of the image."""
        return self.merged / self.sizes.repeat(1, 2)


def scores(answers: Answers, targets: Targets, unasked: int = 0) -> Items:
    """What each of P phrases scores, and the `unasked`, which are misses: overlap 0, each as if of a photograph of its own.

    "acc25", "acc50", "acc75": overlap with the merged box of at least 0.25, 0.5, 0.75; "mean_iou"; "giou50":
    generalised overlap of at least 0.5, which is stricter; "any_box_acc50": overlap of at least 0.5 with any of the
    phrase's boxes; "pointing": the peak lies within any of them. Source: arXiv 1608.00272 (IoU), arXiv 1608.00507,
    section 4.2 (pointing, here without its tolerance), arXiv 1505.04870 (merged and any box).
    """
    asked = len(targets.merged)
    iou = aligned_overlap(answers.boxes, targets.merged)
    giou = generalised_overlap(answers.boxes, targets.merged)
    each = aligned_overlap(answers.boxes[targets.box_phrase], targets.boxes)
    best = torch.zeros(asked, dtype=each.dtype).scatter_reduce(0, targets.box_phrase, each, "amax")
    x, y = answers.peaks[targets.box_phrase].unbind(dim=1)
    x0, y0, x1, y1 = targets.boxes.unbind(dim=1)
    inside = ((x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)).double()
    pointed = torch.zeros(asked, dtype=torch.float64).scatter_reduce(0, targets.box_phrase, inside, "amax")
    values = {
        "acc25": iou >= 0.25,
        "acc50": iou >= 0.5,
        "acc75": iou >= 0.75,
        "mean_iou": iou,
        "giou50": giou >= 0.5,
        "any_box_acc50": best >= 0.5,
        "pointing": pointed,
    }
    return Items(
        keys=(*targets.keys, *(f"{CUT}.{number}" for number in range(unasked))),
        photographs=np.concatenate([targets.photographs.numpy(), -1 - np.arange(unasked)]),
        values={name: np.pad(value.double().numpy(), (0, unasked)) for name, value in values.items()},
    )


def measure(
    answers: Answers, targets: Targets, unasked: int = 0, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """`shares` of `scores`."""
    return shares(scores(answers, targets, unasked), seed, resamples)


def shares(items: Items, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The mean of every figure, 0..1; "phrases": of how many; "interval": {figure: [low, high]}, by photograph (`bootstrap.py`).

    Args:
        seed: of the intervals; resamples: likewise.
    """
    found = intervals(items.values, items.photographs, seed, resamples)
    return {**items.means(), "phrases": len(items.keys), "interval": found}


def select(targets: Targets, phrases: Tensor) -> Targets:
    """The targets of some phrases: ascending row numbers [P']."""
    number = torch.full((len(targets.merged),), -1, dtype=torch.int64)
    number[phrases] = torch.arange(len(phrases))
    phrase = number[targets.box_phrase]
    kept = phrase >= 0
    return Targets(
        boxes=targets.boxes[kept],
        box_phrase=phrase[kept],
        merged=targets.merged[phrases],
        sizes=targets.sizes[phrases],
        photographs=targets.photographs[phrases],
        keys=tuple(targets.keys[row] for row in phrases.tolist()),
    )


def join_answers(parts: list[Answers]) -> Answers:
    return Answers(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Answers)))


def join_targets(parts: list[Targets]) -> Targets:
    starts = torch.tensor([0, *(len(p.merged) for p in parts)]).cumsum(0).tolist()
    phrase = torch.cat([p.box_phrase + start for p, start in zip(parts, starts, strict=False)])
    names = ("boxes", "merged", "sizes", "photographs")
    boxes, merged, sizes, photographs = (torch.cat([getattr(p, name) for p in parts]) for name in names)
    return Targets(boxes, phrase, merged, sizes, photographs, tuple(key for p in parts for key in p.keys))
