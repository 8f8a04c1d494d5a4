"""Next-token prediction with a head of 50,257 rows, without ever keeping its logits.

Axes: R rows (tokens to predict), V vocabulary, d width.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK = 1024
"""Rows whose logits live at one time: 1024 x 50,257 x 4 bytes = 206 MB."""


class _TiedCrossEntropy(torch.autograd.Function):
    """Sum over rows of weight x label-smoothed cross-entropy; the gradients are made chunk by chunk in the forward pass.

    With p = softmax(h E') and target q = (1 - s) onehot(y) + s / V: loss = -sum q log p, dloss/dlogits = p - q.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, embedding: Tensor, target: Tensor, weight: Tensor, smoothing: float
    ) -> Tensor:
        wide = embedding.float()
        uniform = smoothing / embedding.shape[0]
        d_states, d_embedding = torch.empty_like(states, dtype=torch.float32), torch.zeros_like(wide)
        total = states.new_zeros((), dtype=torch.float32)
        for start in range(0, states.shape[0], CHUNK):
            rows = slice(start, start + CHUNK)
            hidden, wanted, share = states[rows].float(), target[rows, None], weight[rows].float()
            logits = (hidden @ wide.T).float()
            log_partition = logits.logsumexp(dim=1)
            losses = log_partition - (1 - smoothing) * logits.gather(1, wanted)[:, 0] - smoothing * logits.mean(dim=1)
            total += (losses * share).sum()
            gradient = logits.sub_(log_partition[:, None]).exp_().sub_(uniform)
            gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, smoothing - 1)).mul_(share[:, None])
            d_states[rows] = gradient @ wide
            d_embedding += gradient.T @ hidden
        ctx.save_for_backward(d_states.to(states.dtype), d_embedding.to(embedding.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_states, d_embedding = ctx.saved_tensors
        return d_states * gradients[0], d_embedding * gradients[0], None, None, None


def next_token_loss(states: Tensor, embedding: Tensor, token_ids: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    """Sum over predicted tokens of label-smoothed cross-entropy, a scalar; divide by `predicted(mask)` for the mean.

    Args:
        states: [T, L, d] of a causal decoder; position l predicts token l + 1.
        embedding: [V, d] the tied token embedding.
        token_ids: [T, L].
        mask: [T, L] bool, true on tokens that are not padding. Only those are predicted.
        smoothing: share of the target that is spread over the vocabulary (Source: arXiv 1512.00567).
    """
    return _TiedCrossEntropy.apply(  # pyright: ignore[reportReturnType] (apply is untyped)
        states[:, :-1].flatten(0, 1),
        embedding,
        token_ids[:, 1:].flatten(),
        mask[:, 1:].flatten(),
        smoothing,
    )


def predicted(mask: Tensor) -> Tensor:
    """How many tokens `next_token_loss` predicts under `mask` [T, L]: all but each text's first."""
    return mask[:, 1:].sum()
