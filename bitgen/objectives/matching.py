"""ITM: does this text belong to this image? With hard negatives, drawn by similarity (Source: ALBEF, arXiv 2107.07651).

Axes: B local rows, G rows of all ranks, N patches, L tokens, d width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from bitgen.model.bitgen import BitGen, ImageStates, TextStates
from bitgen.training.distributed import gather, weighted_mean


def draw_negatives(similarity: Tensor, allowed: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One negative a row, likelier where more similar: (index [B], exists [B] bool).

    Args:
        similarity: [B, G] logits; softmax over the allowed entries gives the probabilities.
        allowed: [B, G] bool. A row without an allowed entry has no negative: `exists` is false.
        uniform: [B] draws within [0, 1), so that the choice depends on them alone (inverse of the cumulative sum).
    """
    exists = allowed.any(dim=1)
    # Mask before the softmax: zeroing the positive after it leaves rows of zeros once training saturates.
    logits = similarity.float().masked_fill(~allowed, -torch.inf)
    probabilities = torch.where(exists[:, None], logits, 0).softmax(dim=1)
    cumulative = probabilities.cumsum(dim=1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    index = (cumulative <= threshold).sum(dim=1).clamp(max=similarity.shape[1] - 1)
    # A parallel sum may step by its last digit over an entry of probability 0, and a draw may fall there.
    is_allowed = allowed.gather(1, index[:, None])[:, 0]
    return torch.where(is_allowed, index, logits.argmax(dim=1)), exists


def image_text_matching(
    model: BitGen, image: ImageStates, text: TextStates, rows: Tensor, image_ids: Tensor, scale: Tensor, uniform: Tensor
) -> Tensor:
    """Cross-entropy over B pairs that belong together, B images with a wrong text, B texts with a wrong image; a scalar.

    Args:
        rows: [B] the row in `text` of each image's text.
        image_ids: [B]; texts of the same photograph are never negatives.
        scale: inverse temperature of the similarities that negatives are drawn by.
        uniform: [B, 2] draws within [0, 1).
    """
    text_start, text_mask, text_embedding = text.start[rows], text.mask[rows], text.embedding[rows]
    all_image, all_text, all_mask = gather(image.start), gather(text_start), gather(text_mask)
    allowed = image_ids[:, None] != gather(image_ids)
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):  # it would multiply in bfloat16
        to_text = scale * image.embedding @ gather(text_embedding).T
        to_image = scale * text_embedding @ gather(image.embedding).T
        wrong_text, exists = draw_negatives(to_text, allowed, uniform[:, 0])
        wrong_image, _ = draw_negatives(to_image, allowed, uniform[:, 1])
    logits = model.match_logits(
        torch.cat([image.start, image.start, all_image[wrong_image]]),
        torch.cat([text_start, all_text[wrong_text], text_start]),
        torch.cat([text_mask, all_mask[wrong_text], text_mask]),
    )
    count = rows.shape[0]
    target = torch.arange(3 * count, device=rows.device) < count
    losses = F.cross_entropy(logits, target.long(), reduction="none")
    return weighted_mean(losses, torch.cat([torch.ones_like(exists), exists, exists]).float())
