"""What is seen of a step beside its losses: norms and rates by group of the optimizer, and the line on the terminal."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

PARTS = ("itc", "itm", "text", "grounding", "region", "words", "memory_kl")
"""The losses whose weighted sum is `loss`, as the line shows them."""


@torch.no_grad()
def gradient_norms(optimizer: torch.optim.Optimizer, device: torch.device) -> dict[str, Tensor]:
    """The norm of the gradient of each group, as `grad_norm_NAME`; 0 where it has none, as adapters before the thaw."""
    found = {}
    for group in optimizer.param_groups:
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=device)
        found[f"grad_norm_{group['name']}"] = norm
    return found


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The learning rate of each group in the last step, as `lr_NAME`."""
    return {f"lr_{group['name']}": group["lr"] for group in optimizer.param_groups}


def terminal_line(values: Mapping[str, float], rate: float) -> str:
    """The figures of a line of metrics.jsonl that one looks at while a run trains, in few characters:
    `loss 3.214 (itc 2.104, itm 0.633), lr 2.0e-04, 318 images/s, waits 2%`."""
    parts = ", ".join(f"{name} {values[name]:.3f}" for name in PARTS if name in values)
    speed, waits = values.get("images_per_s", math.nan), values.get("data_wait", math.nan)
    pace = f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"
    loss = f"loss {values.get('loss', math.nan):.3f}"
    return f"{loss}{f' ({parts})' * bool(parts)}, lr {rate:.1e}, {pace} images/s, waits {waits:.0%}"
