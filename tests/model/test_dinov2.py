"""What the tower makes of positions, registers and attention, against slow references with random weights."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bitgen.model.vision import VisionTower

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 224}


def _images(side: int) -> Tensor:
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def _tower(mode: str = "lora", **fields: object) -> VisionTower:
    """Random weights that matter: positions and adapters as large as what they are added to."""
    torch.manual_seed(0)
    tower = VisionTower("tiny", mode, "random", config={"model_type": "dinov2", **TINY, **fields})  # pyright: ignore
    torch.nn.init.normal_(tower.backbone.embeddings.position_embeddings)
    for _, parameter in tower.lora_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return tower


def _cubic(distance: float) -> float:
    """Keys' kernel at -0.75: the weight of a sample at that distance."""
    t, a = abs(distance), -0.75
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def _resampled(grid: np.ndarray, size: int) -> np.ndarray:
    """[size, size, D] of [n, n, D]: bicubic, centres aligned, the border repeated, one sample after the other."""
    n = grid.shape[0]
    weights = np.zeros((size, n))
    for i in range(size):
        centre = (i + 0.5) * n / size - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            weights[i, min(max(j, 0), n - 1)] += _cubic(centre - j)
    return np.einsum("ia,jb,abd->ijd", weights, weights, grid)


@torch.no_grad()
@pytest.mark.parametrize("side", [112, 336, 448])
def test_another_size_sees_the_positions_of_224_px_interpolated(side: int) -> None:
    tower, native = _tower(), _tower(image_size=side)
    state = tower.state_dict()
    name = "backbone.embeddings.position_embeddings"
    first, grid = state[name][0, :1], state[name][0, 1:].view(16, 16, -1).double().numpy()
    resampled = torch.from_numpy(_resampled(grid, side // 14)).float().flatten(0, 1)
    native.load_state_dict({**state, name: torch.cat([first, resampled])[None]})
    torch.testing.assert_close(tower(_images(side)), native(_images(side)), rtol=0, atol=1e-4)


def _patch_embeddings(tower: VisionTower, images: Tensor) -> np.ndarray:
    """[B, N, D] in double precision: pixels times weights, patch by patch, row by row, plus the position of the patch."""
    conv, positions = (
        tower.backbone.embeddings.patch_embeddings.projection,
        tower.backbone.embeddings.position_embeddings,
    )
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = (images.double().numpy() / 255 - mean[:, None, None]) / std[:, None, None]
    side, weight = images.shape[-1] // 14, conv.weight.detach().double().numpy()
    rows = [
        np.einsum("bcyx,dcyx->bd", pixels[:, :, 14 * y : 14 * y + 14, 14 * x : 14 * x + 14], weight)
        for y in range(side)
        for x in range(side)
    ]
    return np.stack(rows, axis=1) + conv.bias.detach().double().numpy() + positions[0, 1:].detach().double().numpy()


@torch.no_grad()
@pytest.mark.parametrize("registers", [0, 1, 4])
def test_every_token_is_that_of_its_patch_and_none_is_a_register(registers: int) -> None:
    """Where layers add nothing, a token is its patch's embedding under the last norm."""
    kind = "dinov2_with_registers" if registers else "dinov2"
    tower = _tower("frozen", model_type=kind, num_register_tokens=registers, image_size=56)
    for layer in tower.backbone.encoder.layer:
        torch.nn.init.zeros_(layer.layer_scale1.lambda1)
        torch.nn.init.zeros_(layer.layer_scale2.lambda1)
    for name, parameter in tower.backbone.embeddings.named_parameters():
        if name in ("cls_token", "register_tokens"):
            torch.nn.init.normal_(parameter, std=10)
    tokens = _patch_embeddings(tower, _images(56))
    centred = tokens - tokens.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(tower(_images(56)).double().numpy(), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_patches_see_the_registers() -> None:
    tower = _tower(model_type="dinov2_with_registers", num_register_tokens=3, image_size=56)
    before = tower(_images(56))
    torch.nn.init.normal_(tower.backbone.embeddings.register_tokens)
    assert (tower(_images(56)) - before).abs().max() > 1e-3


@dataclass
class _Attention(TorchFunctionMode):
    """Notes the type of the queries of every fused attention."""

    types: list[torch.dtype] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            self.types.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


MODES = pytest.mark.parametrize("mode", ["lora", "frozen", "full"])


@MODES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_layer_attends_by_the_fused_kernel(mode: str, dtype: torch.dtype) -> None:
    tower = _tower(mode)
    with _Attention() as seen, torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        tower(_images(56))
    assert seen.types == [dtype] * 2


@torch.no_grad()
@MODES
def test_attention_written_out_gives_the_same_features(mode: str) -> None:
    tower = _tower(mode)
    fused = tower(_images(56))
    tower.backbone.config._attn_implementation = "eager"
    with _Attention() as seen:
        written_out = tower(_images(56))
    assert seen.types == []
    torch.testing.assert_close(written_out, fused, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("implementation", "kept"), [("sdpa", 0), ("eager", 4)])
def test_fused_attention_keeps_no_matrix_of_scores(implementation: str, kept: int) -> None:
    tower = _tower()
    tower.backbone.config._attn_implementation = implementation
    shapes: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: shapes.append(tuple(x.shape)) or x, lambda x: x):
        tower(_images(56))
    assert len([shape for shape in shapes if shape[-2:] == (17, 17)]) == kept
