"""Next-token prediction with a head of up to 50,257 rows, without ever keeping its logits.

Axes: R rows (tokens to predict), V vocabulary, d width.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 1 << 25
"""Logits that live at one time: 166 rows of 50,257. Larger chunks are no faster, and on a CPU come from fresh pages."""
COUNTED = frozenset({"cpu"})
"""Kinds of device on which padding is left out before the product. That counts the tokens: others would be waited for."""


class _TiedCrossEntropy(torch.autograd.Function):
    """Sum over rows of weight x label-smoothed cross-entropy; the gradients are made chunk by chunk in the forward pass.

    With p = softmax(h E') and the target q = (1 - s) onehot(y) + s / V: loss = -sum q log p, dloss/dlogits = p - q. Only p is
    ever a matrix of R x V; what q adds is a sum over E, or rows of it.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, embedding: Tensor, target: Tensor, weight: Tensor, smoothing: float
    ) -> Tensor:
        wide, vocabulary = embedding.float(), embedding.shape[0]
        hidden = states.float()
        shared = hidden * weight[:, None].float()
        own, mean = wide[target], wide.mean(dim=0)
        log_partition = hidden.new_empty(hidden.shape[0])
        d_states, d_embedding = torch.empty_like(hidden), torch.zeros_like(wide)
        step = max(1, CHUNK_BYTES // (4 * vocabulary))
        for start in range(0, hidden.shape[0], step):
            rows = slice(start, start + step)
            logits = (hidden[rows] @ wide.T).float()
            log_p = logits.log_softmax(dim=1)
            log_partition[rows] = logits[:, 0] - log_p[:, 0]
            p = log_p.exp_()
            d_states[rows] = p @ wide
            d_embedding.addmm_(p.T, shared[rows])
        d_states.sub_(own, alpha=1 - smoothing).sub_(mean, alpha=smoothing).mul_(weight[:, None])
        d_embedding.index_add_(0, target, shared, alpha=smoothing - 1)
        d_embedding.sub_(shared.sum(dim=0), alpha=smoothing / vocabulary)
        losses = log_partition - ((1 - smoothing) * own + smoothing * mean).mul_(hidden).sum(dim=1)
        ctx.save_for_backward(d_states.to(states.dtype), d_embedding.to(embedding.dtype))
        return (losses * weight).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_states, d_embedding = ctx.saved_tensors
        return d_states * gradients[0], d_embedding * gradients[0], None, None, None


def next_token_loss(states: Tensor, embedding: Tensor, classes: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    """Sum over predicted tokens of label-smoothed cross-entropy, a scalar; divide by `predicted(mask)` for the mean.

    Args:
        states: [T, L, d] of a causal decoder; position l predicts token l + 1.
        embedding: [V, d] the tied token embedding.
        classes: [T, L] rows of `embedding`: ids, where every token has one.
        mask: [T, L] bool, true on tokens that are not padding and have a class. Only those are predicted.
        smoothing: share of the target that is spread over the vocabulary (Source: arXiv 1512.00567).
    """
    rows = [states[:, :-1].flatten(0, 1), classes[:, 1:].flatten(), mask[:, 1:].flatten()]
    if states.device.type in COUNTED:
        rows = [part[rows[2]] for part in rows]
    states, target, weight = rows
    return _TiedCrossEntropy.apply(  # pyright: ignore[reportReturnType] (apply is untyped)
        states, embedding, target, weight, smoothing
    )


def predicted(mask: Tensor) -> Tensor:
    """How many tokens `next_token_loss` predicts under `mask` [T, L]: all but each text's first."""
    return mask[:, 1:].sum()
