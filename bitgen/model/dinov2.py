"""DINOv2 as transformers has it: published shapes, weights loaded or made, and the names of its tensors.

A tower is a `Dinov2Model` or a `Dinov2WithRegistersModel`: pixel values [B, 3, S, S] -> states [B, 1 + R + N, D] after every
layer, where R registers stand between the class token and N = (S / 14)² patch tokens, row by row.

Attention runs by torch's `scaled_dot_product_attention`: it makes no [B, H, N, N] matrix of scores, of which a layer of the base
model would keep 203 MB for the backward pass (batch 128, 12 heads, 257 tokens, bfloat16), has fused kernels on CPUs and
accelerators, and needs no package beside torch.

Source: arXiv 2304.07193 (DINOv2), arXiv 2309.16588 (registers).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PretrainedConfig,
)

_KINDS: Mapping[str, tuple[type[PretrainedConfig], type[nn.Module]]] = {
    "dinov2": (Dinov2Config, Dinov2Model),
    "dinov2_with_registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
}
_SIZES: Mapping[str, Mapping[str, Any]] = {
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "giant": {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True},
}
"""The published sizes, so that random weights need no download to know their shape."""
_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "mlp_ratio",
    "hidden_act",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_channels",
    "qkv_bias",
    "layerscale_value",
    "use_swiglu_ffn",
    "use_mask_token",
    "num_register_tokens",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "drop_path_rate",
    "initializer_range",
)
_PROJECTIONS = ("query", "key", "value")
_RENAMED = {
    **{f".attention.attention.{name}.": f".attention.{name[0]}_proj." for name in _PROJECTIONS},
    ".attention.output.dense.": ".attention.o_proj.",
}
"""Names of transformers 4 and what 5 calls them. A state dict of ours has those of 5 under either."""
LORA_TARGETS = frozenset({"query", "q_proj", "value", "v_proj"})
UNUSED = frozenset({"embeddings.mask_token"})
"""Only DINOv2's own training reads it: a checkpoint without it is whole."""


class VisionError(Exception):
    """The tower's weights or shape are not there, or an image does not fit them."""


def _published(model: str) -> dict[str, Any] | None:
    """The shape of a published model by its hub id: 14-pixel patches, positions for 518 pixels. None for any other."""
    owner, _, name = model.partition("/")
    size = name.rpartition("-")[2]
    prefixes = {f"dinov2-{size}": "dinov2", f"dinov2-with-registers-{size}": "dinov2_with_registers"}
    if owner != "facebook" or name not in prefixes or size not in _SIZES or Path(model).is_dir():
        return None
    return {"model_type": prefixes[name], "patch_size": 14, "image_size": 518, **_SIZES[size]}


def find_shape(model: str) -> dict[str, Any]:
    """The configuration of `model` as plain fields: a published one is known here, any other a folder or the hub gives."""
    return _published(model) or _read_shape(model)


def shape_fields(config: PretrainedConfig) -> dict[str, Any]:
    """What of a configuration makes the shape, as plain JSON values: `build` takes it back."""
    return {"model_type": config.model_type, **{k: getattr(config, k) for k in _FIELDS if hasattr(config, k)}}


def _read_shape(model: str) -> dict[str, Any]:
    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False).to_dict()
    except (OSError, ValueError) as error:
        raise _missing(model, error) from error


def _check_kind(kind: object, model: str) -> str:
    if not isinstance(kind, str) or kind not in _KINDS:
        raise VisionError(f"expected a model of type {' or '.join(_KINDS)}, came {kind!r}: {model}")
    return kind


def _missing(model: str, error: Exception) -> VisionError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return VisionError(
        f"expected the DINOv2 weights of {model!r} as safetensors, in a local folder, the Hugging Face cache or on the "
        "hub; name a folder with config.json and model.safetensors, or choose random weights for a tower that has "
        f"learned nothing; found: {reason}"
    )


def load_stock(model: str) -> Any:
    """Weights from a folder or the hub: safetensors only, no code from there, nothing filled in where some are missing."""
    cls: Any = _KINDS[_check_kind(_read_shape(model).get("model_type"), model)][1]
    try:
        backbone, report = cls.from_pretrained(
            model, use_safetensors=True, attn_implementation="sdpa", output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _missing(model, error) from error
    absent = sorted(set(report["missing_keys"]) - UNUSED)
    if absent:
        raise VisionError(f"expected all of the tower's weights, {len(absent)} are missing {absent[:3]}: {model}")
    return backbone.float()


def build(fields: Mapping[str, Any], model: str, fill: bool) -> Any:
    """A tower of that shape with random weights, or with NaN for a checkpoint to overwrite."""
    config_cls, cls = _KINDS[_check_kind(fields.get("model_type"), model)]
    config = config_cls.from_dict({name: value for name, value in fields.items() if name in _FIELDS})
    config._attn_implementation = "sdpa"
    make: Any = cls
    if fill:
        return make(config)
    with torch.device("meta"):
        backbone = make(config)
    forget(backbone.to_empty(device="cpu"))
    return backbone


def forget(backbone: nn.Module) -> None:
    """NaN everywhere: what a checkpoint fails to fill cannot pass for a weight."""
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.fill_(torch.nan)


def _rename(state: dict[str, Any], prefix: str, names: Mapping[str, str]) -> None:
    """Put each key of `state` under its new name, in place and in the same order."""
    for key in list(state):
        renamed = key
        if key.startswith(prefix):
            for old, new in names.items():
                renamed = renamed.replace(old, new)
        state[renamed] = state.pop(key)


def to_current_names(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: object) -> None:
    _rename(state, prefix, _RENAMED)


def to_installed_names(module: nn.Module, state: dict[str, Any], prefix: str, *rest: object) -> None:
    if any(".attention.attention.query." in name for name, _ in module.named_parameters()):
        _rename(state, prefix, {new: old for old, new in _RENAMED.items()})
    else:
        _rename(state, prefix, _RENAMED)
