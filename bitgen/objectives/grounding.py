"""Grounding losses: boxes, heat-maps, and contrast between phrases and regions.

    loss = 5 L1 + 2 (1 - GIoU) + focal + Dice + sum over earlier heat-maps of (focal + Dice)

(boxes: DETR, arXiv 2005.12872; MDETR, arXiv 2104.12763).

The heat-map's target is the share of each patch that the phrase's boxes cover; its box is the smallest around them.
Axes: P phrases, N = g x g patches, M boxes, T texts, S slots, d width. All in float32.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from bitgen.boxes import generalised_overlap, overlap, to_centres, to_corners
from bitgen.model.grounding import Grounded

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
"""Source: RetinaNet, arXiv 1708.02002."""


def coverage(boxes: Tensor, side: int) -> Tensor:
    """[M, side * side] share of each patch that a box covers, 0..1, patches row by row.

    Args:
        boxes: [M, 4] corners in fractions of the image.
        side: patches in a row and in a column.
    """
    edge = torch.arange(side, device=boxes.device) / side
    low = torch.maximum(boxes[:, :2, None], edge)
    high = torch.minimum(boxes[:, 2:, None], edge + 1 / side)
    along = ((high - low).clamp(min=0) * side).clamp(max=1)
    return (along[:, 1, :, None] * along[:, 0, None, :]).flatten(1)


def phrase_coverage(boxes: Tensor, box_phrase: Tensor, phrases: int, side: int) -> Tensor:
    """[P, N] share of each patch that a phrase's boxes cover, the largest of its boxes where several do."""
    covered = coverage(boxes, side)
    rows = box_phrase[:, None].expand_as(covered)
    return covered.new_zeros(phrases, side * side).scatter_reduce(0, rows, covered, "amax", include_self=True)


def grounding_losses(predicted: Grounded, target_boxes: Tensor, target_heat: Tensor) -> dict[str, Tensor]:
    """Each loss of each phrase, [P]: `l1` (sum of the absolute errors of the four centre coordinates, as in DETR),
    `giou` (1 - GIoU), `focal` (summed over patches, divided by the covered ones) and `dice`; `earlier`, the sum of the last two of
    all earlier heat-maps, where there are some.

    Args:
        target_boxes: [P, 4] corners.
        target_heat: [P, N] shares, 0..1.
    """
    l1 = (predicted.centres - to_centres(target_boxes)).abs().sum(dim=1)
    giou = 1 - generalised_overlap(to_corners(predicted.centres), target_boxes)
    focal, dice = _heat_losses(predicted.heat, target_heat)
    losses = {"l1": l1, "giou": giou, "focal": focal, "dice": dice}
    if predicted.earlier:
        each = [focal + dice for focal, dice in (_heat_losses(heat, target_heat) for heat in predicted.earlier)]
        losses["earlier"] = torch.stack(each).sum(dim=0)
    return losses


def _heat_losses(heat: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """`focal` and `dice` of `grounding_losses`, [P] each, of logits [P, N]."""
    probability = heat.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(heat, target, reduction="none")
    balance = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    focal = balance * (probability - target).abs() ** FOCAL_GAMMA * entropy
    focal = focal.sum(dim=1) / target.sum(dim=1).clamp(min=1)
    both = (probability * target).sum(dim=1)
    return focal, 1 - (2 * both + 1) / (probability.sum(dim=1) + target.sum(dim=1) + 1)


def region_contrast(
    patches: Tensor,
    phrases: Tensor,
    cover: Tensor,
    target_boxes: Tensor,
    phrase_image: Tensor,
    scale: Tensor,
) -> tuple[Tensor, Tensor]:
    """A phrase finds its region among its image's, and a region its phrase: (loss [P], counts [P] bool).

    A region is the mean of the dual-mode patch tokens by coverage. Only regions of the same image compete, so that "a dog"
    in another photograph is no negative; those that overlap by more than 0.5 do not compete. A phrase that has no
    competitor does not count.

    Args:
        patches: [B, N, d] dual-mode patch tokens.
        phrases: [P, d] dual-mode phrase means.
        cover: [P, N], as `phrase_coverage`.
        target_boxes: [P, 4] corners.
        phrase_image: [P].
        scale: inverse temperature.
    """
    shares = cover / cover.sum(dim=1, keepdim=True).clamp(min=1e-6)
    with torch.autocast(patches.device.type, enabled=False):  # it would multiply in bfloat16
        region = torch.einsum("pn,pnd->pd", shares, patches[phrase_image].float())
        region, phrases = F.normalize(region, dim=1), F.normalize(phrases.float(), dim=1)
        logits = scale * phrases @ region.T
    same_image = phrase_image[:, None] == phrase_image
    own = torch.eye(phrases.shape[0], dtype=torch.bool, device=phrases.device)
    competes = same_image & (overlap(target_boxes, target_boxes) <= 0.5)
    logits = logits.masked_fill(~(competes | own), -torch.inf)
    target = torch.arange(phrases.shape[0], device=phrases.device)
    loss = F.cross_entropy(logits, target, reduction="none") + F.cross_entropy(logits.T, target, reduction="none")
    return loss / 2, competes.any(dim=1)
