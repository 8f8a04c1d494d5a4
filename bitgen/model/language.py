"""Text: tokens become states.

The encoder reads a whole text at once; its last layers can exchange cross-attention with the image (`fusion.py`). The
decoder (`decoder.py`) shares its token embedding. Embeddings are normalised, as BERT's (arXiv 1810.04805): a layer adds states
of variance about 1, in which a token of standard deviation 0.02 would drown. Axes: T texts, L tokens, d width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitgen.model.fusion import Layer
from bitgen.model.vocabulary import TokenEmbedding
from bitgen.tokens import MAX_TOKENS, VOCABULARY

EMBEDDING_STD = 0.02
"""As GPT-2's; with a LayerNorm before the tied head, logits start with a standard deviation of 0.02 sqrt(d)."""


class TextEncoder(nn.Module):
    """Of `layers`, the last `fusion_layers` can see the image; with `gated`, by cross-attention of their own.

    `vocabulary` and `kept` as `TokenEmbedding` takes them.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        ffn: int,
        layers: int,
        fusion_layers: int,
        ternary: bool,
        gated: bool,
        vocabulary: int = VOCABULARY,
        kept: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.token = TokenEmbedding(width, vocabulary, kept)
        self.position = nn.Embedding(MAX_TOKENS, width)
        nn.init.normal_(self.token.weight, std=EMBEDDING_STD)
        # The row of all other tokens, which no text of the corpora holds: it says no more than its position.
        self.token.weight.data[vocabulary:] = 0
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
