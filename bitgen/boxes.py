"""Boxes as tensors: their overlap in every pairing or row by row, and corners to centres and back.

Axes: N and M boxes. Corners are x0 y0 x1 y1, centres are cx cy width height; any unit, the same in both arguments.
Everything is computed in float32 or wider, also under autocast: areas of small boxes lose all their digits in bfloat16.
"""

import torch
from torch import Tensor
from torchvision.ops import box_convert


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box in `a` with every box in `b`, [N, M], 0..1.

    Args:
        a: [N, 4], corners.
        b: [M, 4], likewise. An empty set gives [N, 0].

    Two boxes without area give 0, not NaN; a box whose corners are swapped has no area.
    Source: arXiv 1902.09630, algorithm 2.
    """
    a, b = _wide(a)[:, None], _wide(b)[None]
    common, union = _common_and_union(a, b)
    return _ratio(common, union)


def aligned_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each box in `a` [N, 4] with the box of the same row in `b` [N, 4]: [N], 0..1."""
    common, union = _common_and_union(_wide(a), _wide(b))
    return _ratio(common, union)


def generalised_overlap(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of each box in `a` [N, 4] with the box of the same row in `b` [N, 4]: [N], above -1 and at most 1.

    Overlap less the share of the smallest enclosing box that neither covers, so that boxes apart still have a gradient.
    Two boxes that lie in one point give 0. Source: arXiv 1902.09630, algorithm 1.
    """
    a, b = _wide(a), _wide(b)
    common, union = _common_and_union(a, b)
    outer = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return _ratio(common, union) - _ratio(outer - union, outer)


def enclose(boxes: Tensor, group: Tensor, groups: int) -> Tensor:
    """The smallest box around all boxes of each group: [groups, 4] corners.

    Args:
        boxes: [N, 4], corners.
        group: [N] int64, 0..groups-1.
        groups: how many there are. A group without boxes gives zeros.
    """
    wide = _wide(boxes)
    rows = group[:, None].expand(-1, 2)
    low = wide.new_full((groups, 2), torch.inf).scatter_reduce(0, rows, wide[:, :2], "amin")
    high = wide.new_full((groups, 2), -torch.inf).scatter_reduce(0, rows, wide[:, 2:], "amax")
    merged = torch.cat((low, high), dim=1)
    return torch.where(torch.isfinite(merged), merged, 0.0)


def to_corners(centres: Tensor) -> Tensor:
    """Centre, width and height [..., 4] to corners [..., 4], not clamped to the image."""
    return box_convert(centres, "cxcywh", "xyxy")


def to_centres(corners: Tensor) -> Tensor:
    """The inverse of `to_corners`."""
    return box_convert(corners, "xyxy", "cxcywh")


def _wide(boxes: Tensor) -> Tensor:
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"expected boxes with 4 values each, found a tensor of shape {tuple(boxes.shape)}")
    return boxes if boxes.dtype == torch.float64 else boxes.float()


def _area(low: Tensor, high: Tensor) -> Tensor:
    sides = (high - low).clamp(min=0)
    # Not Tensor.prod, whose backward pass asks on the host whether one of them is 0.
    return sides[..., 0] * sides[..., 1]


def _common_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    common = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    return common, _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - common


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """0 where the whole is 0, and no NaN in the gradient there: the denominator is replaced, not only the result."""
    empty = whole <= 0
    return torch.where(empty, 0.0, part / torch.where(empty, 1.0, whole))
