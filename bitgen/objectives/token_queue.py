"""Past token states, as further negatives for matching (Source: DESIGN.md, section 7; ALBEF, arXiv 2107.07651, keeps one
pooled vector a sample, which the fused layers cannot read; FIBER, arXiv 2206.07643, keeps raw inputs and encodes again).

An entry is a pair as the fused layers take it: start states of an image and of its text, with the mask, the unit
embeddings that say how hard a negative it is, and the photograph's id. States are bfloat16: 4096 x 256 x 128 take 256 MiB
for images and as much for texts of 256 tokens, on every device and in every checkpoint.

Texts are kept at a fixed width L, the bucket of the longest text that the run allows, padded under the mask. A step whose
texts are shorter draws only entries that fit its own bucket: a text cut short, or longer than any that is right in this
step, would give itself away. States are as old as their entry, and bfloat16: what tells old from new tells some negatives.

Axes: K size, N patches, L tokens, G pairs, d width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitgen.objectives.queue import FeatureQueue


class Pairs(NamedTuple):
    """Images and their texts as the fused layers take them."""

    image_states: Tensor
    """[G, N, d] start states."""
    text_states: Tensor
    """[G, L, d] start states."""
    text_mask: Tensor
    """[G, L] bool, true on tokens that are not padding."""
    image_embeddings: Tensor
    """[G, d] unit vectors."""
    text_embeddings: Tensor
    """[G, d] unit vectors."""
    image_ids: Tensor
    """[G] int64, equal where two pairs show one photograph."""


class TokenQueue(nn.Module):
    """The last `size` gathered pairs of start states, equal on all ranks. Buffers only; nothing here trains.

    Args:
        size: K, above 0.
        patches: N.
        tokens: L, the widest bucket of the run.
        width: d.
    """

    image_states: Tensor
    """[K, N, d] bfloat16."""
    text_states: Tensor
    """[K, L, d] bfloat16, zeros on padding that is wider than the step's bucket."""
    text_mask: Tensor
    """[K, L] bool, true on tokens that are not padding."""

    def __init__(self, size: int, patches: int, tokens: int, width: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"expected a queue of token states to have a slot or more, found {size}")
        self.features = FeatureQueue(size, width)
        self.register_buffer("image_states", torch.zeros(size, patches, width, dtype=torch.bfloat16))
        self.register_buffer("text_states", torch.zeros(size, tokens, width, dtype=torch.bfloat16))
        self.register_buffer("text_mask", torch.zeros(size, tokens, dtype=torch.bool))

    @property
    def filled(self) -> Tensor:
        """[K] bool, true where something was enqueued."""
        return self.features.filled

    def fits(self, tokens: int) -> Tensor:
        """[K] bool, true where something was enqueued whose text has at most `tokens` tokens."""
        return self.filled & ~self.text_mask[:, tokens:].any(dim=1)

    def entries(self, tokens: int) -> Pairs:
        """All K entries as views, their texts `tokens` wide: those that do not fit are cut, unfilled ones are zeros."""
        features, texts, mask = self.features, self.text_states[:, :tokens], self.text_mask[:, :tokens]
        return Pairs(self.image_states, texts, mask, features.images, features.texts, features.image_ids)

    @torch.no_grad()
    def enqueue(self, pairs: Pairs) -> None:
        """Put G pairs over the oldest, after the loss that read the queue, with what all ranks gathered; of more than K
        the last. N is the queue's, L at most the queue's."""
        images, texts, mask = pairs.image_states, pairs.text_states, pairs.text_mask
        (patches, _), (tokens, _) = self.image_states.shape[1:], self.text_states.shape[1:]
        assert images.shape[1] == patches, f"expected {patches} patches, found {images.shape[1]}"
        assert mask.shape[1] <= tokens, f"expected at most {tokens} tokens, found {mask.shape[1]}"
        padding = tokens - mask.shape[1]
        slots = self.features.next_slots(images.shape[0])
        rows = slots.shape[0]
        self.image_states[slots] = images[-rows:].to(self.image_states.dtype)
        self.text_states[slots] = F.pad(texts[-rows:], (0, 0, 0, padding)).to(self.text_states.dtype)
        self.text_mask[slots] = F.pad(mask[-rows:], (0, padding))
        self.features.enqueue(pairs.image_embeddings, pairs.text_embeddings, pairs.image_ids)
