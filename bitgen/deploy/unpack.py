"""A packed file becomes the torch model again: what it computes is what every runtime of that file is to compute."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bitgen.deploy.layout import latent
from bitgen.deploy.pack import KEPT, to_installed
from bitgen.deploy.packed import (
    CODES,
    INPUT_SCALE,
    INPUT_ZERO,
    POSITIONS,
    ROWS,
    SCALE,
    SCALES,
    Packed,
    PackedError,
    read,
)
from bitgen.model.bitgen import BitGen, build_tower
from bitgen.model.vision import VisionError


def load(path: str | Path) -> tuple[BitGen, Packed]:
    """The model of a packed file, in evaluation mode on the CPU, in fp32. Raises `PackedError`."""
    packed = read(path)
    facts = packed.facts
    tensors = weights(packed)
    try:
        tower = build_tower(facts.config.vision, empty=True, shape=facts.vision)
        kept = tensors.get(KEPT)
        model = BitGen(facts.config, tower, None if kept is None else kept.tolist())
        missing, unknown = model.load_state_dict(tensors, strict=False)
    except (VisionError, ValueError, TypeError, RuntimeError) as error:
        raise PackedError(
            f"expected the tensors of the model that the file names, found {error}: {packed.path}"
        ) from error
    unused = [name for name in missing if name.endswith(".mask_token")]
    missing = [name for name in missing if name not in unused]
    if unknown or missing:
        raise PackedError(
            f"expected the tensors of the model that the file names, found missing {missing[:3]}, unknown {unknown[:3]}: "
            f"{packed.path}"
        )
    with torch.no_grad():
        for name in unused:
            model.get_parameter(name).zero_()
    _quantise_inputs(model, packed)
    return model.eval(), packed


def _quantise_inputs(model: BitGen, packed: Packed) -> None:
    """Linear maps in bytes see their inputs as the integer product does, in 8 bits."""
    modules = dict(model.named_modules())
    for name in packed.tensors:
        stem, _, kind = name.rpartition(".")
        if f".{kind}" == INPUT_SCALE:
            module = modules.get(stem) or modules[to_installed(stem)]
            step, zero = float(packed.tensors[name]), float(packed.tensors[stem + INPUT_ZERO])
            module.register_forward_pre_hook(partial(_rounded, step, zero))


def _rounded(step: float, zero: float, _: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    codes = (given[0] / step).round().add(zero).clamp(0, 255)
    return ((codes - zero) * step, *given[1:])


def weights(packed: Packed) -> dict[str, Tensor]:
    """By the model's names, in fp32; a ternary layer's are such as become its codes and its scale, bit for bit."""
    found: dict[str, Tensor] = {}
    for name, tensor in packed.tensors.items():
        stem, _, kind = name.rpartition(".")
        if f".{kind}" == CODES:
            scale = np.float32(packed.tensors[stem + SCALE])
            found[f"{stem}.weight"] = torch.from_numpy(latent(packed.ternary(stem), scale))
        elif f".{kind}" == ROWS:
            whole = stem if stem == POSITIONS else f"{stem}.weight"
            found[whole] = torch.from_numpy(packed.floats(whole))
        elif name == KEPT:
            found[name] = torch.from_numpy(tensor.astype(np.int64))
        elif f".{kind}" not in (SCALE, SCALES, INPUT_SCALE, INPUT_ZERO):
            found[name] = torch.from_numpy(packed.floats(name))
    return found
