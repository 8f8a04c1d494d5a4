"""Which numbers a run computes in."""

import torch

from bitgen.training.config import TrainConfig


def precision(wanted: str, device: torch.device) -> torch.dtype:
    """What `run.precision` means on a device: `auto` is bfloat16 on an accelerator that has it, float32 elsewhere."""
    if wanted == "auto":
        wanted = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """The autocast that `run.precision` asks for."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=precision(config.run.precision, device) is torch.bfloat16
    )
