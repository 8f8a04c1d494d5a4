"""What a run will be, before it starts: parameters part by part, steps, an estimate of the memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from bitgen.model.bitgen import BitGen, build_tower
from bitgen.objectives.captioning import chunk_bytes
from bitgen.objectives.total import Objective
from bitgen.training.config import TrainConfig
from bitgen.training.graphs import captures
from bitgen.training.optimizer import set_trainable
from bitgen.training.precision import precision
from bitgen.training.schedule import Schedule

TYPICAL_TEXT_TOKENS = 32
"""The bucket that the memory estimate assumes."""


@dataclass(frozen=True)
class Part:
    """A row of the parameter table: how many numbers of each kind."""

    name: str
    frozen: int
    lora: int
    trained: int
    """Without the adapters."""


_PARTS: Mapping[str, tuple[str, ...]] = {
    "vision tower (DINOv2)": ("vision.",),
    "compressor": ("compressor.",),
    "image-side layers": ("image_layers.", "image_norm."),
    "token embedding (tied with the decoder's head)": ("text.token.",),
    "text encoder": ("text.",),
    "contrast heads": (
        "image_pool.",
        "image_projection.",
        "text_projection.",
        "itc_temperature.",
        "region_temperature.",
    ),
    "matching head": ("match_",),
    "episodic memory": ("memory.", "reading_projection."),
    "caption decoder": ("decoder.",),
    "grounding head": ("grounding.",),
}
"""Part to the prefixes of its parameters' names; the first part that fits counts them."""


def build_shape(config: TrainConfig) -> Objective:
    """The run's objective without weights, on the meta device where the tower allows: for counting only."""
    vision = config.model.vision
    tower = None
    if vision.weights == "stock":
        tower = build_tower(vision, empty=True)
    with torch.device("meta"):
        return Objective(BitGen(config.model, tower), config.loss, config.data)


def count_parameters(objective: Objective) -> list[Part]:
    """The table of a phase after the thaw: every parameter of the model in exactly one row and column."""
    set_trainable(objective, lora=True)
    return parameter_table(objective.model)


def parameter_table(model: BitGen) -> list[Part]:
    """Of a model as it is: a parameter that takes no gradient is frozen."""
    counts = {name: [0, 0, 0] for name in _PARTS}
    for name, parameter in model.named_parameters():
        part = next(part for part, prefixes in _PARTS.items() if name.startswith(prefixes))
        column = 0 if not parameter.requires_grad else 1 if ".lora_" in name else 2
        counts[part][column] += parameter.numel()
    return [Part(name, *columns) for name, columns in counts.items()]


def format_parameters(parts: list[Part]) -> str:
    """The table as text, with a sum."""
    total = Part("sum", *(sum(getattr(part, name) for part in parts) for name in ("frozen", "lora", "trained")))
    lines = [f"{'part':<48}{'frozen':>14}{'LoRA':>12}{'trained':>14}"]
    lines += [f"{p.name:<48}{p.frozen:>14,}{p.lora:>12,}{p.trained:>14,}" for p in [*parts, total]]
    return "\n".join(lines)


def estimate_memory(config: TrainConfig, objective: Objective, ranks: int) -> dict[str, int]:
    """Bytes on one device, by what they hold; an estimate for a step after the thaw.

    Weights are float32; what trains has a gradient and two moments beside it. A transformer layer that trains keeps about
    34 bytes a token and unit of width in 16 bits, twice that in 32 (Source: arXiv 2205.05198, section 4.1, without the
    attention scores, which fused attention does not keep); a ternary one keeps 32 bits in any case. Recomputed, layers keep
    their inputs, in 32 bits, and one of them at a time all of it.
    """
    model, images = objective.model, config.optim.batch // ranks
    weights = sum(p.numel() for p in model.parameters()) * 4
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) * 12
    device = torch.device("cpu" if config.run.device == "cpu" or not torch.cuda.is_available() else "cuda")
    is_half = precision(config.run.precision, device) is torch.bfloat16
    per_unit = 34 if is_half else 68

    def kept(depth: int, whole: int) -> int:
        """Bytes a token and unit of width that so many layers keep, one of which would keep `whole`."""
        return 4 * depth + whole if config.run.recompute and depth else depth * whole

    patches = (config.data.image_px // model.vision.patch_px) ** 2
    shape, vision = model.vision.config_dict(), config.model.vision
    layers = (vision.lora_layers if vision.mode == "lora" else 0) or shape["num_hidden_layers"]
    tower_trains = any(p.requires_grad for p in model.vision.parameters())
    tower = images * (patches + 1) * shape["hidden_size"] * kept(layers * tower_trains, per_unit)
    tower += images * patches * model.vision.width * (2 if is_half else 4)  # what the compressor keeps of its input
    texts = images * config.data.texts_per_image
    pairs = 3 * images * bool(config.loss.itm) + texts * bool(config.loss.grounding)
    per_own = max(per_unit, 68 * config.model.ternary)
    own = kept(config.model.fusion_layers, per_own) * (images + pairs) * patches
    own += kept(config.model.text_layers, per_own) * (texts + pairs) * TYPICAL_TEXT_TOKENS
    own += kept(config.model.decoder_layers, per_own) * images * (TYPICAL_TEXT_TOKENS + patches)
    states = objective.token_queue.buffers() if objective.token_queue is not None else ()
    own *= config.model.width
    return {
        "weights": weights,
        "gradients and moments": trained,
        "vision activations": tower,
        "other activations": own,
        "graphs": (tower + own)
        * captures(config, device),  # while a shape runs as written, the others' graphs keep theirs
        "caption logits": 2 * chunk_bytes(device.type),
        "queue": config.loss.queue * config.model.width * 8 + sum(buffer.nbytes for buffer in states),
    }


def format_run(
    config: TrainConfig, sizes: Mapping[str, int], shares: Mapping[str, float], schedule: Schedule, samples: int
) -> str:
    """Mixture and steps as text.

    Args:
        sizes: samples of each dataset in the mixture, 0 where it is not built yet.
        shares: of the draws, 0..1, of each dataset that is built and not left out.
    """
    data = config.data
    lines = ["data mixture" if data.size_power == 1 else f"data mixture by weight x samples ** {data.size_power:g}"]
    for name, weight in data.mixture.items():
        share = f"{shares.get(name, 0):6.1%} of draws" if sizes[name] else "not built yet"
        lines.append(f"  {name:<36}{sizes[name]:>12,} samples  weight {weight:<6g} {share}")
    draws = config.optim.batch * config.optim.accumulation
    if not samples:
        lines.append(f"epochs {config.optim.epochs}; the steps follow from the shards, which are not built yet")
        return "\n".join(lines)
    lines.append(
        f"epochs {config.optim.epochs} x {samples:,} draws = {schedule.steps:,} steps of {draws} images"
        f" ({config.optim.batch} x {config.optim.accumulation} micro-steps)"
    )
    if schedule.thaw_step:
        lines.append(f"LoRA adapters thaw at step {schedule.thaw_step:,}")
    return "\n".join(lines)


def format_memory(estimate: Mapping[str, int]) -> str:
    """The estimate as text, with a sum."""
    rows = [*estimate.items(), ("sum", sum(estimate.values()))]
    return "\n".join(
        ["memory of one device, estimated", *(f"  {name:<36}{size / 2**20:>12,.0f} MiB" for name, size in rows)]
    )
