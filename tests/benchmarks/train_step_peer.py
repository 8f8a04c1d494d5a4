"""A training step of open_clip, as its own `open_clip_train` takes one with its defaults for ViT-B/16.

Everything trains, at 224 pixels, on an image and its first caption. The optimizer's groups and numbers, the gradient of both
losses and the bound on the temperature are those of its trainer; precision is ours: fp32 on a CPU, `amp_bf16` elsewhere.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bitgen.batch import Batch
from bitgen.model.vision import IMAGENET_MEAN, IMAGENET_STD
from bitgen.training.config import TrainConfig
from bitgen.training.precision import autocast

REQUIREMENT = "open_clip_torch==3.3.0"
DOCUMENTATION = "https://github.com/mlfoundations/open_clip#training-clip"
MODELS = {"base": "ViT-B-16", "small": "ViT-S-16", "tiny": "ViT-S-16"}
"""By the size of our tower."""
LR, BETAS, EPS, WEIGHT_DECAY = 5e-4, (0.9, 0.98), 1e-6, 0.2
"""Source: open_clip_train/params.py, for a ViT."""


def step(
    texts: Sequence[Sequence[str]], tower: str, config: TrainConfig, device: torch.device
) -> Callable[[int, Batch], object]:
    """What takes a step on the images of a batch, whose captions are those of its number."""
    import open_clip  # pyright: ignore[reportMissingImports] (in an environment of its own)

    torch.use_deterministic_algorithms(False)  # its trainer does not ask for them
    model: Any = open_clip.create_model(MODELS[tower], device=device, output_dict=True)
    tokens = [tokens.to(device) for tokens in map(open_clip.get_tokenizer(MODELS[tower]), texts)]
    loss: Any = open_clip.ClipLoss()
    optimizer = _optimizer(model)
    mean, std = (255 * torch.tensor(each).view(3, 1, 1).to(device) for each in (IMAGENET_MEAN, IMAGENET_STD))

    def take(number: int, batch: Batch) -> Tensor:
        images = (batch.images.to(device, non_blocking=True).float() - mean) / std
        optimizer.zero_grad()
        with autocast(config, device):
            out = model(images, tokens[number])
            total = loss(out["image_features"], out["text_features"], out["logit_scale"])
        total.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return total

    return take


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Without weight decay on vectors, norms, biases and the temperature."""
    plain, decayed = [], []
    for name, parameter in model.named_parameters():
        is_plain = parameter.ndim < 2 or any(word in name for word in ("bn", "ln", "bias", "logit_scale"))
        (plain if is_plain else decayed).append(parameter)
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": WEIGHT_DECAY}]
    return torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
