"""What each attention head is for: how much a loss rises when what the head makes is masked.

Source: Michel, Levy and Neubig, arXiv 1905.10650, section 3: the head's output is 0 before the layer's output projection. Here
that projection normalises its input, so that the other heads of the layer are then up to √(H / (H - 1)) times as loud.

Beside each way stands a control: as many channels as one head has, drawn at random from all of them. Where a head's mask raises a
loss no more than that, it is the channels that count and not the head.

Which heads matter most is chosen on one half of the photographs and told of the other: the greatest of many rises is too great.

Ways, each with heads: `image I` and `text I`, the self-attention of both sides; `image I to text` and `text I to image`, the
cross-attention of fused layers; `decoder I` and `decoder I to image`; `grounding I`. I counts from 0, over fused text layers and
those before them alike.

Axes: B images, H heads, C channels of a head, P images, tokens or phrases.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitgen.batch import Batch
from bitgen.boxes import enclose
from bitgen.evaluation.bootstrap import RESAMPLES, halves, stated
from bitgen.evaluation.phrases import text_rows
from bitgen.evaluation.rises import Rise, Rises
from bitgen.features import unpack
from bitgen.model.bitgen import BitGen
from bitgen.model.bitlinear import ternarised_once
from bitgen.model.decoder import DecoderLayer
from bitgen.model.fusion import Attention, Layer
from bitgen.objectives.contrastive import contrast
from bitgen.objectives.grounding import grounding_losses, phrase_coverage
from bitgen.progress import progress

LOSSES = ("contrast", "caption", "grounding")
IMAGES, AT_ONCE = 128, 64
"""Of a set, evenly spaced, and of a batch, whatever other tasks take at a time."""
_TOKENS = 166
"""Whose logits live at one time: 32 MB at 50,257 classes."""


ALL, RANDOM = "all", "random"
"""What may be masked in place of a head: all heads of a way, and as many channels as one has, at random."""


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


def without_heads(attention: Attention, heads: Sequence[int]) -> AbstractContextManager[None]:
    """Within it, what these heads of a layer make is 0. The layer is as before afterwards, whatever happens."""
    width = attention.output.in_width // attention.heads
    return _without(attention, [head * width + channel for head in heads for channel in range(width)])


def without_channels(attention: Attention, seed: int) -> AbstractContextManager[None]:
    """Likewise for as many channels as one head has, at random over all heads."""
    order = torch.randperm(attention.output.in_width, generator=torch.Generator().manual_seed(seed))
    return _without(attention, order[: attention.output.in_width // attention.heads].tolist())


@contextmanager
def _without(attention: Attention, channels: list[int]) -> Iterator[None]:
    def mask(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        mixed = given[0].clone()
        mixed[..., channels] = 0
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
        seed: of the halves, of the channels and of the intervals; resamples: of these.

    Returns {"base": {loss: mean}, "counts": {"contrast": images, "caption": tokens, "grounding": phrases}, "images", "batch" (the
    images of the largest batch), "bootstrap": as `bootstrap.stated`, "heads": [{"way", "head" (from 0), "rise": {loss: its rise},
    "loss", "importance", "interval": {loss: [low, high] of its rise, "importance": ...}}], "ways": {way: {loss: its rise without
    all heads, "interval"}}, "random": {way: {loss: its rise without channels at random, "interval"}}}.

    A head's "loss" is the one that rises most, over itself, on the first half of the photographs (`bootstrap.halves`), by which
    heads are ordered; its "importance" is that loss's rise over itself on the second half; NaN, and last, where a rise is not
    finite. All else is of all photographs. Intervals are by photograph, the others of its batch as they are. Raises `ValueError`
    without a batch.
    """
    seen: dict[str, Rises] = {}
    known, photographs, largest = ways(model), list[Tensor](), 0
    for batch in batches:
        patches = _patches(model, batch)
        for loss, (values, rows) in losses(model, batch, patches, LOSSES).items():
            into = seen.setdefault(loss, Rises())
            into.photographs.append(batch.image_ids[rows])
            into.add(None, values)
        with progress("heads masked", sum(way.attention.heads + 2 for way in known.values()), "masks") as counter:
            for name, way in known.items():
                for head, without in _masks(way.attention, seed).items():
                    with without:
                        for loss, (values, _) in losses(model, batch, patches, way.losses).items():
                            seen[loss].add((name, head), values)
                    counter.update(1)
        photographs.append(batch.image_ids)
        largest = max(largest, len(batch.keys))
    if not photographs:
        raise ValueError("expected one or more batches to mask heads on, found none")
    ids = torch.cat(photographs).numpy()
    rises = {loss: each.rises(seed, resamples, ids) for loss, each in seen.items()}
    parts = [ids[half] for half in halves(ids, seed)]
    if not all(each.has(part) for each in seen.values() for part in parts):
        parts = [ids, ids]
    first = {loss: each.rises(seed, 0, parts[0]) for loss, each in seen.items()}
    second = {loss: each.rises(seed, resamples, parts[1]) for loss, each in seen.items()}

    def of_all(name: str, head: int | str) -> dict[str, Any]:
        own = {loss: found[name, head] for loss, found in rises.items() if (name, head) in found}
        ends = {loss: each.ends for loss, each in own.items() if each.ends}
        return {**{loss: each.mean for loss, each in own.items()}, "interval": ends}

    heads = list[tuple[float, dict[str, Any]]]()
    for name, way in known.items():
        for head in range(way.attention.heads):
            rise = of_all(name, head)
            interval = rise.pop("interval")
            shares = {loss: first[loss][name, head].share for loss in rise}
            most = max(shares, key=lambda loss: shares[loss], default="")
            is_finite = all(map(math.isfinite, (*rise.values(), *shares.values())))
            told = second[most][name, head] if most else Rise(0.0, [], 0.0, [])
            if is_finite and told.share_ends:
                interval["importance"] = told.share_ends
            importance = told.share if is_finite else math.nan
            entry = {"way": name, "head": head, "rise": rise, "loss": most, "importance": importance}
            heads.append((shares.get(most, 0.0) if is_finite else -math.inf, {**entry, "interval": interval}))
    heads.sort(key=lambda each: -each[0])
    return {
        "base": {loss: float(torch.cat(each.values[None]).mean()) for loss, each in seen.items()},
        "counts": {loss: sum(map(len, each.photographs)) for loss, each in seen.items()},
        "images": len(ids),
        "batch": largest,
        "bootstrap": stated(ids, seed, resamples),
        "heads": [entry for _, entry in heads],
        "ways": {name: of_all(name, ALL) for name in known},
        "random": {name: of_all(name, RANDOM) for name in known},
    }


def _masks(attention: Attention, seed: int) -> dict[int | str, AbstractContextManager[None]]:
    """One for each head, for all at once, and for channels at random."""
    every = range(attention.heads)
    single: dict[int | str, AbstractContextManager[None]] = {head: without_heads(attention, [head]) for head in every}
    return single | {ALL: without_heads(attention, every), RANDOM: without_channels(attention, seed)}


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
