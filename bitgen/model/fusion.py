"""Layers that let image and text see each other: fusion in the backbone, by cross-attention behind a gate.

    a = SA(x);   a = a + gate * CA(query = a, context = the other side's states);   x = x + a;   x = x + FFN(x)

The gate is one learned scalar a layer and direction that starts at 0, so at the first step fusion equals the two uni-modal
encoders; with the cross-attention left out the same layer is the dual encoder's (Source: FIBER, arXiv 2206.07643; gates
as in ReZero, arXiv 2003.04887). Both directions read the states from before the block, so their order does not matter.

The ablation, `concat`, has neither gate nor cross-attention: the layer's self-attention runs over this side's states and the
other's together, of which it keeps this side's, so that fusion costs no parameter and is there from the first step (Source:
merged attention in METER, arXiv 2111.02387, here with the dual encoder's own weights):

    a = SA(query = x, context = [x; the other side's states]);   x = x + a;   x = x + FFN(x)

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
        query = self._split(self.query(states, rounds=True))
        return self._mix(query, *self.keys_values(context), mask, causal)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Of `context` [B, C, d], [B, H, C, d / H] each: what a decoder keeps from step to step."""
        key, value = self.key_value(context, rounds=True).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def attend(self, states: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """`forward` of a context whose `keys_values` are known."""
        return self._mix(self._split(self.query(states, rounds=True)), key, value, mask, False)

    def weights(self, states: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, H, S, C]: how much of each context state a head gives to each state, by which `forward` mixes its values.

        `forward` itself never holds them. Arguments as there.
        """
        query, (key, _) = self._split(self.query(states)), self.keys_values(context)
        scores = query @ key.mT * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
        return scores.softmax(dim=-1)

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
    """Self-attention and feed-forward, and a way to the other side: gated cross-attention, or without `gated` concatenation."""

    def __init__(self, width: int, heads: int, ffn: int, ternary: bool, gated: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads, ternary)
        self.feed_forward = FeedForward(width, ffn, ternary)
        self.cross_attention = Attention(width, heads, ternary) if gated else None
        self.gate = nn.Parameter(torch.zeros(())) if gated else None

    def forward(
        self,
        states: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """[B, S, d]. Without `context` the layer is the dual encoder's, and fusion costs nothing.

        Args:
            mask: [B, S] bool, true on states that are not padding.
            context: [B, C, d], the other side's states from before the block.
            context_mask: [B, C] bool, likewise.
        """
        if context is None:
            attended = self.attention(states, states, mask)
        elif self.cross_attention is None or self.gate is None:
            both = torch.cat([states, context], dim=1)
            attended = self.attention(states, both, _joint_mask(states, mask, context, context_mask))
        else:
            attended = self.attention(states, states, mask)
            attended = attended + self.gate * self.cross_attention(attended, context, context_mask)
        states = states + attended
        return states + self.feed_forward(states)


def _joint_mask(states: Tensor, mask: Tensor | None, context: Tensor, context_mask: Tensor | None) -> Tensor | None:
    """[B, S + C] bool, true where one of the two sides may be seen; None where all may."""
    if mask is None and context_mask is None:
        return None
    sides = ((states, mask), (context, context_mask))
    seen = [x.new_ones(x.shape[:2], dtype=torch.bool) if given is None else given for x, given in sides]
    return torch.cat(seen, dim=1)


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
