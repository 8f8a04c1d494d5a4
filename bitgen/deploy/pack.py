"""A checkpoint's model becomes a packed file (`packed.py`): adapters merged, weights in as few bytes as they were trained for.

    ternary weights                      2 bits each, and one scale
    token embedding, which is the head   8 bits each, and a scale a row
    other weights of two axes or more    fp16
    biases, norms, gates, the memory     fp32

`tower.py` puts the tower, and with it most of the last two, into fewer.

What changes in a model's answers comes from the embedding's and the fp16 rounding alone: ternary layers are packed as they
compute.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor

from bitgen.deploy.layout import pack_ternary, quantise_rows
from bitgen.deploy.packed import (
    CODES,
    FORMAT_VERSION,
    KEY,
    POSITIONS,
    ROWS,
    SCALE,
    SCALES,
    Facts,
    PackedError,
    in_half,
    tokenizer_sha256,
)
from bitgen.model.bitgen import BitGen
from bitgen.model.bitlinear import BitLinear, ternarise
from bitgen.tokens import EOT, VOCABULARY
from bitgen.training.checkpoint import State

TOKEN, KEPT = "text.token.weight", "text.token.kept"
TOWER = "vision.backbone."
_UNUSED = f"{TOWER}embeddings.mask_token"


def pack(
    model: BitGen, state: State, path: Path, *, tokens: Sequence[int] | None = None, weight_bits: int = 8
) -> Facts:
    """Write `model` to `path`, whole or not at all; the same model always gives the same bytes.

    Args:
        model: in evaluation mode, on any device; it stays as it is.
        state: of its checkpoint.
        tokens: ids to keep rows for, of those that the model has; end-of-text is kept in any case. None: all.
        weight_bits: of the embedding's rows: 8, or 7 for CPUs on which 8 overflow (`layout.py`).

    Raises `PackedError` for a weight that fp16 cannot hold and for a tower with another feed-forward layer than DINOv2's small,
    base and large models have, `OSError` where the file cannot be written.
    """
    if model.vision.config_dict().get("use_swiglu_ffn"):
        raise PackedError("expected a vision tower with a GELU in its feed-forward layers, found SwiGLU (DINOv2-giant)")
    data = state.config.data
    weights = merged(model, data.image_px)
    config = model.config
    if tokens is not None:
        weights, kept = trimmed(weights, tokens)
        config = replace(config, vocabulary=len(kept))
    ternary = {n: m for n, m in model.named_modules() if isinstance(m, BitLinear) and m.ternary}
    facts = Facts(
        config=replace(config, vision=replace(config.vision, mode="frozen", weights="random")),
        vision={**model.vision.config_dict(), "image_size": data.image_px},
        image_px=data.image_px,
        max_tokens=data.max_tokens,
        in_widths={name: module.in_width for name, module in ternary.items()},
        weight_bits=weight_bits,
        tower="fp16",
        tokenizer_sha256=tokenizer_sha256(),
        holdout_sha256=state.holdout_sha256,
        run=state.config.run.name,
        phase=state.config.phase,
        step=state.step,
    )
    tensors: dict[str, NDArray[Any]] = {}
    for name, weight in weights.items():
        stem = name.removesuffix(".weight")
        if stem in ternary:
            codes, scale = ternarise(weight)
            tensors[stem + CODES], tensors[stem + SCALE] = pack_ternary(codes.numpy()), scale.numpy()
        elif name == TOKEN:
            tensors[stem + ROWS], tensors[stem + SCALES] = quantise_rows(weight.numpy(), weight_bits)
        else:
            tensors[name] = plain(name, weight)
    write(path, tensors, facts)
    return facts


@torch.no_grad()
def merged(model: BitGen, image_px: int) -> dict[str, Tensor]:
    """The model's tensors on the CPU, by name: adapters added to the weights beside them, positions for images of that side."""
    vision, modules = model.vision, dict(model.named_modules())
    found = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items() if name != _UNUSED}
    for name in [name for name in found if ".lora_A." in name]:
        stem = name.partition(".lora_A.")[0]
        adapted: Any = modules.get(stem) or modules[to_installed(stem)]
        low, high = found.pop(name), found.pop(name.replace(".lora_A.", ".lora_B."))
        base = f"{stem}.base_layer.weight"
        found[base] = found[base] + adapted.scaling["default"] * (high.float() @ low.float())
    grid = (image_px // vision.patch_px) ** 2
    embeddings = vision.backbone.embeddings
    positions = embeddings.position_embeddings
    like = positions.new_empty(1, 1 + grid, positions.shape[-1])
    found[POSITIONS] = embeddings.interpolate_pos_encoding(like, image_px, image_px).cpu()
    return {name.replace(".base_layer.", "."): tensor for name, tensor in found.items()}


def trimmed(weights: Mapping[str, Tensor], tokens: Sequence[int]) -> tuple[dict[str, Tensor], list[int]]:
    """The tensors with rows for `tokens` alone, end-of-text among them, and one row for any other; and the ids of those.

    The row of all others is the one that the model has for them, and zeros where it has a row for every token, as in training.
    Tokens that share it already go on doing so. Raises `PackedError` for ids that are none of GPT-2's.
    """
    if any(not 0 <= token < VOCABULARY for token in tokens):
        raise PackedError(f"expected token ids from 0 to {VOCABULARY - 1}, found {min(tokens)} to {max(tokens)}")
    rows = weights[TOKEN]
    had = weights[KEPT].tolist() if KEPT in weights else range(VOCABULARY)
    row_of = {token: row for row, token in enumerate(had)}
    kept = sorted({*tokens, EOT} & row_of.keys())
    if len(kept) == VOCABULARY:
        return dict(weights), kept
    other = rows[len(had) :] if KEPT in weights else rows.new_zeros(1, rows.shape[1])
    chosen = torch.cat([rows[[row_of[token] for token in kept]], other])
    return {**weights, TOKEN: chosen, KEPT: torch.tensor(kept)}, kept


def plain(name: str, weight: Tensor) -> NDArray[Any]:
    """As the file holds it. Raises `PackedError` where it does not fit."""
    if not weight.is_floating_point():
        return weight.numpy().astype(np.uint16)  # ids of tokens, up to 50,256
    wide = weight.float().numpy()
    if wide.ndim < 2 or name.startswith("memory."):
        return wide
    return in_half(name, wide)


def write(path: Path, tensors: Mapping[str, NDArray[Any]], facts: Facts) -> None:
    """The file whole or not at all. Raises `OSError`."""
    fields = {"format_version": FORMAT_VERSION, **dataclasses.asdict(facts)}
    # One entry: safetensors writes several in an order that changes from process to process.
    content = save(dict(tensors), {KEY: json.dumps(fields, sort_keys=True)})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def to_installed(name: str) -> str:
    """The name of a tower's module in transformers 4, of what transformers 5 calls it."""
    for old in ("query", "key", "value"):
        name = name.replace(f".attention.{old[0]}_proj", f".attention.attention.{old}")
    return name.replace(".attention.o_proj", ".attention.output.dense")
