"""The image side: a DINOv2 tower under LoRA adapters, and the compressor that narrows its patch tokens.

    images [B, 3, S, S] uint8 -> DINOv2 -> patch tokens [B, N, D], N = (S / 14)² -> compressor -> [B, N, 128]

The tower is transformers' own, at any size, with or without registers; the adapters are peft's, on the query and value projections. An
adapter starts at zero, so with stock weights the first features are the stock ones, bit for bit. Position embeddings are
interpolated to other image sizes by transformers.

Source: arXiv 2304.07193 (DINOv2), 2309.16588 (registers), 2106.09685 (LoRA).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
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
LORA_TARGETS = frozenset({"query", "q_proj", "value", "v_proj"})
"""Names of the query and value projections: transformers 4 said `query`, 5 says `q_proj`."""

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
"""The published sizes: random weights need no download to know their shape. Patch 14, positions for 518 pixels."""
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


class VisionError(Exception):
    """The tower's weights or shape are not there, or an image does not fit them."""


def _published(model: str) -> dict[str, Any] | None:
    """The shape of a published model by its hub id, None for any other name."""
    owner, _, name = model.partition("/")
    kind = "dinov2_with_registers" if name.startswith("dinov2-with-registers-") else "dinov2"
    size = name.rpartition("-")[2]
    if owner != "facebook" or not name.startswith("dinov2-") or size not in _SIZES:
        return None
    return {"model_type": kind, "patch_size": 14, "image_size": 518, **_SIZES[size]}


def _configure(fields: Mapping[str, Any], where: str) -> PretrainedConfig:
    kind = fields.get("model_type")
    if kind not in _KINDS:
        raise VisionError(f"expected a model of type {' or '.join(_KINDS)}, came {kind!r}: {where}")
    return _KINDS[kind][0].from_dict({k: v for k, v in fields.items() if k in _FIELDS})


def _find_shape(model: str) -> dict[str, Any]:
    """The configuration that a folder or the hub gives for `model`, as plain fields."""
    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False).to_dict()
    except (OSError, ValueError) as error:
        raise _missing(model, error) from error


def _missing(model: str, error: Exception) -> VisionError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return VisionError(
        f"expected the DINOv2 weights of {model!r} as safetensors in a local folder, in the Hugging Face cache or on the hub; "
        f'name a folder that holds config.json and model.safetensors, or choose weights="random" for a tower that knows nothing: {first_line}'
    )


def _load_stock(model: str) -> nn.Module:
    """Weights from a folder or the hub, as safetensors only and with no code from there."""
    kind = _find_shape(model).get("model_type")
    if kind not in _KINDS:
        raise VisionError(f"expected a model of type {' or '.join(_KINDS)}, came {kind!r}: {model}")
    cls: Any = _KINDS[kind][1]
    try:
        return cls.from_pretrained(model, use_safetensors=True, attn_implementation="sdpa", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _missing(model, error) from error


def _build(config: PretrainedConfig, fill: bool) -> nn.Module:
    """A tower of that shape, with random weights, or with NaN for a checkpoint to overwrite."""
    config._attn_implementation = "sdpa"
    cls: Any = _KINDS[config.model_type][1]
    if fill:
        return cls(config)
    with torch.device("meta"):
        tower = cls(config)
    tower.to_empty(device="cpu")
    for parameter in tower.parameters():
        nn.init.constant_(parameter, torch.nan)
    return tower


class VisionTower(nn.Module):
    """DINOv2: uint8 images [B, 3, S, S] -> patch tokens [B, N, D] after the last LayerNorm, without class and register tokens.

    Args:
        model: a hub id such as `facebook/dinov2-base`, or a local folder.
        mode: `lora` trains adapters on a frozen tower, `frozen` nothing, `full` everything.
        weights: `stock` loads the published ones; `random` draws new ones, by torch's global generator, for a published shape or a
            folder's config.json; `none` leaves NaN, for a checkpoint to fill.
        config: the shape, as `config_dict` gives it; `model` is then only a name. Not with `stock`.
        config_overrides: fields of the shape to change, such as `num_hidden_layers`. Not with `stock`.
        lora_rank: of the adapters.
        lora_alpha: their product is scaled by alpha / rank.

    Raises:
        VisionError: the weights are not there, or the model is no DINOv2.
    """

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
            backbone: Any = _load_stock(model)
        else:
            fields = config or (None if Path(model).is_dir() else _published(model)) or _find_shape(model)
            backbone = _build(_configure({**fields, **(config_overrides or {})}, model), fill=weights == "random")
        self.mode: Mode = mode
        backbone.requires_grad_(mode == "full")
        if mode == "lora":
            backbone = _adapt(backbone, lora_rank, lora_alpha)
        self.backbone = backbone
        shape = backbone.config
        self.width: int = shape.hidden_size
        self.patch_px: int = shape.patch_size
        self._first_patch = 1 + getattr(shape, "num_register_tokens", 0)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255, persistent=False)
        self.train()

    def config_dict(self) -> dict[str, Any]:
        """The shape as plain JSON values: with it and `weights="none"` a checkpoint needs no hub."""
        shape = self.backbone.config
        return {"model_type": shape.model_type, **{k: getattr(shape, k) for k in _FIELDS if hasattr(shape, k)}}

    def lora_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and adapters, trainable or not; none but in mode `lora`."""
        return ((name, p) for name, p in self.named_parameters() if ".lora_" in name)

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
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != side:
            raise VisionError(f"expected uint8 images [B, 3, S, S], came {images.dtype} {list(images.shape)}")
        if side % self.patch_px or not side:
            raise VisionError(f"expected a side divisible by the patch of {self.patch_px} pixels, came {side}")
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.backbone.parameters())
        with torch.set_grad_enabled(trains):
            pixels = (images.to(self.mean.dtype) - self.mean) / self.std
            return self.backbone(pixel_values=pixels).last_hidden_state[:, self._first_patch :]


def _adapt(backbone: nn.Module, rank: int, alpha: float) -> nn.Module:
    """The same tower with peft's adapters beside its query and value projections, found by name within modules named attention."""
    targets = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and "attention" in name and name.rpartition(".")[2] in LORA_TARGETS
    ]
    if len(targets) != 2 * backbone.config.num_hidden_layers:  # pyright: ignore[reportAttributeAccessIssue]
        raise VisionError(f"expected a query and a value projection in each layer, found {targets}")
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=targets)  # pyright: ignore
    return inject_adapter_in_model(config, backbone)


class Compressor(nn.Module):
    """Patch tokens [B, N, in] -> [B, N, out]: linear, GELU, linear, LayerNorm. 344,832 parameters for 768-384-128."""

    def __init__(self, in_width: int, hidden: int = 384, out_width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_width, hidden), nn.GELU(), nn.Linear(hidden, out_width), nn.LayerNorm(out_width)
        )

    def forward(self, patches: Tensor) -> Tensor:
        return self.layers(patches)
