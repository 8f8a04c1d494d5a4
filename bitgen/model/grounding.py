"""A phrase becomes a box and a heat-map over the patches.

One query a phrase, the [REG] embedding plus the mean of its tokens' fused states, looks at the fused patch tokens and
becomes box = sigmoid(MLP(query)) in centre form and heat = <W query, W' patch> / sqrt(d) (Source: TransVG, arXiv
2104.08541, for the regression token; box losses as DETR, arXiv 2005.12872). In training the query gives a heat-map before each
layer, too, each with a loss (as DETR's auxiliary losses): the first one says what the words mean before anything was looked for.
Phrases stand in slots, one row a text, so that no patch token is copied for each phrase. Full precision: heads are not ternary.

Axes: T texts, S phrase slots of a text, P phrases, N patches, L tokens, d width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitgen.boxes import to_corners
from bitgen.model.fusion import Attention, FeedForward


@dataclass(frozen=True)
class Grounded:
    centres: Tensor
    """[P, 4] cx cy width height, 0..1, fractions of the image as the model sees it."""
    heat: Tensor
    """[P, N] logits: does this patch belong to the phrase?"""
    earlier: tuple[Tensor, ...] = ()
    """In training, likewise by the query before each layer."""

    @property
    def boxes(self) -> Tensor:
        """[P, 4] corners, clipped to the image."""
        return to_corners(self.centres).clamp(0, 1)


def span_means(states: Tensor, phrase_text: Tensor, phrase_tokens: Tensor) -> Tensor:
    """[P, d] mean over each phrase's tokens.

    Args:
        states: [T, L, d].
        phrase_text: [P] the row in `states` of each phrase.
        phrase_tokens: [P, 2] its tokens [start, stop).
    """
    token = torch.arange(states.shape[1], device=states.device)
    inside = (token >= phrase_tokens[:, :1]) & (token < phrase_tokens[:, 1:])
    weights = inside / inside.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.einsum("pl,pld->pd", weights.to(states.dtype), states[phrase_text])


class GroundingHead(nn.Module):
    def __init__(self, width: int, heads: int, ffn: int, layers: int) -> None:
        super().__init__()
        self.regression = nn.Parameter(torch.randn(width) * 0.02)
        self.cross_attention = nn.ModuleList(Attention(width, heads, ternary=False) for _ in range(layers))
        self.feed_forward = nn.ModuleList(FeedForward(width, ffn, ternary=False) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.patch_norm = nn.LayerNorm(width)
        self.box = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4)
        )
        self.heat_query = nn.Linear(width, width)
        self.heat_patch = nn.Linear(width, width)

    def forward(
        self,
        patches: Tensor,
        text: Tensor,
        phrase_text: Tensor,
        phrase_slot: Tensor,
        phrase_tokens: Tensor,
        slots: int,
    ) -> Grounded:
        """Boxes and heat-maps of P phrases.

        Args:
            patches: [T, N, d] fused patch tokens of each text's image.
            text: [T, L, d] fused text states.
            phrase_text: [P], `phrase_slot`: [P], `phrase_tokens`: [P, 2], as in `Batch`.
            slots: the largest number of phrases in one text.
        """
        phrases = self.regression + span_means(text, phrase_text, phrase_tokens)
        queries = patches.new_zeros(text.shape[0], slots, text.shape[2])
        queries = queries.index_put((phrase_text, phrase_slot), phrases.to(patches.dtype))
        seen = self.heat_patch(self.patch_norm(patches)).transpose(1, 2) / math.sqrt(text.shape[2])
        heats = []
        for attention, feed_forward in zip(self.cross_attention, self.feed_forward, strict=True):
            if self.training:
                heats.append(self.heat_query(self.norm(queries)) @ seen)
            queries = queries + attention(queries, patches)
            queries = queries + feed_forward(queries)
        queries = self.norm(queries)
        heats.append(self.heat_query(queries) @ seen)
        centres = self.box(queries).float().sigmoid()
        *earlier, heat = (each[phrase_text, phrase_slot].float() for each in heats)
        return Grounded(centres[phrase_text, phrase_slot], heat, tuple(earlier))
