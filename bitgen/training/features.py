"""The patch features of a tower that stays as it is: which tower that is, and how its features are made."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from bitgen.features import FeatureForm, Kind
from bitgen.model.dinov2 import UNUSED
from bitgen.model.vision import VisionTower
from bitgen.training.config import TrainConfig
from bitgen.training.schedule import Schedule

BATCH = 32
"""Images that the tower sees at a time. A shard's are always batched alike, from its first one on: what a matrix product
rounds to may depend on how many rows it has."""
_VERSION = 1
"""Raised when the same tower and images give other features."""


@dataclass(frozen=True)
class FeatureRecipe:
    """What features depend on, beside the images."""

    tower: str
    """`tower_sha256`."""
    image_px: int
    """Side of the square that the whole image is resized to."""
    feature_layers: int
    form: FeatureForm
    precision: str
    """What the tower computes in: fp32 or bf16."""

    @staticmethod
    def of(tower: VisionTower, image_px: int, kind: Kind, precision: torch.dtype) -> "FeatureRecipe":
        """The recipe of a tower with its weights loaded."""
        form = FeatureForm((image_px // tower.patch_px) ** 2, tower.width, kind)
        name = "bf16" if precision is torch.bfloat16 else "fp32"
        return FeatureRecipe(tower_sha256(tower), image_px, tower.feature_layers, form, name)

    def said(self) -> dict[str, str | int]:
        """As JSON has it."""
        form = asdict(self.form)
        return {**{k: v for k, v in asdict(self).items() if k != "form"}, **form, "version": _VERSION}

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.said(), sort_keys=True).encode()).hexdigest()


def tower_sha256(tower: VisionTower) -> str:
    """Equal where features are equal: a digest of shape and weights, adapters among them once they are not idle.

    An adapter whose second matrix is still zero adds nothing, so that towers with and without one are the same; its first
    matrix is drawn anew in every run.
    """
    state = {name.replace(".base_layer.", "."): tensor for name, tensor in tower.state_dict().items()}
    scales = {name: module.scaling for name, module in tower.named_modules() if isinstance(module, LoraLayer)}
    busy = {name.partition(".lora_B.")[0] for name, tensor in state.items() if ".lora_B." in name and tensor.any()}
    digest = hashlib.sha256(json.dumps([tower.config_dict(), scales if busy else {}], sort_keys=True).encode())
    for name in sorted(state):
        module, is_adapter, _ = name.partition(".lora_")
        if (is_adapter and module not in busy) or name.removeprefix("backbone.") in UNUSED:
            continue
        digest.update(f"{name} {list(state[name].shape)}".encode())
        digest.update(state[name].detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def constant_steps(config: TrainConfig, schedule: Schedule) -> int:
    """Steps from the start of a run in which its tower stays as it is."""
    return schedule.steps if config.model.vision.mode == "frozen" else schedule.thaw_step


@torch.no_grad()
def members(tower: VisionTower, recipe: FeatureRecipe, images: Tensor, is_readable: list[bool]) -> Iterator[bytes]:
    """A `.npy` member for each of `images` [B, 3, S, S] uint8; where one `is_readable` not, the one that says so."""
    device = next(tower.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        features = tower(images.to(device, non_blocking=True))
    made = recipe.form.members(features)
    return (member if fine else recipe.form.absent for member, fine in zip(made, is_readable, strict=True))
