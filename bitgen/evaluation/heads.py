"""What each attention head is for: how much a loss rises when what the head makes is masked.

Source: Michel, Levy and Neubig, arXiv 1905.10650, section 3: the head's output is 0 before the layer's output projection. Here
that projection normalises its input, so that the other heads of the layer are then up to √(H / (H - 1)) times as loud.

Ways, each with heads: `image I` and `text I`, the self-attention of both sides; `image I to text` and `text I to image`, the
cross-attention of fused layers; `decoder I` and `decoder I to image`; `grounding I`. I counts from 0, over fused text layers and
those before them alike.

Axes: B images, H heads, C channels of a head.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from bitgen.batch import Batch
from bitgen.boxes import enclose
from bitgen.evaluation.phrases import text_rows
from bitgen.features import unpack
from bitgen.model.bitgen import BitGen
from bitgen.model.bitlinear import ternarised_once
from bitgen.model.decoder import DecoderLayer
from bitgen.model.fusion import Attention, Layer
from bitgen.objectives.captioning import next_token_loss, predicted
from bitgen.objectives.contrastive import contrast
from bitgen.objectives.grounding import grounding_losses, phrase_coverage

LOSSES = ("contrast", "caption", "grounding")
IMAGES = 128


@dataclass(frozen=True)
class Way:
    """An attention, and the losses that it can change."""

    attention: Attention
    losses: tuple[str, ...]


def ways(model: BitGen) -> dict[str, Way]:
    """Every attention of the model outside the vision tower, by name."""
    found: dict[str, Way] = {}
    image = [cast(Layer, layer) for layer in model.image_layers]
    text = [cast(Layer, layer) for layer in (*model.text.layers, *model.text.fused_layers)]
    for side, other, layers, losses in (
        ("image", "text", image, LOSSES),
        ("text", "image", text, ("contrast", "grounding")),
    ):
        for n, layer in enumerate(layers):
            found[f"{side} {n}"] = Way(layer.attention, losses)
            if layer.cross_attention is not None:
                found[f"{side} {n} to {other}"] = Way(layer.cross_attention, ("grounding",))
    for n, layer in enumerate(cast(Iterable[DecoderLayer], model.decoder.layers)):
        found[f"decoder {n}"] = Way(layer.attention, ("caption",))
        found[f"decoder {n} to image"] = Way(layer.cross_attention, ("caption",))
    for n, attention in enumerate(model.grounding.cross_attention):
        found[f"grounding {n}"] = Way(cast(Attention, attention), ("grounding",))
    return found


@contextmanager
def without_heads(attention: Attention, heads: Sequence[int]) -> Iterator[None]:
    """Within it, what these heads of a layer make is 0. The layer is as before afterwards, whatever happens."""
    width = attention.output.in_width // attention.heads

    def mask(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        mixed = given[0].clone()
        for head in heads:
            mixed[..., head * width : (head + 1) * width] = 0
        return (mixed,)

    handle = attention.output.register_forward_pre_hook(mask)
    try:
        yield
    finally:
        handle.remove()


@ternarised_once()
def evaluate_heads(model: BitGen, batches: Iterable[Batch], most: int = IMAGES) -> dict[str, Any]:
    """The rise of each loss without each head, and without all heads of a way at once.

    The losses are those of training: `contrast` of images and first texts within a batch, `caption` of first texts with an empty
    memory, in nats a token without label smoothing, `grounding` of all phrases (5 L1 + 2 (1 - GIoU) + focal + Dice); a loss that
    `batches` do not ask for is left out. The vision tower runs once a batch, the rest once a head: some eighty times for a model of
    the usual size, which is why no further batch is taken after `most` images.

    Returns {"base": {loss: mean}, "counts": {"contrast": images, "caption": tokens, "grounding": phrases}, "batches",
    "heads": [{"way", "head" (from 0), "rise": {loss: its rise}, "error": {loss: the standard error over batches, absent with one
    batch}, "importance"}], the most important first, "ways": {way: {loss: its rise without all heads}}}, where `importance` is the
    greatest of a head's rises, each over its loss; NaN, and last, where one of them is not finite. Raises `ValueError` without a
    batch.
    """
    base: dict[str, list[tuple[float, int]]] = {}
    without: dict[tuple[str, int | None], dict[str, list[tuple[float, int]]]] = {}
    known, seen = ways(model), 0
    for batch in batches:
        patches = _patches(model, batch)
        _add(base, losses(model, batch, patches, LOSSES))
        for name, way in known.items():
            masks = [(head, [head]) for head in range(way.attention.heads)]
            for head, hidden in (*masks, (None, list(range(way.attention.heads)))):
                with without_heads(way.attention, hidden):
                    _add(without.setdefault((name, head), {}), losses(model, batch, patches, way.losses))
        seen += len(batch.keys)
        if seen >= most:
            break
    if not base:
        raise ValueError("expected one or more batches to mask heads on, found none")
    means = {loss: _mean(values) for loss, values in base.items()}
    heads, all_of = [], {}
    for (name, head), masked in without.items():
        rise = {loss: _mean(values) - means[loss] for loss, values in masked.items()}
        if head is None:
            all_of[name] = rise
            continue
        apart = {loss: [a - b for (a, _), (b, _) in zip(masked[loss], base[loss], strict=True)] for loss in masked}
        error = {loss: statistics.stdev(each) / len(each) ** 0.5 for loss, each in apart.items() if len(each) > 1}
        importance = max((value / max(means[loss], 1e-12) for loss, value in rise.items()), default=0.0)
        if not all(map(math.isfinite, rise.values())):
            importance = math.nan
        heads.append({"way": name, "head": head, "rise": rise, "error": error, "importance": importance})
    heads.sort(key=lambda each: -each["importance"] if math.isfinite(each["importance"]) else math.inf)
    counts = {loss: sum(count for _, count in values) for loss, values in base.items()}
    return {"base": means, "counts": counts, "batches": max(map(len, base.values())), "heads": heads, "ways": all_of}


@torch.inference_mode()
def losses(model: BitGen, batch: Batch, patches: Tensor, wanted: Sequence[str]) -> dict[str, tuple[float, int]]:
    """The mean of each of the `wanted` losses, and over how many images, tokens or phrases, of what the tower gives of `batch`."""
    device, found = patches.device, dict[str, tuple[float, int]]()
    image = model.encode_patches(patches)
    ids, mask = (each[batch.first_text].to(device) for each in (batch.token_ids, batch.token_mask))
    if "contrast" in wanted and len(ids) > 1:
        text, own = model.encode_text(ids, mask).embedding, torch.arange(len(ids), device=device)
        allowed = (batch.image_ids[:, None] != batch.image_ids).to(device)
        scale = model.itc_temperature()
        both = contrast(image.embedding, text, own, allowed, scale) + contrast(
            text, image.embedding, own, allowed, scale
        )
        found["contrast"] = (both.item() / 2, len(ids))
    if "caption" in wanted:
        context, seen = model.caption_context(image)
        states = model.decoder(ids, model.text.token, context, seen)
        classes, told = model.text.token.targets(ids, mask)
        if count := int(predicted(told)):
            total = next_token_loss(states, model.text.token.head, classes, told, 0.0)
            found["caption"] = (total.item() / count, count)
    phrases = len(batch.phrase_text)
    if "grounding" in wanted and phrases:
        rows = text_rows(batch)
        text = model.encode_text(rows.token_ids.to(device), rows.token_mask.to(device))
        grounded = model.ground(
            image,
            text,
            rows.text_image.to(device),
            rows.phrase_text.to(device),
            rows.phrase_slot.to(device),
            rows.phrase_tokens.to(device),
            rows.max_slots,
        )
        boxes, of = batch.boxes.to(device), batch.box_phrase.to(device)
        cover = phrase_coverage(boxes, of, phrases, round(patches.shape[1] ** 0.5))
        parts = grounding_losses(grounded, enclose(boxes, of, phrases), cover)
        total = 5 * parts["l1"] + 2 * parts["giou"] + parts["focal"] + parts["dice"]
        found["grounding"] = (total.mean().item(), phrases)
    return found


@torch.inference_mode()
def _patches(model: BitGen, batch: Batch) -> Tensor:
    device = next(model.parameters()).device
    return model.vision(batch.images.to(device)) if batch.features is None else unpack(batch.features.to(device))


def _add(into: dict[str, list[tuple[float, int]]], found: dict[str, tuple[float, int]]) -> None:
    for loss, value in found.items():
        into.setdefault(loss, []).append(value)


def _mean(seen: Sequence[tuple[float, int]]) -> float:
    return sum(value * count for value, count in seen) / sum(count for _, count in seen)
