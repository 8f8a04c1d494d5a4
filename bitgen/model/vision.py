"""The image side: a DINOv2 tower under LoRA adapters, and the compressor that narrows its patch tokens.

    images [B, 3, S, S] uint8 -> DINOv2 -> patch tokens [B, N, D], N = (S / 14)² -> compressor -> [B, N, 128]

The tower is transformers' own, at any size, with or without registers; the adapters are peft's, on the query and value
projections. An adapter starts at zero, so with stock weights the first features are the stock ones, bit for bit. Position
embeddings are interpolated to other image sizes by transformers.

Source: arXiv 2304.07193 (DINOv2), arXiv 2309.16588 (registers), arXiv 2106.09685 (LoRA).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PretrainedConfig,
)

Mode = Literal["lora", "frozen", "full"]
Weights = Literal["stock", "random", "none"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

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
_LORA_TARGETS = frozenset({"query", "q_proj", "value", "v_proj"})
_UNUSED = frozenset({"embeddings.mask_token"})
"""Only DINOv2's own training reads it: a checkpoint without it is whole."""


class VisionError(Exception):
    """The tower's weights or shape are not there, or an image does not fit them."""


class VisionTower(nn.Module):
    """DINOv2: uint8 images [B, 3, S, S] -> patch tokens [B, N, D] after the last LayerNorm; class and registers dropped.

    Args:
        model: a hub id such as `facebook/dinov2-base`, or a local folder.
        mode: `lora` trains adapters on a frozen tower, `frozen` nothing, `full` everything.
        weights: `stock` loads the published ones, in fp32; `random` draws new ones by torch's global generator, in a
            published shape or that of a folder's config.json; `none` leaves NaN, for a checkpoint to fill.
        config: the shape, as `config_dict` gives it; `model` is then only a name. Not with `stock`.
        config_overrides: fields of the shape to change, such as `num_hidden_layers`. Not with `stock`.
        lora_rank: of the adapters.
        lora_alpha: their product is scaled by alpha / rank.

    Raises:
        VisionError: the weights are not there or not whole, or the model is no DINOv2.
        ValueError: an argument is none of the above.
    """

    backbone: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: str,
        mode: Mode = "lora",
        weights: Weights = "stock",
        *,
        config: Mapping[str, Any] | None = None,
        config_overrides: Mapping[str, Any] | None = None,
        lora_rank: int = 16,
        lora_alpha: float = 16,
    ) -> None:
        super().__init__()
        if mode not in ("lora", "frozen", "full"):
            raise ValueError(f"expected mode lora, frozen or full, came {mode!r}")
        if weights not in ("stock", "random", "none"):
            raise ValueError(f"expected weights stock, random or none, came {weights!r}")
        if weights == "stock" and (config or config_overrides):
            raise ValueError(f"expected no shape beside stock weights, came {dict(config or config_overrides or {})}")
        if weights == "stock":
            backbone = _load_stock(model)
        else:
            known = config or _published(model) or _find_shape(model)
            backbone = _build({**known, **(config_overrides or {})}, model, fill=weights == "random")
        shape = backbone.config
        if mode == "lora" and lora_rank < 1:
            raise ValueError(f"expected a LoRA rank of at least 1, came {lora_rank}")
        self.mode: Mode = mode
        self.backbone = backbone.requires_grad_(mode == "full")
        for name in _UNUSED & dict(backbone.named_parameters()).keys():
            backbone.get_parameter(name).requires_grad_(False)  # DDP would wait for its gradient
        if mode == "lora":
            self.backbone = _adapt(backbone, shape.num_hidden_layers, lora_rank, lora_alpha)
            if weights == "none":
                _forget(backbone)
        self.width: int = shape.hidden_size
        self.patch_px: int = shape.patch_size
        self._first_patch = 1 + getattr(shape, "num_register_tokens", 0)
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.register_state_dict_post_hook(_to_current_names)
        self.register_load_state_dict_pre_hook(_to_installed_names)
        self.train()

    def config_dict(self) -> dict[str, Any]:
        """The shape as plain JSON values: with it and `weights="none"` a checkpoint needs no hub."""
        shape = self.backbone.config
        return {"model_type": shape.model_type, **{k: getattr(shape, k) for k in _FIELDS if hasattr(shape, k)}}

    def lora_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and adapters, trainable or not; none but in mode `lora`."""
        return ((name, parameter) for name, parameter in self.named_parameters() if ".lora_" in name)

    def set_lora_trainable(self, trainable: bool) -> None:
        """Thaw or freeze the adapters. Frozen, the tower keeps no activations and takes no backward pass."""
        for _, parameter in self.lora_parameters():
            parameter.requires_grad_(trainable)

    def train(self, mode: bool = True) -> "VisionTower":
        """A tower that keeps its weights keeps out of training mode too: its dropout stays off."""
        super().train(mode)
        self.backbone.train(mode and self.mode == "full")
        return self

    def forward(self, images: Tensor) -> Tensor:
        side = images.shape[-1]
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, side, side):
            raise VisionError(f"expected uint8 images [B, 3, S, S], came {images.dtype} {list(images.shape)}")
        if side % self.patch_px or not side:
            raise VisionError(
                f"expected images with a side divisible by the patch of {self.patch_px}, came {side} pixels"
            )
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.backbone.parameters())
        with torch.set_grad_enabled(trains):
            pixels = (images.to(self.mean.dtype) - self.mean) / self.std
            return self.backbone(pixel_values=pixels).last_hidden_state[:, self._first_patch :]


class Compressor(nn.Module):
    """Patch tokens [B, N, in] -> [B, N, out]: linear, GELU, linear, LayerNorm. 344,832 parameters for 768-384-128."""

    def __init__(self, in_width: int, hidden: int = 384, out_width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_width, hidden), nn.GELU(), nn.Linear(hidden, out_width), nn.LayerNorm(out_width)
        )

    def forward(self, patches: Tensor) -> Tensor:
        return self.layers(patches)


def _published(model: str) -> dict[str, Any] | None:
    """The shape of a published model by its hub id: 14-pixel patches, positions for 518 pixels. None for any other."""
    owner, _, name = model.partition("/")
    size = name.rpartition("-")[2]
    prefixes = {f"dinov2-{size}": "dinov2", f"dinov2-with-registers-{size}": "dinov2_with_registers"}
    if owner != "facebook" or name not in prefixes or size not in _SIZES or Path(model).is_dir():
        return None
    return {"model_type": prefixes[name], "patch_size": 14, "image_size": 518, **_SIZES[size]}


def _find_shape(model: str) -> dict[str, Any]:
    """The configuration that a folder or the hub gives for `model`, as plain fields."""
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


def _load_stock(model: str) -> Any:
    """Weights from a folder or the hub: safetensors only, no code from there, nothing filled in where some are missing."""
    cls: Any = _KINDS[_check_kind(_find_shape(model).get("model_type"), model)][1]
    try:
        backbone, report = cls.from_pretrained(
            model, use_safetensors=True, attn_implementation="sdpa", output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _missing(model, error) from error
    absent = sorted(set(report["missing_keys"]) - _UNUSED)
    if absent:
        raise VisionError(f"expected all of the tower's weights, {len(absent)} are missing {absent[:3]}: {model}")
    return backbone.float()


def _build(fields: Mapping[str, Any], model: str, fill: bool) -> Any:
    """A tower of that shape with random weights, or with NaN for a checkpoint to overwrite."""
    config_cls, cls = _KINDS[_check_kind(fields.get("model_type"), model)]
    config = config_cls.from_dict({name: value for name, value in fields.items() if name in _FIELDS})
    config._attn_implementation = "sdpa"
    make: Any = cls
    if fill:
        return make(config)
    with torch.device("meta"):
        backbone = make(config)
    _forget(backbone.to_empty(device="cpu"))
    return backbone


def _forget(backbone: nn.Module) -> None:
    """NaN everywhere: what a checkpoint fails to fill cannot pass for a weight."""
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.fill_(torch.nan)


def _adapt(backbone: nn.Module, layers: int, rank: int, alpha: float) -> nn.Module:
    """The same tower with peft's adapters beside the query and value projection of every layer."""
    targets = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and "attention" in name and name.rpartition(".")[2] in _LORA_TARGETS
    ]
    assert len(targets) == 2 * layers, f"expected a query and a value projection in {layers} layers, found {targets}"
    # peft types alpha as int; it only divides by it.
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=targets)  # pyright: ignore
    return inject_adapter_in_model(config, backbone)


def _rename(state: dict[str, Any], prefix: str, names: Mapping[str, str]) -> None:
    """Put each key of `state` under its new name, in place and in the same order."""
    for key in list(state):
        renamed = key
        if key.startswith(prefix):
            for old, new in names.items():
                renamed = renamed.replace(old, new)
        state[renamed] = state.pop(key)


def _to_current_names(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: object) -> None:
    _rename(state, prefix, _RENAMED)


def _to_installed_names(module: nn.Module, state: dict[str, Any], prefix: str, *rest: object) -> None:
    if any(".attention.attention.query." in name for name, _ in module.named_parameters()):
        _rename(state, prefix, {new: old for old, new in _RENAMED.items()})
    else:
        _rename(state, prefix, _RENAMED)
