"""Text: tokens become states (`TextEncoder`), and states become captions (`CaptionDecoder`).

The encoder reads a whole text at once; its last layers can exchange cross-attention with the image (`fusion.py`). The
decoder is causal, sees the image and a reading of the memory only, and shares the token embedding (Source: weight tying,
arXiv 1608.05859). Embeddings are normalised, as BERT's (arXiv 1810.04805): a layer adds states of variance about 1, in which a
token of standard deviation 0.02 would drown. Axes: T texts, L tokens, d width, C context states, V vocabulary.
"""

import torch
from torch import Tensor, nn

from bitgen.model.fusion import Attention, FeedForward, Layer
from bitgen.tokens import EOT, VOCABULARY

MAX_TOKENS = 256
EMBEDDING_STD = 0.02
"""As GPT-2's; with a LayerNorm before the tied head, logits start with a standard deviation of 0.02 sqrt(d)."""


class TextEncoder(nn.Module):
    """Of `layers`, the last `fusion_layers` can see the image; with `gated`, by cross-attention of their own."""

    def __init__(
        self, width: int, heads: int, ffn: int, layers: int, fusion_layers: int, ternary: bool, gated: bool
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(MAX_TOKENS, width)
        nn.init.normal_(self.token.weight, std=EMBEDDING_STD)
        nn.init.normal_(self.position.weight, std=EMBEDDING_STD)
        self.embedding_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            Layer(width, heads, ffn, ternary, gated=False) for _ in range(layers - fusion_layers)
        )
        self.fused_layers = nn.ModuleList(Layer(width, heads, ffn, ternary, gated) for _ in range(fusion_layers))
        self.norm = nn.LayerNorm(width)

    def start(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """[T, L, d] states before the first fused layer, from ids [T, L] and `mask` [T, L], true off padding."""
        states = self.embedding_norm(self.token(token_ids) + self.position.weight[: token_ids.shape[1]])
        for layer in self.layers:
            states = layer(states, mask)
        return states

    def finish(self, states: Tensor, mask: Tensor) -> Tensor:
        """[T, L, d] final states in dual-encoder mode: the fused layers without their cross-attention."""
        for layer in self.fused_layers:
            states = layer(states, mask)
        return self.norm(states)


def end_state(states: Tensor, mask: Tensor) -> Tensor:
    """[T, d] the state of each text's closing end-of-text, in float32: the last of `states` [T, L, d] where `mask` is true."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return states[torch.arange(mask.shape[0], device=mask.device), (mask * positions).argmax(dim=1)].float()


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

    @torch.no_grad()
    def greedy(self, embedding: nn.Embedding, context: Tensor, max_tokens: int) -> list[list[int]]:
        """The likeliest next token at every step until end-of-text, for each row of `context` [T, C, d].

        Ids come without the end-of-text tokens, `max_tokens` of them at most.
        """
        ids = torch.full((context.shape[0], 1), EOT, device=context.device)
        done = torch.zeros(context.shape[0], dtype=torch.bool, device=context.device)
        for _ in range(max_tokens):
            states = self(ids, embedding, context)[:, -1]
            following = (states @ embedding.weight.T).argmax(dim=-1)
            following = torch.where(done, EOT, following)
            ids = torch.cat([ids, following[:, None]], dim=1)
            done = done | (following == EOT)
            if bool(done.all()):
                break
        return [row[: row.index(EOT)] if EOT in row else row for row in ids[:, 1:].tolist()]
