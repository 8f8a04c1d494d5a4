"""DINOv2 in `Operations`: what transformers' model computes in evaluation mode, its adapters merged.

    x = [class; registers; patches] + positions;   x = x + λ₁ SA(LN(x));   x = x + λ₂ FFN(LN(x));   LN(x)

Axes: B images, N patches, R registers, D width. Source: arXiv 2304.07193 (DINOv2), arXiv 2309.16588 (registers).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitgen.deploy.attention import mix, split
from bitgen.deploy.operations import Operations, Value

TOWER = "vision.backbone"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of red, green and blue in 0..1."""


def patch_tokens(o: Operations, pixels: Value, shape: Mapping[str, Any], image_px: int, feature_layers: int) -> Value:
    """[B, N, K D] of `pixels` [B, 3, S, S] uint8: `bitgen.model.vision.VisionTower`.

    Args:
        shape: of the tower, as `VisionTower.config_dict` gives it.
        image_px: S.
        feature_layers: K.
    """
    layers, eps = shape["num_hidden_layers"], shape["layer_norm_eps"]
    first = 1 + shape.get("num_register_tokens", 0)
    stop = first + (image_px // shape["patch_size"]) ** 2
    states = _embed(o, pixels, shape, image_px)
    found = []
    for i in range(layers):
        states = _layer(o, states, f"{TOWER}.encoder.layer.{i}", shape)
        if i >= layers - feature_layers:
            found.append(o.layer_norm(states, f"{TOWER}.layernorm", eps))
    tokens = found[0] if len(found) == 1 else o.concat(found, -1)
    return o.cut(tokens, 1, first, stop)


def _embed(o: Operations, pixels: Value, shape: Mapping[str, Any], image_px: int) -> Value:
    """[B, 1 + R + N, D]: patches row by row, each with its three colours' rows of pixels."""
    mean, std = (255 * np.array(each, np.float32).reshape(3, 1, 1) for each in (MEAN, STD))
    x = o.divide(o.subtract(o.floats(pixels), o.constant(mean)), o.constant(std))
    patch, width = shape["patch_size"], shape["hidden_size"]
    side = image_px // patch
    x = o.transpose(o.reshape(x, (0, 3, side, patch, side, patch)), (0, 2, 4, 1, 3, 5))
    x = o.linear(o.reshape(x, (0, side * side, 3 * patch * patch)), f"{TOWER}.embeddings.patch_embeddings.projection")
    positions = o.weight(f"{TOWER}.embeddings.position_embeddings")
    start = o.add(o.weight(f"{TOWER}.embeddings.cls_token"), o.cut(positions, 1, 0, 1))
    x = o.add(x, o.cut(positions, 1, 1, 1 + side * side))
    parts = [o.repeat(start, x), x]
    registers = shape.get("num_register_tokens", 0)
    if registers:
        parts.insert(1, o.repeat(o.weight(f"{TOWER}.embeddings.register_tokens", (1, registers, width)), x))
    return o.concat(parts, 1)


def _layer(o: Operations, states: Value, name: str, shape: Mapping[str, Any]) -> Value:
    heads, eps = shape["num_attention_heads"], shape["layer_norm_eps"]
    x = o.layer_norm(states, f"{name}.norm1", eps)
    query, key, value = (split(o, o.linear(x, f"{name}.attention.{each}_proj"), heads) for each in "qkv")
    attended = o.linear(mix(o, query, key, value, shape["hidden_size"] // heads), f"{name}.attention.o_proj")
    states = o.add(states, o.multiply(attended, o.weight(f"{name}.layer_scale1.lambda1")))
    x = o.gelu(o.linear(o.layer_norm(states, f"{name}.norm2", eps), f"{name}.mlp.fc1"))
    return o.add(states, o.multiply(o.linear(x, f"{name}.mlp.fc2"), o.weight(f"{name}.layer_scale2.lambda1")))
