"""The image side: a DINOv2 tower under LoRA adapters, and the compressor that narrows its patch tokens.

    images [B, 3, S, S] uint8 -> DINOv2 -> patch tokens [B, N, K D], N = (S / 14)² -> compressor -> [B, N, 128]

The tower is transformers' own (`dinov2.py`), at any size, with or without registers; the adapters are peft's, on the query
and value projections of all layers or of the last ones. An adapter starts at zero, so with stock weights the first features
are the stock ones, bit for bit. Position embeddings are interpolated to other image sizes by transformers.

Patch tokens are those of the last K layers beside each other, each under the tower's own last LayerNorm, as in DINOv2's linear
evaluation: the states grow from layer to layer, and one linear map is to read them all. K = 1 gives the usual features, and no
weight is added. The backward pass ends at the lowest adapter: what lies below it keeps nothing for it.

Source: arXiv 2304.07193 (DINOv2), arXiv 2309.16588 (registers), arXiv 2106.09685 (LoRA); github.com/facebookresearch/dinov2,
`get_intermediate_layers` (the last layers' norm).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from bitgen.model.dinov2 import (
    LORA_TARGETS,
    UNUSED,
    VisionError,
    build,
    find_shape,
    forget,
    load_stock,
    shape_fields,
    to_current_names,
    to_installed_names,
)

Mode = Literal["lora", "frozen", "full"]
Weights = Literal["stock", "random", "none"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VisionTower(nn.Module):
    """DINOv2: uint8 images [B, 3, S, S] -> patch tokens [B, N, K D] after the last LayerNorm; class and registers dropped.

    Args:
        model: a hub id such as `facebook/dinov2-base`, or a local folder.
        mode: `lora` trains adapters on a frozen tower, `frozen` nothing, `full` everything.
        weights: `stock` loads the published ones, in fp32; `random` draws new ones by torch's global generator, in a
            published shape or that of a folder's config.json; `none` leaves NaN, for a checkpoint to fill.
        config: the shape, as `config_dict` gives it; `model` is then only a name. Not with `stock`.
        config_overrides: fields of the shape to change, such as `num_hidden_layers`. Not with `stock`.
        lora_rank: of the adapters.
        lora_alpha: their product is scaled by alpha / rank.
        lora_layers: how many layers have adapters, counted from the last; 0: all.
        feature_layers: K, from the last layer down; their tokens stand beside each other, the last layer's at the end.

    Raises:
        VisionError: the weights are not there or not whole, the model is no DINOv2 or has too few layers.
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
        lora_layers: int = 0,
        feature_layers: int = 1,
    ) -> None:
        super().__init__()
        if mode not in ("lora", "frozen", "full"):
            raise ValueError(f"expected mode lora, frozen or full, came {mode!r}")
        if weights not in ("stock", "random", "none"):
            raise ValueError(f"expected weights stock, random or none, came {weights!r}")
        if weights == "stock" and (config or config_overrides):
            raise ValueError(f"expected no shape beside stock weights, came {dict(config or config_overrides or {})}")
        if weights == "stock":
            backbone = load_stock(model)
        else:
            known = config or find_shape(model)
            backbone = build({**known, **(config_overrides or {})}, model, fill=weights == "random")
        shape = backbone.config
        if mode == "lora" and lora_rank < 1:
            raise ValueError(f"expected a LoRA rank of at least 1, came {lora_rank}")
        depth = shape.num_hidden_layers
        if not 0 <= lora_layers <= depth:
            raise VisionError(f"expected lora_layers from 0 to the tower's {depth}, came {lora_layers}: {model}")
        if not 1 <= feature_layers <= depth:
            raise VisionError(f"expected feature_layers from 1 to the tower's {depth}, came {feature_layers}: {model}")
        self.mode: Mode = mode
        self.backbone = backbone.requires_grad_(mode == "full")
        for name in UNUSED & dict(backbone.named_parameters()).keys():
            backbone.get_parameter(name).requires_grad_(False)  # DDP would wait for its gradient
        if mode == "lora":
            self.backbone = _adapt(backbone, depth - (lora_layers or depth), lora_rank, lora_alpha)
            if weights == "none":
                forget(backbone)
        self.feature_layers = feature_layers
        self.width: int = feature_layers * shape.hidden_size
        self.patch_px: int = shape.patch_size
        self._first_patch = 1 + getattr(shape, "num_register_tokens", 0)
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.register_state_dict_post_hook(to_current_names)
        self.register_load_state_dict_pre_hook(to_installed_names)
        self.train()

    def config_dict(self) -> dict[str, Any]:
        """The shape as plain JSON values: with it and `weights="none"` a checkpoint needs no hub."""
        return shape_fields(self.backbone.config)

    def layers(self) -> nn.ModuleList:
        """The transformer layers, the first one first."""
        layers = self.backbone.encoder.layer
        assert isinstance(layers, nn.ModuleList)
        return layers

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
            if self.feature_layers == 1:
                return self.backbone(pixel_values=pixels).last_hidden_state[:, self._first_patch :]
            # The states of all layers live until this returns: 13 of 101 MB in fp32 for the base model at batch 128.
            out = self.backbone(pixel_values=pixels, output_hidden_states=True)
            earlier = [self.backbone.layernorm(states) for states in out.hidden_states[-self.feature_layers : -1]]
            return torch.cat([*earlier, out.last_hidden_state], dim=-1)[:, self._first_patch :]


class Compressor(nn.Module):
    """Patch tokens [B, N, in] -> [B, N, out]: linear, GELU, linear, LayerNorm. 344,832 parameters for 768-384-128."""

    def __init__(self, in_width: int, hidden: int = 384, out_width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_width, hidden), nn.GELU(), nn.Linear(hidden, out_width), nn.LayerNorm(out_width)
        )

    def forward(self, patches: Tensor) -> Tensor:
        return self.layers(patches)


def _adapt(backbone: nn.Module, first: int, rank: int, alpha: float) -> nn.Module:
    """The same tower with peft's adapters beside the query and value projection of layer `first` and those after it."""
    layers = backbone.get_submodule("encoder.layer")
    assert isinstance(layers, nn.ModuleList)
    targets = [
        f"encoder.layer.{i}.{name}"
        for i, layer in enumerate(layers)
        for name, module in layer.named_modules()
        if i >= first and isinstance(module, nn.Linear) and name.rpartition(".")[2] in LORA_TARGETS
    ]
    expected = 2 * (len(layers) - first)
    assert len(targets) == expected, f"expected {expected} query and value projections, found {targets}"
    # peft types alpha as int; it only divides by it.
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=targets)  # pyright: ignore
    return inject_adapter_in_model(config, backbone)
