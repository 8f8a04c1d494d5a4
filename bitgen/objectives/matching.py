"""ITM: does this text belong to this image? With hard negatives, drawn by similarity (Source: ALBEF, arXiv 2107.07651).

A row is B positives and up to 2 B negatives under one cross-entropy: each image with a wrong text, each text with a wrong
image, drawn from the batch of all ranks, or from it and the queue of past token states (Source: FIBER, arXiv 2206.07643,
whose queue holds raw inputs). P(j) = softmax over j of s_ij / temperature, with entries of the same photograph and unfilled
slots left out before the softmax.

Axes: B local rows, G rows of all ranks, K queue entries, C = G or G + K candidates, N patches, L tokens, d width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from bitgen.model.bitgen import BitGen, ImageStates, TextStates
from bitgen.objectives.token_queue import Pairs, TokenQueue
from bitgen.training.distributed import gather, weighted_mean


def draw_negatives(similarity: Tensor, allowed: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One negative a row, likelier where more similar: (index [B], exists [B] bool).

    Args:
        similarity: [B, C] logits; softmax over the allowed entries gives the probabilities.
        allowed: [B, C] bool. A row without an allowed entry has no negative: `exists` is false, and the index is 0.
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
    return torch.where(is_allowed, index, logits.argmax(dim=1)).where(exists, 0), exists


def pick(live: Tensor, past: Tensor, index: Tensor) -> Tensor:
    """[B, ...] the candidates `index` [B]: rows of `live` [G, ...] and, counted on from G, of `past` [K, ...], which get no
    gradient. Neither is copied whole."""
    count = live.shape[0]
    if not past.shape[0]:
        return live[index]
    is_live = (index < count).view(-1, *[1] * (live.dim() - 1))
    old = past[(index - count).clamp(min=0)].detach().to(live.dtype)
    return torch.where(is_live, live[index.clamp(max=count - 1)], old)


def image_text_matching(
    model: BitGen,
    image: ImageStates,
    text: TextStates,
    rows: Tensor,
    image_ids: Tensor,
    scale: Tensor,
    uniform: Tensor,
    queue: TokenQueue | None = None,
    seen: dict[str, Tensor] | None = None,
) -> Tensor:
    """Cross-entropy over B pairs that belong together, B images with a wrong text, B texts with a wrong image; a scalar.

    Negatives of the batch get a gradient, on whatever rank they are; those of the queue do not. With a queue, the pairs of
    this step enter it afterwards.

    Args:
        rows: [B] the row in `text` of each image's text.
        image_ids: [B]; texts of the same photograph are never negatives.
        scale: inverse temperature of the similarities that negatives are drawn by.
        uniform: [B, 2] draws within [0, 1).
        queue: where further negatives are drawn from; without it, the batch alone.
        seen: gets `itm_acc`, the share of all those pairs that are told right.
    """
    image_embedding, text_embedding = image.embedding.detach(), text.embedding[rows].detach()
    own = Pairs(image.start, text.start[rows], text.mask[rows], image_embedding, text_embedding, image_ids)
    batch, tokens = Pairs(*map(gather, own)), own.text_mask.shape[1]
    past = queue.entries(tokens) if queue is not None else Pairs(*(part[:0] for part in batch))
    other = image_ids[:, None] != torch.cat([batch.image_ids, past.image_ids])
    text_allowed, image_allowed = other, other
    if queue is not None:
        live = torch.ones_like(batch.image_ids, dtype=torch.bool)
        text_allowed = other & torch.cat([live, queue.fits(tokens)])
        image_allowed = other & torch.cat([live, queue.filled])
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):  # it would multiply in bfloat16
        to_text = scale * own.image_embeddings @ torch.cat([batch.text_embeddings, past.text_embeddings]).T
        to_image = scale * own.text_embeddings @ torch.cat([batch.image_embeddings, past.image_embeddings]).T
        wrong_text, text_exists = draw_negatives(to_text, text_allowed, uniform[:, 0])
        wrong_image, image_exists = draw_negatives(to_image, image_allowed, uniform[:, 1])
    logits = model.match_logits(
        torch.cat([own.image_states, own.image_states, pick(batch.image_states, past.image_states, wrong_image)]),
        torch.cat([own.text_states, pick(batch.text_states, past.text_states, wrong_text), own.text_states]),
        torch.cat([own.text_mask, pick(batch.text_mask, past.text_mask, wrong_text), own.text_mask]),
    )
    if queue is not None:
        queue.enqueue(batch)
    count = rows.shape[0]
    target = torch.arange(3 * count, device=rows.device) < count
    losses = F.cross_entropy(logits, target.long(), reduction="none")
    counts = torch.cat([torch.ones_like(text_exists), text_exists, image_exists]).float()
    if seen is not None:
        is_right = (logits.detach().argmax(dim=1) == target).float()
        seen["itm_acc"] = weighted_mean(is_right, counts)
    return weighted_mean(losses, counts)
