"""What each attention head is for: how much a loss rises when what the head makes is masked.

Source: Michel, Levy and Neubig, arXiv 1905.10650, section 3: the head's output is 0 before the layer's output projection. Here
that projection normalises its input, so that the other heads of the layer are then up to √(H / (H - 1)) times as loud.

Ways, each with heads: `image I` and `text I`, the self-attention of both sides; `image I to text` and `text I to image`, the
cross-attention of fused layers; `decoder I` and `decoder I to image`; `grounding I`. I counts from 0, over fused text layers and
those before them alike.

Axes: B images, H heads, C channels of a head, P images, tokens or phrases.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitgen.batch import Batch
from bitgen.boxes import enclose
from bitgen.evaluation.bootstrap import RESAMPLES, percentiles, resampled_means, stated
from bitgen.evaluation.phrases import text_rows
from bitgen.features import unpack
from bitgen.model.bitgen import BitGen
from bitgen.model.bitlinear import ternarised_once
from bitgen.model.decoder import DecoderLayer
from bitgen.model.fusion import Attention, Layer
from bitgen.objectives.contrastive import contrast
from bitgen.objectives.grounding import grounding_losses, phrase_coverage

LOSSES = ("contrast", "caption", "grounding")
IMAGES, AT_ONCE = 128, 64
"""Of a set, evenly spaced, and of a batch, whatever other tasks take at a time."""
_TOKENS = 166
"""Whose logits live at one time: 32 MB at 50,257 classes."""
_LEAST = 1e-12
"""Instead of a loss of 0, where something is divided by it."""


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
def evaluate_heads(
    model: BitGen, batches: Iterable[Batch], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The rise of each loss without each head, and without all heads of a way at once.

    The losses are those of training: `contrast` of images and first texts within a batch, `caption` of first texts with an empty
    memory, in nats a token without label smoothing, `grounding` of all phrases (5 L1 + 2 (1 - GIoU) + focal + Dice); a loss that
    `batches` do not ask for is left out. The vision tower runs once a batch, the rest once a head: some eighty times for a model of
    the usual size, which is why `IMAGES` are enough; and since an image's contrast is with those of its batch, figures compare
    between batches of one size alone, `AT_ONCE`.

    Args:
        seed: of the intervals; resamples: likewise.

    Returns {"base": {loss: mean}, "counts": {"contrast": images, "caption": tokens, "grounding": phrases}, "images", "batch" (the
    images of the largest batch), "bootstrap": as `bootstrap.stated`, "heads": [{"way", "head" (from 0), "rise": {loss: its rise},
    "importance", "interval": {loss: [low, high] of its rise, "importance": ...}}], the most important first, "ways": {way: {loss:
    its rise without all heads, "interval"}}}, where `importance` is the greatest of a head's rises, each over its loss; NaN, and
    last, where one of them is not finite. Intervals are by photograph, the others of its batch as they are. Raises `ValueError`
    without a batch.
    """
    seen: dict[str, _Seen] = {}
    known, photographs, largest = ways(model), list[Tensor](), 0
    for batch in batches:
        patches = _patches(model, batch)
        for loss, (values, rows) in losses(model, batch, patches, LOSSES).items():
            into = seen.setdefault(loss, _Seen())
            into.photographs.append(batch.image_ids[rows])
            into.add(None, values)
        for name, way in known.items():
            masks = [(head, [head]) for head in range(way.attention.heads)]
            for head, hidden in (*masks, (None, list(range(way.attention.heads)))):
                with without_heads(way.attention, hidden):
                    for loss, (values, _) in losses(model, batch, patches, way.losses).items():
                        seen[loss].add((name, head), values)
        photographs.append(batch.image_ids)
        largest = max(largest, len(batch.keys))
    if not photographs:
        raise ValueError("expected one or more batches to mask heads on, found none")
    rises = {loss: each.rises(seed, resamples) for loss, each in seen.items()}
    heads, all_of = list[dict[str, Any]](), dict[str, dict[str, Any]]()
    for name, way in known.items():
        for head in (*range(way.attention.heads), None):
            own = {loss: found[name, head] for loss, found in rises.items() if (name, head) in found}
            rise = {loss: each.mean for loss, each in own.items()}
            interval = {loss: each.ends for loss, each in own.items() if each.ends}
            if head is None:
                all_of[name] = {**rise, "interval": interval}
                continue
            most = max(own.values(), key=lambda each: each.share, default=Rise(0.0, [], 0.0, []))
            importance = most.share if all(map(math.isfinite, rise.values())) else math.nan
            if most.share_ends and math.isfinite(importance):
                interval["importance"] = most.share_ends
            heads.append({"way": name, "head": head, "rise": rise, "importance": importance, "interval": interval})
    heads.sort(key=lambda each: -each["importance"] if math.isfinite(each["importance"]) else math.inf)
    ids = torch.cat(photographs)
    return {
        "base": {loss: float(torch.cat(each.values[None]).mean()) for loss, each in seen.items()},
        "counts": {loss: sum(map(len, each.photographs)) for loss, each in seen.items()},
        "images": len(ids),
        "batch": largest,
        "bootstrap": stated(ids.numpy(), seed, resamples),
        "heads": heads,
        "ways": all_of,
    }


