"""Ranks of a whole set by the dual encoder, in bounded memory, and what an order of the first few anew makes of them.

Axes: Q queries, G gallery entries, I images, T texts, D width of an embedding, K candidates of a query.
An image and a text belong together when their photograph is the same (`Batch.image_ids`), so that a photograph that
stands twice in a set is never its own distractor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

SCORE_CELLS = 1 << 22
"""Similarities held at once, 16 MiB, and 150 MiB where they are sorted: a gallery of 123,287 images and 616,767 texts would be
304 GB. One number for ranks and candidates, so that both come of the same products to the last digit."""


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
    image_keys: tuple[str, ...] = ()
    """[I] as in `bitgen.evaluation.items`, or none."""
    text_keys: tuple[str, ...] = ()
    """[T] likewise."""


def rank_both(
    gallery: Gallery, *, cells: int = SCORE_CELLS, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Ranks of image queries [I] and of text queries [T], each from 1, computed `cells` similarities at a time."""
    return _both(ranks, gallery, cells, device)


def first_both(
    gallery: Gallery, k: int, *, cells: int = SCORE_CELLS, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """The first `k` texts of every image [I, K], and images of every text [T, K], by `first`; likewise."""
    return _both(partial(first, k=k), gallery, cells, device)


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


def first(scores: Tensor, relevant: Tensor, k: int) -> Tensor:
    """The `k` entries (all, where there are fewer) that stand first for each query, [Q, K] int64.

    Ties are settled against the model as in `ranks`: of equal scores relevant entries come last, a NaN stands first where it
    is irrelevant and last where it is relevant. What is still equal stays in the order of the gallery.
    """
    scores = torch.where(scores.isnan(), torch.where(relevant, -torch.inf, torch.inf), scores)
    irrelevant_first = relevant.byte().argsort(dim=1, stable=True)
    by_score = scores.gather(1, irrelevant_first).argsort(dim=1, descending=True, stable=True)
    return irrelevant_first.gather(1, by_score[:, :k])


def reranked(dual_ranks: Tensor, scores: Tensor, relevant: Tensor) -> Tensor:
    """Ranks [Q] after the first K are put in another order; what stands beyond them keeps its place.

    Args:
        dual_ranks: [Q] by the order that the candidates are the first K of (`first`).
        scores: [Q, K] of the candidates, higher is better; ties and NaN as in `ranks`, among the candidates.
        relevant: [Q, K] bool. Where it is false throughout, the best relevant entry stands beyond K, and keeps its rank.
    """
    found = relevant.any(dim=1)
    result = dual_ranks.clone()
    result[found] = ranks(scores[found], relevant[found])
    return result


def _both(
    order: Callable[[Tensor, Tensor], Tensor], gallery: Gallery, cells: int, device: torch.device | None
) -> tuple[Tensor, Tensor]:
    """`order` of all scores and what is relevant, for image queries and for text queries, in chunks."""
    images, texts = (
        (gallery.images.to(device), gallery.image_ids.to(device)),
        (gallery.texts.to(device), gallery.text_ids.to(device)),
    )
    found = []
    for (queries, query_ids), (entries, entry_ids) in ((images, texts), (texts, images)):
        rows = max(1, cells // max(1, len(entries)))
        parts = zip(queries.split(rows), query_ids.split(rows), strict=True)
        found.append(torch.cat([order(part @ entries.T, ids[:, None] == entry_ids[None]) for part, ids in parts]).cpu())
    return found[0], found[1]
