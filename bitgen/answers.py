"""Questions about images become boxes and heat-maps, all that is asked of an image from the same states of it.

Axes: P phrases, g patches of a side.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bitgen.model.bitgen import BitGen as Network
from bitgen.model.bitgen import ImageStates, TextStates
from bitgen.questions import Question
from bitgen.tokens import Encoded
from bitgen.views import View

Reader: TypeAlias = Callable[[Sequence[Encoded]], Iterator[tuple[list[int], TextStates]]]
"""Texts to their states, some at a time: which of them, and the states of those."""


@dataclass(frozen=True)
class Grounding:
    """Where a phrase is in an image."""

    phrase: str
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the image as it was given, from its top left corner; within it."""
    score: float
    """The highest value of `heat`: how probable it is to the model that its best patch shows the phrase. Not calibrated, and
    not of the box, which has no probability of its own."""
    heat: Tensor
    """[g, g], rows from the top, columns from the left, 0..1: does this part of the image show the phrase?"""


def answer(
    network: Network, views: Sequence[View], states: ImageStates, questions: Sequence[Sequence[Question]], read: Reader
) -> list[list[Any]]:
    """For each view the answers to its questions: a `Grounding` where it is about a whole text, else a list of them."""
    asked = [(row, question) for row, some in enumerate(questions) for question in some]
    answers: dict[int, list[Grounding]] = {}
    for numbers, text in read([question.encoded for _, question in asked]):
        phrases = [(i, slot, *tokens) for i, n in enumerate(numbers) for slot, tokens in enumerate(asked[n][1].tokens)]
        places = torch.tensor(phrases, device=states.start.device)
        rows = torch.tensor([asked[n][0] for n in numbers], device=states.start.device)
        slots = 1 + max(slot for _, slot, *_ in phrases)
        found = network.ground(states, text, rows, places[:, 0], places[:, 1], places[:, 2:], slots)
        boxes, heat = found.boxes.cpu(), plain(found.heat.sigmoid())
        side = isqrt(heat.shape[1])
        for p, (i, slot, *_) in enumerate(phrases):
            row, question = asked[numbers[i]]
            answers.setdefault(numbers[i], []).append(
                _grounding(question.phrases[slot], views[row], boxes[p], heat[p].view(side, side))
            )
    by_row: list[list[Any]] = [[] for _ in views]
    for n, (row, question) in enumerate(asked):
        by_row[row].append(answers[n][0] if question.is_whole else answers[n])
    return by_row


def _grounding(phrase: str, seen: View, box: Tensor, heat: Tensor) -> Grounding:
    """Of a box [4] in fractions of the view and a heat-map [g, g] of it."""
    x0, y0, x1, y1 = seen.boxes_as_given(box[None])[0].tolist()
    return Grounding(phrase, (x0, y0, x1, y1), heat.max().item(), seen.heat_as_given(heat[None])[0])


def plain(found: Tensor) -> Tensor:
    """In float32 on the CPU, and free to take part in training, which what inference mode makes is not."""
    with torch.inference_mode(False):
        return found.float().cpu().clone()