@dataclass(frozen=True)
class Rise:
    """Of a loss without a head, and over the loss; with the ends of their intervals, empty of a single photograph."""

    mean: float
    ends: list[float]
    share: float
    share_ends: list[float]


class _Seen:
    """What a loss was of each of P images, tokens or phrases, with all heads (None) and without some."""

    def __init__(self) -> None:
        self.photographs: list[Tensor] = []
        """[P] in parts."""
        self.values: dict[tuple[str, int | None] | None, list[Tensor]] = {}
        """[P] in parts, float64."""

    def add(self, masked: tuple[str, int | None] | None, values: Tensor) -> None:
        self.values.setdefault(masked, []).append(values.double().cpu())

    def rises(self, seed: int, resamples: int) -> dict[tuple[str, int | None] | None, Rise]:
        columns = torch.stack([torch.cat(each) for each in self.values.values()], dim=1).numpy()
        groups = torch.cat(self.photographs).numpy()
        whole = columns[:, 0].mean()
        means = (columns - columns[:, :1]).mean(axis=0)
        ends = shares = np.empty((columns.shape[1], 0))
        if len(np.unique(groups)) > 1:
            draws = resampled_means(columns, groups, seed, resamples)
            apart = draws - draws[:, :1]
            ends, shares = percentiles(apart), percentiles(apart / draws[:, :1].clip(min=_LEAST))
        parts = zip(means.tolist(), ends.tolist(), (means / max(whole, _LEAST)).tolist(), shares.tolist(), strict=True)
        return {masked: Rise(*each) for masked, each in zip(self.values, parts, strict=True)}


@torch.inference_mode()
def losses(model: BitGen, batch: Batch, patches: Tensor, wanted: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Each of the `wanted` losses of every image, token or phrase [P], of what the tower gives of `batch`, and the row of the image
    that it is of, [P] on the CPU; a loss that is of none is left out."""
    device, found = patches.device, dict[str, tuple[Tensor, Tensor]]()
    image = model.encode_patches(patches)
    ids, mask = (each[batch.first_text].to(device) for each in (batch.token_ids, batch.token_mask))
    if "contrast" in wanted and len(ids) > 1:
        text, own = model.encode_text(ids, mask).embedding, torch.arange(len(ids), device=device)
        allowed = (batch.image_ids[:, None] != batch.image_ids).to(device)
        to_text, to_image = (
            contrast(query, keys, own, allowed, model.itc_temperature(), "none")
            for query, keys in ((image.embedding, text), (text, image.embedding))
        )
        found["contrast"] = ((to_text + to_image) / 2, torch.arange(len(ids)))
    if "caption" in wanted:
        context, seen = model.caption_context(image)
        states = model.decoder(ids, model.text.token, context, seen)
        classes, told = model.text.token.targets(ids, mask)
        rows, place = told[:, 1:].nonzero().unbind(dim=1)  # position l tells token l + 1
        if len(rows):
            nats = [
                F.cross_entropy(said.float() @ model.text.token.head.T.float(), meant, reduction="none")
                for said, meant in zip(
                    states[rows, place].split(_TOKENS), classes[rows, place + 1].split(_TOKENS), strict=True
                )
            ]
            found["caption"] = (torch.cat(nats), rows.cpu())
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
        found["grounding"] = (total, batch.text_image[batch.phrase_text])
    return found


@torch.inference_mode()
def _patches(model: BitGen, batch: Batch) -> Tensor:
    device = next(model.parameters()).device
    return model.vision(batch.images.to(device)) if batch.features is None else unpack(batch.features.to(device))
