"""The whole model: tensors become features. Parts are in the files beside this one.

    images -> DINOv2 under LoRA -> compressor + 2-D positions -> start --[image-side layers]--> dual -> pooled -> embedding
    texts  -> token + position  -> BitNet encoder ----------> start --[fused text layers]----> dual -> pooled -> embedding

`start` states go into the fused layers a second time with cross-attention for matching and grounding; `dual` states feed
contrast, captioning and the memory, and never pay for fusion.

Axes: B images, T texts, Q image-text pairs, L tokens, N patches, P phrases, d width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitgen.model.decoder import CaptionDecoder
from bitgen.model.decoding import decode
from bitgen.model.fusion import Layer, fuse
from bitgen.model.grounding import Grounded, GroundingHead
from bitgen.model.language import TextEncoder, end_state
from bitgen.model.memory import EpisodicMemory, Reading
from bitgen.model.vision import Compressor, VisionTower
from bitgen.tokens import MAX_TOKENS
from bitgen.training.config import ModelConfig, VisionConfig


@dataclass(frozen=True)
class ImageStates:
    start: Tensor
    """[B, N, d] before the image-side layers."""
    dual: Tensor
    """[B, N, d] after them, without cross-attention."""
    code: Tensor
    """[B, d] attention-pooled `dual`: what addresses the memory."""
    embedding: Tensor
    """[B, d] unit vectors."""


@dataclass(frozen=True)
class TextStates:
    start: Tensor
    """[T, L, d] before the fused layers."""
    dual: Tensor
    """[T, L, d] after them, without cross-attention."""
    code: Tensor
    """[T, d] `dual` in one vector, by `text_pooling`: what the memory stores."""
    embedding: Tensor
    """[T, d] unit vectors."""
    mask: Tensor
    """[T, L] bool, true on tokens that are not padding."""


class AttentionPool(nn.Module):
    """A learned query's softmax-weighted mean of states, in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.key = nn.Linear(width, width, bias=False)  # a bias would add the same to every score: softmax drops it

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, d] from [B, N, d]; `mask` [B, N] is true where a state counts."""
        with torch.autocast(states.device.type, enabled=False):  # it would multiply in bfloat16
            scores = self.key(states.float()) @ self.query / math.sqrt(states.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return weighted_sum(scores.softmax(dim=-1), states)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """[T, d] mean of `states` [T, L, d] where `mask` [T, L] is true, in float32."""
    weights = mask.float()
    return weighted_sum(weights, states) / weights.sum(dim=1, keepdim=True).clamp(min=1)


def weighted_sum(weights: Tensor, states: Tensor) -> Tensor:
    """[B, d] sum of `states` [B, N, d] by `weights` [B, N], in float32 also under autocast."""
    with torch.autocast(states.device.type, enabled=False):
        return torch.einsum("bn,bnd->bd", weights.float(), states.float())


@cache
def grid_positions(side: int, width: int, device: torch.device) -> Tensor:
    """[side * side, width] sine and cosine of row and column, half of the width each, row by row.

    Source: arXiv 1706.03762, section 3.5, in two dimensions as in MAE, arXiv 2111.06377. Coordinates are scaled to a
    16 x 16 grid, so that another resolution sees the same field more finely.
    """
    frequency = 100.0 ** -(torch.arange(width // 4, device=device) / (width // 4))
    angle = (torch.arange(side, device=device) + 0.5)[:, None] * (16 / side) * frequency
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


class Temperature(nn.Module):
    """A learned temperature, kept as the logarithm of its inverse and within [0.01, 0.5] (Source: ALBEF, arXiv 2107.07651)."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(start)))

    def forward(self) -> Tensor:
        """The inverse temperature, 2 to 100."""
        with torch.no_grad():
            self.log_scale.clamp_(math.log(2), math.log(100))
        return self.log_scale.float().exp()


