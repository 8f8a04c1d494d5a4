"""Image-text retrieval: who is found, at which rank, and what chance alone would find.

Axes: Q queries, G gallery entries, B images of a batch, I images, T texts, D width of an embedding.
An image and a text belong together when their photograph is the same (`Batch.image_ids`), so that a photograph that
stands twice in a set is never its own distractor.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from bitgen.batch import Batch
from bitgen.model.bitgen import BitGen

TOP = (1, 5, 10)
TEXT_ROWS = 256
"""Texts that pass through the model at once: an image of Visual Genome may carry fifty."""
SCORE_CELLS = 1 << 24
"""Similarities held at once, 64 MiB: a gallery of 123,287 images and 616,767 texts would be 304 GB."""


@dataclass(frozen=True)
class Gallery:
    """Unit vectors of a whole set, on the CPU: 512 bytes an entry at D = 128."""

    images: Tensor
    """[I, D] float32."""
    texts: Tensor
    """[T, D] float32."""
    image_ids: Tensor
    """[I] int64, equal for one photograph."""
    text_ids: Tensor
    """[T] int64: the image id of each text."""


def evaluate_retrieval(model: BitGen, batches: Iterable[Batch]) -> dict:
    """Recall both ways by the dual encoder alone, over all images and all texts of `batches`.

    See `summarise` for what comes back. Memory: one batch, the embeddings, and 64 MiB of similarities.
    """
    gallery = embed(model, batches)
    image_ranks, text_ranks = rank_both(gallery, device=next(model.parameters()).device)
    return summarise(image_ranks, text_ranks, gallery.image_ids, gallery.text_ids)


@torch.inference_mode()
def embed(model: BitGen, batches: Iterable[Batch]) -> Gallery:
    """The embedding of every image and every text. Raises `ValueError` where `batches` holds nothing."""
    device = next(model.parameters()).device
    images, texts, image_ids, text_ids = [], [], [], []
    for batch in batches:
        images.append(model.encode_image(batch.images.to(device)).embedding.float().cpu())
        for rows in torch.arange(len(batch.token_ids)).split(TEXT_ROWS):
            found = model.encode_text(batch.token_ids[rows].to(device), batch.token_mask[rows].to(device))
            texts.append(found.embedding.float().cpu())
        image_ids.append(batch.image_ids.cpu())
        text_ids.append(batch.image_ids.cpu()[batch.text_image.cpu()])
    if not texts:
        raise ValueError("expected one or more images with texts to retrieve, found none")
    return Gallery(torch.cat(images), torch.cat(texts), torch.cat(image_ids), torch.cat(text_ids))


def rank_both(
    gallery: Gallery, *, cells: int = SCORE_CELLS, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Ranks of image queries [I] and of text queries [T], each from 1, computed `cells` similarities at a time."""
    images, texts = gallery.images.to(device), gallery.texts.to(device)
    image_ids, text_ids = gallery.image_ids.to(device), gallery.text_ids.to(device)
    image_ranks = _rank_in_chunks(images, texts, image_ids, text_ids, cells)
    text_ranks = _rank_in_chunks(texts, images, text_ids, image_ids, cells)
    return image_ranks.cpu(), text_ranks.cpu()


def ranks(scores: Tensor, relevant: Tensor) -> Tensor:
    """Rank of the best relevant entry for each query, [Q] int64, from 1; ties count against it.

    Args:
        scores: [Q, G], higher is better.
        relevant: [Q, G] bool, at least one true in each row, else `ValueError`.

    An irrelevant entry stands before the best relevant one unless it scores strictly less, so a model that gives
    everything one score, or NaN, ranks last and not first. Source: the protocol of arXiv 1412.2306 (any caption of the
    image counts), with ties settled against the model.
    """
    if not bool(relevant.any(dim=1).all()):
        raise ValueError("expected something relevant for every query, found a query with nothing to retrieve")
    best = scores.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
    return 1 + (~relevant & ~(scores < best)).sum(dim=1)


def summarise(image_ranks: Tensor, text_ranks: Tensor, image_ids: Tensor, text_ids: Tensor) -> dict:
    """Recalls as fractions 0..1, their sum over both directions 0..6, median ranks, and chance.

    Args:
        image_ranks: [I], the ranks of texts for image queries; text_ranks: [T], of images for text queries.
        image_ids: [I], text_ids: [T], equal where they belong together.

    Returns {"t2i": {"r1", "r5", "r10", "median_rank"}, "i2t": {...}, "rsum", "images", "texts",
    "chance": {"t2i": {"r1", ...}, "i2t": {...}}}, where chance is the expectation under a random order.
    """
    directions = {"t2i": recall(text_ranks), "i2t": recall(image_ranks)}
    chances = {"t2i": chance(text_ids, image_ids), "i2t": chance(image_ids, text_ids)}
    rsum = sum(found[f"r{k}"] for found in directions.values() for k in TOP)
    return {**directions, "rsum": rsum, "images": len(image_ids), "texts": len(text_ids), "chance": chances}


def recall(query_ranks: Tensor) -> dict[str, float]:
    """The share of queries with a rank of at most 1, 5, 10, and the median rank (mean of the middle two)."""
    ordered = query_ranks.sort().values
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    hits = {f"r{k}": (query_ranks <= k).double().mean().item() for k in TOP}
    return {**hits, "median_rank": middle.item()}


def chance(query_ids: Tensor, gallery_ids: Tensor) -> dict[str, float]:
    """Expected recall under a random order: the mean over queries of 1 - C(G - m, k) / C(G, k), m being relevant."""
    known, count = gallery_ids.unique(return_counts=True)
    mine = count[torch.searchsorted(known, query_ids)]
    sizes, queries = mine.unique(return_counts=True)
    pairs = list(zip(sizes.tolist(), queries.tolist(), strict=True))
    size = len(gallery_ids)
    return {f"r{k}": sum(n * (1 - _miss(size, m, k)) for m, n in pairs) / len(query_ids) for k in TOP}


def _miss(size: int, relevant: int, k: int) -> float:
    """The probability that the first k of `size` entries in random order hold none of the relevant ones."""
    return prod(max(0, size - relevant - drawn) / (size - drawn) for drawn in range(min(k, size)))


def _rank_in_chunks(queries: Tensor, entries: Tensor, query_ids: Tensor, entry_ids: Tensor, cells: int) -> Tensor:
    rows = max(1, cells // max(1, len(entries)))
    found = [
        ranks(part @ entries.T, ids[:, None] == entry_ids[None])
        for part, ids in zip(queries.split(rows), query_ids.split(rows), strict=True)
    ]
    return torch.cat(found)
