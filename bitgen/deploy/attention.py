"""Scaled dot-product attention in `Operations`. Axes: B rows, S states, C context states, H heads, d width.

Source: arXiv 1706.03762.
"""

from bitgen.deploy.operations import Operations, Value


def split(o: Operations, states: Value, heads: int) -> Value:
    """[B, H, S, d / H] of [B, S, d]."""
    return o.transpose(o.reshape(states, (0, 0, heads, -1)), (0, 2, 1, 3))


def mix(o: Operations, query: Value, key: Value, value: Value, head_width: int, mask: Value = None) -> Value:
    """[B, S, d] of `query` [B, H, S, d / H], `key` and `value` [B, H, C, d / H].

    Args:
        head_width: d / H.
        mask: [B, C] bool, true where the context may be seen; all of it without one.
    """
    scores = o.matmul(query, o.transpose(key, (0, 1, 3, 2)))
    scores = o.multiply(scores, o.constant(head_width**-0.5))
    if mask is not None:
        scores = o.hide(scores, o.reshape(mask, (0, 1, 1, -1)))
    mixed = o.transpose(o.matmul(o.softmax(scores), value), (0, 2, 1, 3))
    return o.reshape(mixed, (0, 0, -1))
