"""Image-text retrieval: who is found, at which rank, and what chance alone would find.

Axes: I images, T texts, D width of an embedding.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from math import exp, lgamma, prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgen.batch import Batch
from bitgen.evaluation.bootstrap import RESAMPLES, percentiles, resampled, resampled_means, stated
from bitgen.evaluation.items import Items, text_keys
from bitgen.evaluation.ranking import Gallery, rank_both
from bitgen.evaluation.reranking import States, rerank_both, temporary_states
from bitgen.evaluation.scored import Scored

TOP = (1, 5, 10)
TEXT_ROWS = 256
"""Texts that pass through the model at once: an image of Visual Genome may carry fifty."""


def evaluate_retrieval(
    model: Scored,
    batches: Iterable[Batch],
    *,
    rerank: int | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    items: dict[str, Items] | None = None,
) -> dict:
    """Recall both ways by the dual encoder, over all images and all texts of `batches`.

    See `summarise` for what comes back, and "not_finite": images and texts whose embeddings are not all numbers, which are found
    last. Memory: one batch, the embeddings, and what `ranking.SCORE_CELLS` says.

    Args:
        rerank: how many of the first to order anew by the matching head. Only where the checkpoint's own run trained it
            (`loss.itm` above 0): a phase that goes on without it changes the layers under it (R@1 of texts on the embedded
            sample, which the demo has by heart: 89% after its coarse phase, 30% after its fine one). The result gets
            "reranked": {"t2i", "i2t", "rsum", "k"} beside the dual encoder's own. What that takes: `reranking.py`.
        seed: of the intervals; resamples: likewise.
        items: gets the values of every query, "t2i" and "i2t": r1, r5, r10, and with `rerank` reranked_r1, ...
    """
    if rerank is not None and rerank < 1:
        raise ValueError(f"expected one or more candidates to order anew, found {rerank}")
    device = model.device
    with temporary_states() if rerank else nullcontext() as states:
        gallery = embed(model, batches, states)
        image_ranks, text_ranks = rank_both(gallery, device=device)
        result = summarise(image_ranks, text_ranks, gallery.image_ids, gallery.text_ids, seed, resamples)
        result["not_finite"] = sum(int((~each.isfinite().all(dim=1)).sum()) for each in (gallery.images, gallery.texts))
        values = {"t2i": hits(text_ranks), "i2t": hits(image_ranks)}
        if rerank and states is not None:
            image_ranks, text_ranks = rerank_both(model, gallery, states, (image_ranks, text_ranks), rerank)
            again = _directions(image_ranks, text_ranks, gallery.image_ids, gallery.text_ids, seed, resamples)
            result["reranked"] = {**again, "k": rerank}
            for name, found in (("t2i", text_ranks), ("i2t", image_ranks)):
                values[name] |= {f"reranked_{figure}": each for figure, each in hits(found).items()}
    if items is not None:
        items["t2i"] = Items(gallery.text_keys, gallery.text_ids.numpy(), values["t2i"])
        items["i2t"] = Items(gallery.image_keys, gallery.image_ids.numpy(), values["i2t"])
    return result


@torch.inference_mode()
def embed(model: Scored, batches: Iterable[Batch], states: States | None = None) -> Gallery:
    """The embedding of every image and every text. Raises `ValueError` where `batches` holds nothing.

    Args:
        states: gets what matching asks of each of them.
    """
    device = model.device
    images, texts, image_ids, text_ids = [], [], [], []
    image_names, text_names = list[str](), list[str]()
    for batch in batches:
        image = model.encode_image(batch.images.to(device))
        images.append(image.embedding.float().cpu())
        for rows in torch.arange(len(batch.token_ids)).split(TEXT_ROWS):
            found = model.encode_text(batch.token_ids[rows].to(device), batch.token_mask[rows].to(device))
            texts.append(found.embedding.float().cpu())
        image_ids.append(batch.image_ids.cpu())
        text_ids.append(batch.image_ids.cpu()[batch.text_image.cpu()])
        image_names += batch.keys
        text_names += text_keys(batch)
        if states is not None:
            states.add(image.start, batch.token_ids, batch.token_mask)
    if not texts:
        raise ValueError("expected one or more images with texts to retrieve, found none")
    vectors, ids = (torch.cat(images), torch.cat(texts)), (torch.cat(image_ids), torch.cat(text_ids))
    return Gallery(*vectors, *ids, tuple(image_names), tuple(text_names))


def summarise(
    image_ranks: Tensor,
    text_ranks: Tensor,
    image_ids: Tensor,
    text_ids: Tensor,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict:
    """Recalls as fractions 0..1, their sum over both directions 0..6, median ranks, and chance.

    Args:
        image_ranks: [I], the ranks of texts for image queries; text_ranks: [T], of images for text queries.
        image_ids: [I], text_ids: [T], equal where they belong together.
        seed: of the intervals; resamples: likewise.

    Returns {"t2i": {"r1", "r5", "r10", "median_rank", "interval": {"r1": [low, high], ...}}, "i2t": {...}, "rsum", "interval":
    {"rsum": [low, high]}, "images", "texts", "chance": {"t2i": {"r1", ..., "median_rank"}, "i2t": {...}}, "bootstrap": as
    `bootstrap.stated`}, where chance is the expectation under a random order, and an interval is of other queries to the same
    gallery.
    """
    directions = _directions(image_ranks, text_ranks, image_ids, text_ids, seed, resamples)
    chances = {"t2i": chance(text_ids, image_ids), "i2t": chance(image_ids, text_ids)}
    counts = {"images": len(image_ids), "texts": len(text_ids)}
    return {**directions, **counts, "chance": chances, "bootstrap": stated(image_ids.numpy(), seed, resamples)}


def recall(query_ranks: Tensor) -> dict[str, float]:
    """The share of queries with a rank of at most 1, 5, 10, and the median rank (mean of the middle two)."""
    ordered = query_ranks.sort().values
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    shares = {name: float(found.mean()) for name, found in hits(query_ranks).items()}
    return {**shares, "median_rank": middle.item()}


def hits(query_ranks: Tensor) -> dict[str, NDArray[np.float64]]:
    """1 for each query [Q] with a rank of at most 1, 5, 10, else 0."""
    return {f"r{k}": (query_ranks <= k).double().numpy() for k in TOP}


def chance(query_ids: Tensor, gallery_ids: Tensor) -> dict[str, float]:
    """Expected recall under a random order: the mean over queries of 1 - C(G - m, k) / C(G, k), m being relevant; and the median
    rank there, the least k within which at least half of all queries find something."""
    known, count = gallery_ids.unique(return_counts=True)
    mine = count[torch.searchsorted(known, query_ids)]
    sizes, queries = mine.unique(return_counts=True)
    pairs = list(zip(sizes.tolist(), queries.tolist(), strict=True))
    size = len(gallery_ids)

    def found_within(k: int) -> float:
        return sum(n * (1 - _miss(size, m, k)) for m, n in pairs) / len(query_ids)

    low, high = 1, size
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if found_within(middle) >= 0.5 - 1e-9 else (middle + 1, high)
    return {**{f"r{k}": found_within(k) for k in TOP}, "median_rank": float(low)}


def _miss(size: int, relevant: int, k: int) -> float:
    """The probability that the first k of `size` entries in random order hold none of the relevant ones: C(G - m, k) / C(G, k)."""
    left = size - relevant
    if k > left:
        return 0.0
    if k <= max(TOP):  # exact, where logarithms of factorials lose digits of a small share
        return prod((left - drawn) / (size - drawn) for drawn in range(k))
    return exp(lgamma(left + 1) - lgamma(left - k + 1) - lgamma(size + 1) + lgamma(size - k + 1))


def _directions(
    image_ranks: Tensor, text_ranks: Tensor, image_ids: Tensor, text_ids: Tensor, seed: int, resamples: int
) -> dict:
    """Recalls and median ranks both ways and "rsum", with intervals."""
    found: dict = {}
    sums = np.zeros(resamples)
    for name, ranks, ids in (("t2i", text_ranks, text_ids), ("i2t", image_ranks, image_ids)):
        found[name] = {**recall(ranks), "interval": {}}
        if len(image_ids.unique()) > 1:
            groups, right = ids.numpy(), np.stack(list(hits(ranks).values()), axis=1)
            draws = resampled_means(right, groups, seed, resamples)
            sums += draws.sum(axis=1)  # of the same photographs both ways: each has an image and a text
            draws = np.concatenate([draws, resampled_medians(ranks.numpy(), groups, seed, resamples)], axis=1)
            found[name]["interval"] = dict(zip(recall(ranks), percentiles(draws).tolist(), strict=True))
    rsum = sum(direction[f"r{k}"] for direction in found.values() for k in TOP)
    ends = {"rsum": percentiles(sums[:, None])[0].tolist()} if found["t2i"]["interval"] else {}
    return {**found, "rsum": rsum, "interval": ends}


def resampled_medians(
    query_ranks: NDArray[np.int64], groups: NDArray[np.int64], seed: int, resamples: int
) -> NDArray[np.float64]:
    """[R, 1] the median (the mean of the middle two) of the ranks [Q] of every resample; groups: [Q] their photographs."""
    known, group = np.unique(groups, return_inverse=True)
    order = np.argsort(query_ranks, kind="stable")
    ordered, group = query_ranks[order], group[order]

    def median(times: NDArray[np.float64]) -> float:
        """A query that is drawn c times stands c times in the row of ranks."""
        ends = times[group].cumsum()
        middle = ordered[np.searchsorted(ends, [(ends[-1] - 1) // 2, ends[-1] // 2], side="right")]
        return float(middle.mean())

    # Resample by resample, which stays in the cache: of 25,000 queries five times as fast as many at once.
    return resampled(lambda times: np.array([[median(row)] for row in times]), len(known), seed, resamples)
