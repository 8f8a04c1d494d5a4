"""Where a model looks for what a phrase names: attention of every head from text to patches, over the image.

A way is a layer that looks at patches: `text I to image`, the cross-attention of text layer I (whose weight of a phrase is the
mean over its tokens; I counts from 0, over layers that are not fused too), and `grounding I`, layer I of the grounding head, which
asks once for a phrase. The weights are those of the layer's own queries and keys; they say what is mixed, not what comes of it: a
gate near 0 lets nothing of it through.

Axes: P phrases, T texts, H heads, N patches, L tokens.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bitgen.batch import Batch
from bitgen.evaluation.bootstrap import RESAMPLES, halves, percentiles, resampled_means, stated
from bitgen.evaluation.grounding import encode
from bitgen.evaluation.phrases import Donors, TextRows, split, text_rows
from bitgen.model.bitgen import BitGen, ImageStates
from bitgen.model.fusion import Attention, Layer
from bitgen.model.grounding import span_means
from bitgen.objectives.grounding import phrase_coverage
from bitgen.tokens import shared_tokenizer

SHOWN = 4
_ROWS = 32
"""Texts at once: their weights, gathered for each phrase, are 34 MB at 64 tokens, 256 patches, 4 heads and 4 phrases a text."""


@dataclass(frozen=True)
class Looked:
    """What a page needs of one phrase; on the CPU."""

    key: str
    """Of the sample."""
    position: int
    """`Batch.positions` of the image."""
    image: Tensor
    """[3, S, S] uint8, as the model sees it."""
    words: str
    """The text, from its tokens."""
    phrase: str
    boxes: Tensor
    """[N, 4], corners in fractions of the image."""
    maps: dict[str, Tensor]
    """[H, N] float32 by way."""
    about: str = ""
    """Its set, source and licence, which a batch does not say."""
    may_leave: bool = False
    """Whether its licence lets anybody pass the picture on (`bitgen.licences`), likewise."""


def evaluate_attention(
    model: BitGen, batches: Iterable[Batch], shown: int = SHOWN, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[dict[str, Any], list[Looked]]:
    """Where each head looks, over all phrases of `batches`, and the first phrase of the first `shown` images.

    Args:
        seed: of the words of other phrases, and of the intervals; resamples: of these.

    Returns {"phrases", "shuffled_phrases", "told_phrases", "area", "gates": {way: value}, "seed", "bootstrap": as
    `bootstrap.stated`, "interval": {"area": [low, high]}, "ways": {way: {"in_box": [H], "shuffled": [H], "peak_in_box": [H],
    "patches": [H], "interval": {"in_box": [H] of [low, high], ...}, "best": {"head", "in_box", ..., "interval": {"in_box": [low,
    high], ...}}}}}, intervals by photograph, and the phrases to show:

    in_box       the share of a head's attention that lies in the phrase's boxes, the mean over phrases
    area         the share of the image that the boxes cover: `in_box` of a head that looks everywhere alike (chance)
    shuffled     `in_box` with the words of another phrase of another image: a head that looks where things usually lie
    peak_in_box  the share of phrases whose most looked-at patch lies in their boxes, by half of its area or more
    patches      the number of patches that, looked at alike, are as evenly looked at (the exponential of the entropy), 1..N

    best         the head of the greatest `in_box` on one half of the photographs (`bootstrap.halves`), and its figures on the
                 other, where `told_phrases` are

    Where fusion is by concatenation, a way's weights are those on patches, over their sum. Raises `ValueError` without a phrase.
    """
    parts: dict[tuple[str, str], list[Tensor]] = {}
    photographs: list[Tensor] = []
    of_others: list[Tensor] = []
    area, found, donors = list[Tensor](), list[Looked](), Donors(seed)

    def swapped(batch: Batch, image: ImageStates, rows: TextRows, kept: Tensor) -> None:
        """Where the heads look with the words of others."""
        cover = _cover(batch, image)[kept]
        of_others.append(batch.image_ids[batch.text_image[batch.phrase_text[kept]]])
        for way, weights in phrase_attention(model, image, rows).items() if len(kept) else ():
            parts.setdefault((way, "shuffled"), []).append(_within(weights, cover))

    for batch in batches:
        if not len(batch.phrase_text):
            continue
        image = encode(model, batch)
        cover = _cover(batch, image)
        rows, shown_in = text_rows(batch), batch.image_ids[batch.text_image[batch.phrase_text]]
        seen = phrase_attention(model, image, rows)
        for way, weights in seen.items():
            for name, values in _figures(weights, cover).items():
                parts.setdefault((way, name), []).append(values)
        area.append(cover.mean(dim=1, keepdim=True))
        photographs.append(shown_in)
        found += list(_looked(batch, rows, seen, shown - len(found)))
        swapped(batch, image, *donors.swap(batch))
    for batch, rows, kept in donors.rest():
        swapped(batch, encode(model, batch), rows, kept)
    if not area:
        raise ValueError("expected one or more phrases to look for, found none")
    own, others = torch.cat(photographs), torch.cat(of_others)
    ways: dict[str, dict[str, Any]] = {}
    first, second = (torch.from_numpy(half) for half in halves(own.numpy(), seed))
    told = {"shuffled": torch.isin(others, own[second])}
    for (way, name), several in parts.items():  # "in_box" is a way's first
        into = ways.setdefault(way, {"interval": {}, "best": {"interval": {}}})
        values, ids = torch.cat(several), others if name == "shuffled" else own
        into[name], ends = _spread(values, ids, seed, resamples)
        into["interval"] |= {name: ends} if ends else {}
        if name == "in_box":
            into["best"]["head"] = int(values[first].double().mean(dim=0).nan_to_num(-1.0).argmax())
        best, rows = into["best"], told.get(name, second)
        if rows.any():
            (best[name],), ends = _spread(values[rows][:, [best["head"]]], ids[rows], seed, resamples)
            best["interval"] |= {name: ends[0]} if ends else {}
    (mean_area,), ends = _spread(torch.cat(area), own, seed, resamples)
    gates = {way: layer.gate.item() for way, layer in _fused(model).items() if layer.gate is not None}
    return {
        "phrases": len(own),
        "told_phrases": int(second.sum()),
        "shuffled_phrases": len(others),
        "area": mean_area,
        "interval": {"area": ends[0]} if ends else {},
        "bootstrap": stated(own.numpy(), seed, resamples),
        "gates": gates,
        "seed": seed,
        "ways": ways,
    }, found


def _spread(values: Tensor, photographs: Tensor, seed: int, resamples: int) -> tuple[list[float], list[list[float]]]:
    """The means over phrases of `values` [P, F], and their intervals [F] of [low, high]; none of a single photograph."""
    columns, groups = values.double().numpy(), photographs.numpy()
    means = columns.mean(axis=0).tolist()
    if len(np.unique(groups)) < 2:
        return means, []
    return means, percentiles(resampled_means(columns, groups, seed, resamples)).tolist()


@torch.inference_mode()
def phrase_attention(model: BitGen, image: ImageStates, rows: TextRows) -> dict[str, Tensor]:
    """By way, the attention [P, H, N] of each phrase of `rows` to the patches of its image; sums to 1, float32, on the CPU."""
    device, patches = image.start.device, image.start.shape[1]
    ways = {way: layer.cross_attention or layer.attention for way, layer in _fused(model).items()}
    asks = {f"grounding {n}": cast(Attention, each) for n, each in enumerate(model.grounding.cross_attention)}
    parts: dict[str, list[Tensor]] = {way: [] for way in (*ways, *asks)}
    for part in split(rows, _ROWS):
        text = model.encode_text(part.token_ids.to(device), part.token_mask.to(device))
        of_text, slot, tokens = (each.to(device) for each in (part.phrase_text, part.phrase_slot, part.phrase_tokens))
        with watched(ways | asks) as weights:
            model.ground(image, text, part.text_image.to(device), of_text, slot, tokens, part.max_slots)
        for way in ways:  # patches stand last, also where text stands before them
            on_patches = weights[way][..., -patches:].transpose(1, 2)
            parts[way].append(span_means(on_patches.flatten(2), of_text, tokens).unflatten(1, (-1, patches)))
        for way in asks:
            parts[way].append(weights[way][of_text, :, slot])
    found = {way: torch.cat(several).float().cpu() for way, several in parts.items()}
    return {way: weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-12) for way, weights in found.items()}


@contextmanager
def watched(attentions: Mapping[str, Attention]) -> Iterator[dict[str, Tensor]]:
    """Within it, the weights [B, H, S, C] of the last call of each of `attentions`, by name; the modules do what they always do."""
    found: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            assert isinstance(module, Attention)
            found[name] = module.weights(*given[:3])

        return hook

    handles = [attention.register_forward_pre_hook(note(name)) for name, attention in attentions.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _fused(model: BitGen) -> dict[str, Layer]:
    """The text layers that see patches, by way."""
    first = len(model.text.layers)
    return {f"text {n} to image": cast(Layer, layer) for n, layer in enumerate(model.text.fused_layers, first)}


def _figures(weights: Tensor, cover: Tensor) -> dict[str, Tensor]:
    """[P, H] each, of `weights` [P, H, N] and the share of every patch that the boxes cover, [P, N]."""
    peak = weights.argmax(dim=-1)
    hits = (cover.gather(1, peak) >= 0.5).float()
    return {
        "in_box": _within(weights, cover),
        "peak_in_box": hits.masked_fill(~weights.isfinite().all(dim=-1), torch.nan),
        "patches": torch.special.entr(weights).sum(dim=-1).exp(),
    }


def _cover(batch: Batch, image: ImageStates) -> Tensor:
    """[P, N] the share of every patch that a phrase's boxes cover."""
    return phrase_coverage(batch.boxes, batch.box_phrase, len(batch.phrase_text), round(image.start.shape[1] ** 0.5))


def _within(weights: Tensor, cover: Tensor) -> Tensor:
    return (weights * cover[:, None]).sum(dim=-1)


def _looked(batch: Batch, rows: TextRows, seen: Mapping[str, Tensor], most: int) -> Iterator[Looked]:
    """The first phrase of each image, of `most` images."""
    tokenizer, image_of = shared_tokenizer(), batch.text_image[batch.phrase_text].tolist()
    for image in list(dict.fromkeys(image_of))[:most]:
        phrase = image_of.index(image)
        text = int(rows.phrase_text[phrase])
        ids = rows.token_ids[text][rows.token_mask[text]].tolist()
        yield Looked(
            key=batch.keys[image],
            position=int(batch.positions[image]),
            image=batch.images[image],
            words=tokenizer.decode(ids).strip(),
            phrase=tokenizer.decode(ids[slice(*rows.phrase_tokens[phrase].tolist())]).strip(),
            boxes=batch.boxes[batch.box_phrase == phrase],
            maps={way: weights[phrase] for way, weights in seen.items()},
        )
