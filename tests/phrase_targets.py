"""What phrases name, made up: for tests of grounding and of how it is scored."""

import torch
from torch import tensor

from bitgen.boxes import enclose
from bitgen.evaluation.phrase_scores import Targets


def targets(boxes: list[list[float]], box_phrase: list[int], side_px: float = 100.0) -> Targets:
    corners = tensor(boxes, dtype=torch.float64)
    phrase = tensor(box_phrase)
    phrases = max(box_phrase) + 1
    sizes = torch.full((phrases, 2), side_px, dtype=torch.float64)
    keys = tuple(f"phrase-{number}" for number in range(phrases))
    return Targets(corners, phrase, enclose(corners, phrase, phrases), sizes, 100 + torch.arange(phrases), keys)
