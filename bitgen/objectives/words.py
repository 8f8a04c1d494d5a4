"""A word of a phrase is told from the phrase's region and from the words on both sides of it.

    logits = (W region + B before + A after) Eᵀ

Contrast, boxes and captions are content with whatever tells the things of an image apart, mostly their colours. This asks for every
word. Its neighbours say what kind of word is missing, so that the region has to say which. (Source: continuous bag of words, arXiv
1301.3781; with an image's regions, the masked words of arXiv 1908.02265. E is the tied token embedding.)

Axes: B images, N patches, D width of the vision tower, P phrases, T texts, L tokens, d width.
"""

import torch
from torch import Tensor, nn

from bitgen.model.vocabulary import TokenEmbedding
from bitgen.objectives.captioning import next_token_loss, predicted


class RegionWords(nn.Module):
    """The three matrices, which belong to the loss: a model is complete without them."""

    def __init__(self, tower_width: int, width: int) -> None:
        super().__init__()
        self.region = nn.Linear(tower_width, width)
        self.before = nn.Linear(width, width, bias=False)
        self.after = nn.Linear(width, width, bias=False)

    def forward(
        self,
        patches: Tensor,
        cover: Tensor,
        phrase_image: Tensor,
        token_ids: Tensor,
        token_mask: Tensor,
        phrase_text: Tensor,
        phrase_tokens: Tensor,
        embedding: TokenEmbedding,
    ) -> tuple[Tensor, Tensor]:
        """(sum of the cross-entropy over the phrases' words in nats, their number); scalars. Words that have no class do not count.

        Args:
            patches: [B, N, D] as the vision tower gives them.
            cover: [P, N] share of each patch that a phrase's boxes cover, 0..1. A region is the mean of the patches by it.
            phrase_image: [P].
            token_ids, token_mask: [T, L]. `phrase_text`: [P], `phrase_tokens`: [P, 2], as in `Batch`.
        """
        shares = cover / cover.sum(dim=1, keepdim=True).clamp(min=1e-6)
        regions = self.region(torch.einsum("pn,pnd->pd", shares.to(patches.dtype), patches[phrase_image]))
        words = embedding(token_ids)
        # State l is for token l + 1, whose neighbours are tokens l and l + 2; what lies beyond the end is end-of-text, the first.
        beside = self.before(words) + self.after(words.roll(-2, dims=1))
        states = regions[:, None] + beside[phrase_text]
        token = torch.arange(token_ids.shape[1], device=token_ids.device)
        inside = (token >= phrase_tokens[:, :1]) & (token < phrase_tokens[:, 1:])
        classes, told = embedding.targets(token_ids, token_mask)
        told = told[phrase_text] & inside
        return next_token_loss(states, embedding.head, classes[phrase_text], told, 0.0), predicted(told)
