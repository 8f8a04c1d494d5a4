"""Next-token prediction with a head of up to 50,257 rows, without ever keeping its logits.

Axes: R rows (tokens to predict), V vocabulary, d width.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 1 << 25
"""Logits that live at one time on a CPU: 166 rows of 50,257. Larger chunks are no faster, and come from fresh pages."""
CHUNK_BYTES_ELSEWHERE = 1 << 29
"""On an accelerator, where each chunk starts a dozen kernels: 2,670 rows."""
COUNTED = frozenset({"cpu"})
"""Kinds of device on which padding is left out before the product. That counts the tokens: others would be waited for."""


def chunk_bytes(kind: str) -> int:
    """Of logits that live at one time, on a kind of device."""
    return CHUNK_BYTES if kind == "cpu" else CHUNK_BYTES_ELSEWHERE


class _TiedCrossEntropy(torch.autograd.Function):
    """Sum over rows of weight x label-smoothed cross-entropy; the gradients are made chunk by chunk in the forward pass.
    Beside it, without a gradient: the sums of the cross-entropy that is not smoothed, and of the rows whose likeliest is right.

    With p = softmax(h E') and the target q = (1 - s) onehot(y) + s / V: loss = -sum q log p, dloss/dlogits = p - q. Only p is
    ever a matrix of R x V; what q adds is a sum over E, or rows of it.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, embedding: Tensor, target: Tensor, weight: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        kind, vocabulary = states.device.type, embedding.shape[0]
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        wide, hidden = embedding.float(), states.float()
        operand = wide.to(dtype)  # once, not for each chunk
        shared = hidden * weight[:, None].float()
        own, mean = wide[target], wide.mean(dim=0)
        log_partition, nats, is_right = hidden.new_empty(3, hidden.shape[0])
        d_states, d_embedding = torch.empty_like(hidden), torch.zeros_like(wide)
        step = max(1, chunk_bytes(kind) // (4 * vocabulary))
        for start in range(0, hidden.shape[0], step):
            rows = slice(start, start + step)
            logits = hidden[rows].to(dtype) @ operand.T
            log_p = logits.log_softmax(dim=1, dtype=torch.float32)
            log_partition[rows] = logits[:, 0].float() - log_p[:, 0]
            nats[rows] = -log_p.gather(1, target[rows, None])[:, 0]
            is_right[rows] = (log_p.amax(dim=1) == -nats[rows]).float()
            p = torch.exp(log_p, out=log_p if dtype is torch.float32 else torch.empty_like(logits))
            d_states[rows] = p @ operand
            if dtype is torch.float32:
                d_embedding.addmm_(p.T, shared[rows])
            else:
                d_embedding.add_(p.T @ shared[rows].to(dtype))
        d_states.sub_(own, alpha=1 - smoothing).sub_(mean, alpha=smoothing).mul_(weight[:, None])
        d_embedding.index_add_(0, target, shared, alpha=smoothing - 1)
        d_embedding.sub_(shared.sum(dim=0), alpha=smoothing / vocabulary)
        losses = log_partition - ((1 - smoothing) * own + smoothing * mean).mul_(hidden).sum(dim=1)
        ctx.save_for_backward(d_states.to(states.dtype), d_embedding.to(embedding.dtype))
        seen = (nats * weight).sum(), (is_right * weight).sum()
        ctx.mark_non_differentiable(*seen)
        ctx.set_materialize_grads(False)
        return (losses * weight).sum(), *seen

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_states, d_embedding = ctx.saved_tensors
        return d_states * gradients[0], d_embedding * gradients[0], None, None, None


def next_token_loss(
    states: Tensor,
    embedding: Tensor,
    classes: Tensor,
    mask: Tensor,
    smoothing: float,
    seen: dict[str, Tensor] | None = None,
) -> Tensor:
    """Sum over predicted tokens of label-smoothed cross-entropy, a scalar; divide by `predicted(mask)` for the mean.

    Args:
        states: [T, L, d] of a causal decoder; position l predicts token l + 1.
        embedding: [V, d] the tied token embedding.
        classes: [T, L] rows of `embedding`: ids, where every token has one.
        mask: [T, L] bool, true on tokens that are not padding and have a class. Only those are predicted.
        smoothing: share of the target that is spread over the vocabulary (Source: arXiv 1512.00567).
        seen: gets two more sums without a gradient, `token_nats` of the cross-entropy without smoothing, and `token_acc` of
            the tokens that the decoder finds likeliest.
    """
    rows = [states[:, :-1].flatten(0, 1), classes[:, 1:].flatten(), mask[:, 1:].flatten()]
    if states.device.type in COUNTED:
        rows = [part[rows[2]] for part in rows]
    states, target, weight = rows
    loss, nats, is_right = _TiedCrossEntropy.apply(  # pyright: ignore[reportGeneralTypeIssues] (apply is untyped)
        states, embedding, target, weight, smoothing
    )
    if seen is not None:
        seen |= {"token_nats": nats, "token_acc": is_right}
    return loss


def predicted(mask: Tensor) -> Tensor:
    """How many tokens `next_token_loss` predicts under `mask` [T, L]: all but each text's first."""
    return mask[:, 1:].sum()
