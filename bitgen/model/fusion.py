"""Layers that exchange cross-attention between image and text behind a gate: fusion in the backbone.

    a = SA(x);   a = a + gate * CA(query = a, context = the other side's states);   x = x + a;   x = x + FFN(x)

The gate is one learned scalar a layer and direction that starts at 0, so at the first step fusion equals the two uni-modal
encoders; with the cross-attention left out the same layer is the dual encoder's (Source: FIBER, arXiv 2206.07643; gates
as in ReZero, arXiv 2003.04887). Both directions read the states from before the block, so their order does not matter.
Every projection is a `BitLinear`, which normalises its own input: there are no other norms in a layer.

Axes: B pairs, S states of this side, C states of the other side, d width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitgen.model.bitlinear import BitLinear


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Source: arXiv 1706.03762)."""

    def __init__(self, width: int, heads: int, ternary: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = BitLinear(width, width, ternary)
        self.key_value = BitLinear(width, 2 * width, ternary)
        self.output = BitLinear(width, width, ternary)

    def forward(self, states: Tensor, context: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """[B, S, d] from queries `states` [B, S, d] and `context` [B, C, d].

        Args:
            mask: [B, C] bool, true where the context may be seen; at least one true in each row.
            causal: state s sees context 0..s only. Not together with `mask`.
        """
        query = self._split(self.query(states))
        return self._mix(query, *self.keys_values(context), mask, causal)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Of `context` [B, C, d], [B, H, C, d / H] each: what a decoder keeps from step to step."""
        key, value = self.key_value(context).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def attend(self, states: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """`forward` of a context whose `keys_values` are known."""
        return self._mix(self._split(self.query(states)), key, value, mask, False)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        visible = None if mask is None else mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, is_causal=causal)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, ternary: bool) -> None:
        super().__init__()
        self.up = BitLinear(width, hidden, ternary)
        self.down = BitLinear(hidden, width, ternary)

    def forward(self, states: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(states)))


class Layer(nn.Module):
    """Self-attention and feed-forward; with `fused`, also gated cross-attention to the other side."""

    def __init__(self, width: int, heads: int, ffn: int, ternary: bool, fused: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads, ternary)
        self.feed_forward = FeedForward(width, ffn, ternary)
        self.cross_attention = Attention(width, heads, ternary) if fused else None
        self.gate = nn.Parameter(torch.zeros(())) if fused else None

    def forward(
        self,
        states: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """[B, S, d]. Without `context` the layer is the dual encoder's, and cross-attention costs nothing.

        Args:
            mask: [B, S] bool, true on states that are not padding.
            context: [B, C, d], the other side's states from before the block.
            context_mask: [B, C] bool, likewise.
        """
        attended = self.attention(states, states, mask)
        if context is not None:
            assert self.cross_attention is not None, "this layer has no cross-attention"
            assert self.gate is not None
            attended = attended + self.gate * self.cross_attention(attended, context, context_mask)
        states = states + attended
        return states + self.feed_forward(states)


def fuse(
    image_layers: nn.ModuleList, text_layers: nn.ModuleList, image: Tensor, text: Tensor, text_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Fused patch tokens [B, N, d] and text states [B, L, d] of B pairs.

    Args:
        image: [B, N, d] patch tokens before the first fused block.
        text: [B, L, d] text states before the first fused block.
        text_mask: [B, L] bool, true on tokens that are not padding.
    """
    for image_layer, text_layer in zip(image_layers, text_layers, strict=True):
        image, text = image_layer(image, None, text, text_mask), text_layer(text, text_mask, image, None)
    return image, text
