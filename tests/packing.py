"""Small models, packed: random weights with open gates and adapters that do something."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitgen.deploy.pack import pack, write
from bitgen.deploy.packed import FILE, Facts, Packed, read
from bitgen.deploy.tower import calibrate, in_bytes
from bitgen.model.bitgen import BitGen, build_tower
from bitgen.model.vision import VisionTower
from bitgen.training.checkpoint import State
from bitgen.training.config import VisionConfig
from tests import fakes


def model(seed: int = 0, vision: dict[str, Any] | None = None, **fields: Any) -> BitGen:
    """A tiny model, of `ModelConfig` fields, whose every part moves its answers; `kept` as `BitGen` takes it, `registers` of its
    tower, whose fields are `vision`."""
    tower: VisionConfig = replace(fakes.VISION, **(vision or {}))
    kept, registers = fields.pop("kept", None), fields.pop("registers", 0)
    torch.manual_seed(seed)
    vision_tower = build_tower(tower)
    if registers:
        shape = {**vision_tower.config_dict(), "model_type": "dinov2_with_registers", "num_register_tokens": registers}
        vision_tower = VisionTower("random", tower.mode, "random", config=shape, feature_layers=tower.feature_layers)
    network = BitGen(replace(fakes.MODEL, vision=tower, **fields), vision_tower, kept).eval()
    with torch.no_grad():
        for gate in network.gates().values():
            gate.fill_(0.7)
        for name, parameter in network.named_parameters():
            if ".lora_B." in name or name.endswith(("lambda1", "bias", "cls_token", "register_tokens")):
                parameter.normal_(std=0.3)
            if name.endswith("norm.weight") or "position" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


def state(network: BitGen) -> State:
    config = fakes.config("fine")
    config = replace(config, model=network.config)
    return State(8, 0, 16, config, "ab" * 32, network.vision.config_dict())


def put_in_bytes(folder: Path, weight_bits: int = 8) -> Packed:
    """The packed model of a folder, put into bytes there by images of noise."""
    fp16 = read(folder)
    shape = (8, 3, fp16.facts.image_px, fp16.facts.image_px)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write(folder / FILE, *in_bytes(fp16, calibrate(fp16, [images[:4], images[4:]]), weight_bits))
    return read(folder)


def packed(folder: Path, network: BitGen, **options: Any) -> tuple[Path, Facts]:
    """The packed file of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    return path, pack(network, state(network), path, **options)
