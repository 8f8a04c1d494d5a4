"""States become captions: the next token, from the tokens before it and what an image and the memory show.

    x = norm(token + position);   per layer x = x + SA(x); x = x + CA(x, context); x = x + FFN(x);   logits = norm(x) Eᵀ

Causal, and E [V, d] is the text encoder's token embedding (Source: weight tying, arXiv 1608.05859): all else of the encoder is
out of its sight. Training sees whole texts at once (`CaptionDecoder.forward`). Decoding sees one token a sequence and step
(`CaptionDecoder.step`): keys and values of the tokens before it lie in a `DecoderCache`, those of the context are computed once
and are shared by all sequences of an image. Beams are queries of one cross-attention, so that the context is never copied.

Axes: T texts or images, K sequences an image, L tokens, C context states, d width, H heads, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from bitgen.model.decoding import NextToken
from bitgen.model.fusion import Attention, FeedForward
from bitgen.model.language import EMBEDDING_STD
from bitgen.model.vocabulary import TokenEmbedding
from bitgen.tokens import MAX_TOKENS


@dataclass
class LayerCache:
    """Grows with every step."""

    key: Tensor
    """[T * K, H, L, d / H], of the tokens so far."""
    value: Tensor
    context_key: Tensor
    """[T, H, C, d / H]."""
    context_value: Tensor


@dataclass
class DecoderCache:
    layers: list[LayerCache]
    context_mask: Tensor | None
    """[T, C] bool."""
    sequences: int = 1
    """K."""
    length: int = 0
    """L, of the tokens so far."""

    def follow(self, parents: Tensor) -> None:
        """Let sequence k of image t go on from its sequence `parents[t, k]`, of [T, K]; K may change."""
        first = torch.arange(parents.shape[0], device=parents.device)[:, None] * self.sequences
        rows = (first + parents).flatten()
        for layer in self.layers:
            layer.key, layer.value = layer.key[rows], layer.value[rows]
        self.sequences = parents.shape[1]


class DecoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, ffn: int, ternary: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads, ternary)
        self.cross_attention = Attention(width, heads, ternary)
        self.feed_forward = FeedForward(width, ffn, ternary)

    def forward(self, states: Tensor, context: Tensor, context_mask: Tensor | None) -> Tensor:
        states = states + self.attention(states, states, causal=True)
        states = states + self.cross_attention(states, context, context_mask)
        return states + self.feed_forward(states)

    def start(self, context: Tensor) -> LayerCache:
        """Of no token yet, for `context` [T, C, d]."""
        key, value = self.cross_attention.keys_values(context)
        return LayerCache(key[:, :, :0], value[:, :, :0], key, value)

    def step(self, states: Tensor, cache: LayerCache, context_mask: Tensor | None) -> Tensor:
        """[T, K, d] of the newest tokens' states [T, K, d], which `cache` then holds."""
        newest = states.flatten(0, 1)[:, None]
        key, value = self.attention.keys_values(newest)
        cache.key, cache.value = torch.cat([cache.key, key], dim=2), torch.cat([cache.value, value], dim=2)
        states = states + self.attention.attend(newest, cache.key, cache.value).view_as(states)
        states = states + self.cross_attention.attend(states, cache.context_key, cache.context_value, context_mask)
        return states + self.feed_forward(states)


class CaptionDecoder(nn.Module):
    def __init__(self, width: int, heads: int, ffn: int, layers: int, ternary: bool) -> None:
        super().__init__()
        self.position = nn.Embedding(MAX_TOKENS, width)
        self.embedding_norm = nn.LayerNorm(width)
        nn.init.normal_(self.position.weight, std=EMBEDDING_STD)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, ffn, ternary) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, token_ids: Tensor, embedding: nn.Embedding, context: Tensor, context_mask: Tensor | None = None
    ) -> Tensor:
        """[T, L, d] states; the one at position l predicts token l + 1 from tokens 0..l and the context.

        Args:
            token_ids: [T, L]. Padding needs no mask: it stands behind every token that counts.
            embedding: the encoder's, V x d.
            context: [T, C, d], image patch tokens and what was read from the memory.
            context_mask: [T, C] bool, true where the context may be seen.
        """
        states = self.embedding_norm(embedding(token_ids) + self.position.weight[: token_ids.shape[1]])
        for layer in self.layers:
            states = layer(states, context, context_mask)
        return self.norm(states)

    def start(self, context: Tensor, context_mask: Tensor | None = None) -> DecoderCache:
        """The cache of one sequence without tokens for each of T contexts, as in `forward`."""
        return DecoderCache([layer.start(context) for layer in self._layers()], context_mask)

    def step(self, token_ids: Tensor, embedding: nn.Embedding, cache: DecoderCache) -> Tensor:
        """[T, K, d]: what `forward` gives at the position of the newest tokens `token_ids` [T, K]. `cache` grows by them.

        The sums of attention run in another order than in `forward`. The full-precision twin's states agree to 1e-5; so do
        ternary ones until that moves an activation to the next 8-bit code: one step in twelve, by 0.026 at most of states of
        standard deviation 1 (tests/model/test_decoder.py).
        """
        assert cache.length < MAX_TOKENS, f"a text has at most {MAX_TOKENS} positions"
        states = self.embedding_norm(embedding(token_ids) + self.position.weight[cache.length])
        for layer, kept in zip(self._layers(), cache.layers, strict=True):
            states = layer.step(states, kept, cache.context_mask)
        cache.length += 1
        return self.norm(states)

    def next_token(self, embedding: TokenEmbedding, context: Tensor, context_mask: Tensor | None = None) -> NextToken:
        """What `decoding.py` searches over: logits under the tied head, with a cache of its own. Arguments as in `forward`.

        Its tokens are classes of the embedding.
        """
        cache, head = self.start(context, context_mask), embedding.head.T

        def logits(classes: Tensor, parents: Tensor) -> Tensor:
            cache.follow(parents)
            return self.step(embedding.ids(classes), embedding, cache) @ head

        return logits

    def _layers(self) -> Iterable[DecoderLayer]:
        return cast(Iterable[DecoderLayer], self.layers)