def build_tower(config: VisionConfig, *, empty: bool = False, shape: Mapping[str, Any] | None = None) -> VisionTower:
    """The vision tower that a configuration names. Raises `VisionError` where its weights or its shape are not to be had.

    Args:
        empty: leave its weights NaN, for a checkpoint to fill.
        shape: of an empty tower, as `VisionTower.config_dict` gives it; by default the one that the configuration names.
    """
    if config.weights == "random" and shape is None:
        shape = {
            "model_type": "dinov2",
            "hidden_size": config.random_width,
            "num_hidden_layers": config.random_layers,
            "num_attention_heads": config.random_heads,
            "patch_size": config.random_patch_px,
            "image_size": 16 * config.random_patch_px,
            # DINOv2 draws with 0.02, at its 768: a narrow tower drawn so gives each layer little to say, and learns shapes late.
            "initializer_range": config.random_width**-0.5,
        }
    return VisionTower(
        config.model if config.weights == "stock" else "random",
        config.mode,
        "none" if empty else config.weights,
        config=shape,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_layers=config.lora_layers,
        feature_layers=config.feature_layers,
    )


class BitGen(nn.Module):
    """The model of a `ModelConfig`. Losses are in `bitgen/objectives`, training in `bitgen/training`.

    Args:
        config: sizes and switches.
        vision: the tower to use, such as one rebuilt from a checkpoint; by default the one that the config names.
        kept: the ids of a vocabulary that is not whole, as `TokenEmbedding` takes them.
    """

    def __init__(
        self, config: ModelConfig, vision: VisionTower | None = None, kept: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        d, heads, ffn, ternary = config.width, config.heads, config.ffn, config.ternary
        gated = config.fusion == "gated"
        self.config = config
        self.vision = vision if vision is not None else build_tower(config.vision)
        self.compressor = Compressor(self.vision.width, config.compressor_width, d)
        self.image_layers = nn.ModuleList(Layer(d, heads, ffn, ternary, gated) for _ in range(config.fusion_layers))
        self.image_norm = nn.LayerNorm(d)
        self.text = TextEncoder(
            d, heads, ffn, config.text_layers, config.fusion_layers, ternary, gated, config.vocabulary, kept
        )
        self.pool_text = {"mean": masked_mean, "end": end_state}[config.text_pooling]
        self.image_pool = AttentionPool(d)
        self.itc_temperature = Temperature(config.temperature)
        self.region_temperature = Temperature(config.temperature)
        self.image_projection = nn.Linear(d, d, bias=False)
        self.text_projection = nn.Linear(d, d, bias=False)
        self.match_image = nn.Linear(d, d)
        self.match_text = nn.Linear(d, d)
        self.match_head = nn.Linear(2 * d, 2)
        self.memory = EpisodicMemory(
            config.memory_slots, d, config.memory_noise, config.memory_inverse, config.memory_newton_steps
        )
        self.reading_projection = nn.Linear(d, d)
        self.decoder = CaptionDecoder(d, heads, ffn, config.decoder_layers, ternary)
        self.grounding = GroundingHead(d, heads, ffn, config.grounding_layers)

    @property
    def device(self) -> torch.device:
        return self.image_norm.weight.device

    def encode_image(self, images: Tensor) -> ImageStates:
        """States and unit embeddings of `images` [B, 3, S, S] uint8, in dual-encoder mode."""
        return self.encode_patches(self.vision(images))

    def encode_patches(self, patches: Tensor) -> ImageStates:
        """Likewise of what the vision tower gives: `patches` [B, N, K D] of square images."""
        start = self.compressor(patches)
        start = start + grid_positions(math.isqrt(patches.shape[1]), start.shape[-1], start.device).to(start.dtype)
        dual = start
        for layer in self.image_layers:
            dual = layer(dual)
        dual = self.image_norm(dual)
        code = self.image_pool(dual)
        return ImageStates(start, dual, code, F.normalize(self.image_projection(code).float(), dim=-1))

    def encode_text(self, token_ids: Tensor, mask: Tensor) -> TextStates:
        """States and unit embeddings of `token_ids` [T, L], `mask` [T, L] true off padding, in dual-encoder mode."""
        start = self.text.start(token_ids, mask)
        dual = self.text.finish(start, mask)
        code = self.pool_text(dual, mask)
        return TextStates(start, dual, code, F.normalize(self.text_projection(code).float(), dim=-1), mask)

    def fuse(self, image_start: Tensor, text_start: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Fused patch tokens [Q, N, d] and text states [Q, L, d] of Q pairs of start states."""
        image, text = fuse(self.image_layers, self.text.fused_layers, image_start, text_start, text_mask)
        return self.image_norm(image), self.text.norm(text)

    def match_logits(self, image_start: Tensor, text_start: Tensor, text_mask: Tensor) -> Tensor:
        """[Q, 2] logits that the two of a pair do not, or do, belong together. Start states as in `fuse`."""
        image, text = self.fuse(image_start, text_start, text_mask)
        pooled = [self.match_image(image.mean(dim=1)), self.match_text(self.pool_text(text, text_mask).to(text.dtype))]
        return self.match_head(torch.cat(pooled, dim=-1).tanh()).float()

    def match(self, image: ImageStates, text: TextStates, image_rows: Tensor, text_rows: Tensor) -> Tensor:
        """[Q] log-odds that image `image_rows[q]` and text `text_rows[q]` belong together."""
        logits = self.match_logits(image.start[image_rows], text.start[text_rows], text.mask[text_rows])
        return logits[:, 1] - logits[:, 0]

    def match_tokens(self, image_start: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Likewise, of Q images by their start states [Q, N, d] and Q texts by their tokens, as `encode_text` takes them."""
        logits = self.match_logits(image_start, self.text.start(token_ids, mask), mask)
        return logits[:, 1] - logits[:, 0]

    def ground(
        self,
        image: ImageStates,
        text: TextStates,
        text_image: Tensor,
        phrase_text: Tensor,
        phrase_slot: Tensor,
        phrase_tokens: Tensor,
        slots: int,
    ) -> Grounded:
        """Box and heat-map of P phrases; the last five arguments as in `Batch` (`slots`: its `max_slots`)."""
        patches, states = self.fuse(image.start[text_image], text.start, text.mask)
        return self.grounding(patches, states, phrase_text, phrase_slot, phrase_tokens, slots)

    @torch.no_grad()
    def caption(
        self,
        image: ImageStates,
        max_tokens: int = 24,
        beams: int = 1,
        length_penalty: float = 0.6,
        reading: Reading | None = None,
    ) -> list[list[int]]:
        """Captions of B images: ids of each, without end-of-text, from its patches and what it recalls.

        Args:
            max_tokens: 1 to 256.
            beams: sequences an image to search with; 1 takes the likeliest token at every step.
            length_penalty: α of `decoding.py`, 0 or more; of no effect with 1 beam. arXiv 1609.08144 finds 0.6 to 0.7 best.
            reading: of the memory, one for each image, as [1, B, d] values or any other episodes of B queries together.
                None: an empty memory.
        """
        if max_tokens > MAX_TOKENS:
            raise ValueError(f"expected max_tokens of {MAX_TOKENS} at most, came {max_tokens}")
        context, mask = self.caption_context(image, reading)
        embedding = self.text.token
        first = torch.full((context.shape[0], 1), embedding.end, device=context.device)
        next_token = self.decoder.next_token(embedding, context, mask)
        found = decode(next_token, first, max_tokens, beams, length_penalty, embedding.end)
        return embedding.listed(found)

    def caption_context(self, image: ImageStates, reading: Reading | None = None) -> tuple[Tensor, Tensor | None]:
        """What the decoder sees of B images: (context [B, C, d], mask [B, C] true where it may be seen).

        Their N dual-mode patch tokens and, last, `reading` (as in `caption`) times its confidence, projected. It is hidden where
        its confidence is 0: there the memory is empty, and training shows nothing of an empty memory.
        """
        if reading is None:
            return image.dual, None
        values, confidence = reading.values.flatten(0, 1), reading.confidence.flatten()
        if len(values) != len(image.dual):
            raise ValueError(f"expected a reading for each of {len(image.dual)} images, came {len(values)}")
        is_there = confidence[:, None] > 0  # not of NaN, which would show through the mask
        weighted = torch.where(is_there, values * confidence[:, None], 0)
        token = self.reading_projection(weighted.to(image.dual.dtype))
        seen = torch.ones(image.dual.shape[:2], dtype=torch.bool, device=confidence.device)
        context = torch.cat([image.dual, token[:, None].to(image.dual.dtype)], dim=1)
        return context, torch.cat([seen, is_there], dim=1)

    def gates(self) -> dict[str, nn.Parameter]:
        """The scalar in front of every cross-attention, by name."""
        sides = {"image": self.image_layers, "text": self.text.fused_layers}
        layers = {f"gate_{side}_{i}": layer for side, group in sides.items() for i, layer in enumerate(group)}
        return {
            name: layer.gate for name, layer in layers.items() if isinstance(layer, Layer) and layer.gate is not None
        }
