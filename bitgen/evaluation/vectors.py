"""Embeddings as figures: who is like whom, and where each lies in a plane.

Axes: N pairs of an image and a text, d width.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgen.batch import Batch
from bitgen.evaluation.bootstrap import RESAMPLES, percentiles, resampled, stated
from bitgen.evaluation.finite import check_finite
from bitgen.evaluation.page import Html, text
from bitgen.evaluation.retrieval import embed
from bitgen.model.bitgen import BitGen

SIDE_PX = 400
"""Of both figures."""
_EDGE_PX = 10
MOST_POINTS, MOST_CELLS = 400, 40
"""Pairs of an embedding map, and of a matrix, at most."""


def evaluate_vectors(
    model: BitGen, batches: Iterable[Batch], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[dict[str, Any], dict[str, Html]]:
    """Where images and their first texts lie, and how far the two kinds are from each other; the figures by name.

    Of the first `MOST_POINTS` images of `batches`. Returns {"pairs", "method" (of the plane), "own_cosine" (the mean over pairs),
    "other_cosine" (over an image and the text of another photograph, the control), "gap" (the distance between the mean image and
    the mean text; Source: arXiv 2203.02053), "interval": {"own_cosine": [low, high], ...} by photograph, "bootstrap": as
    `bootstrap.stated`, "points": {"keys", "images": [[x, y]], "texts": [[x, y]]}}. Raises `ValueError` for fewer than two
    photographs, and `NotFiniteError` where a vector is not all numbers.
    """
    images, texts, keys, ids = [], [], [], []
    for batch in batches:
        gallery = embed(model, [batch])
        images.append(gallery.images)
        texts.append(gallery.texts[batch.first_text.cpu()])
        ids.append(gallery.image_ids)
        keys += batch.keys
        if len(keys) >= MOST_POINTS:
            break
    photographs = torch.cat([torch.empty(0, dtype=torch.int64), *ids])[:MOST_POINTS]
    if (different := len(photographs.unique())) < 2:
        raise ValueError(f"expected two or more images to map, found {different}")
    seen, said, keys = torch.cat(images)[:MOST_POINTS], torch.cat(texts)[:MOST_POINTS], keys[:MOST_POINTS]
    check_finite("vectors of images and their texts", torch.cat([seen, said], dim=1))
    cosines, count = seen @ said.T, len(keys)
    points, method = plane(torch.cat([seen, said]))
    own, other, gap = _distances(seen.double(), said.double(), photographs, np.ones((1, different)))[0].tolist()
    draws = resampled(
        lambda times: _distances(seen.double(), said.double(), photographs, times), different, seed, resamples
    )
    draws = draws[np.isfinite(draws).all(axis=1)]  # but for those of one photograph, which has no other
    found = {
        "pairs": count,
        "method": method,
        "own_cosine": own,
        "other_cosine": other,
        "gap": gap,
        "interval": dict(zip(("own_cosine", "other_cosine", "gap"), percentiles(draws).tolist(), strict=True)),
        "bootstrap": stated(photographs.numpy(), seed, resamples),
        "points": {"keys": keys, "images": points[:count].tolist(), "texts": points[count:].tolist()},
    }
    some = min(count, MOST_CELLS)
    figures = {
        "vectors-map": _plane_figure(points[:count], points[count:], keys, method),
        "vectors-similarity": similarity_figure(cosines[:some, :some], keys[:some]),
    }
    return found, figures


def _distances(seen: Tensor, said: Tensor, photographs: Tensor, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """[R, 3] the cosine of pairs, that of images and texts of other photographs, and the gap between the means, where each
    photograph counts as often as `times` [R, G] says; NaN for the second where a resample is of one photograph alone."""
    _, group = photographs.unique(return_inverse=True)
    weights = torch.from_numpy(times)[:, group]
    total = weights.sum(dim=1)
    cosines, same = seen @ said.T, group[:, None] == group
    own = weights @ cosines.diagonal() / total
    # A photograph that is drawn twice is no other photograph to itself.
    apart = ((weights @ cosines.masked_fill(same, 0.0)) * weights).sum(dim=1)
    other = apart / ((weights @ (~same).double()) * weights).sum(dim=1)
    gap = (weights @ (seen - said) / total[:, None]).norm(dim=1)
    return torch.stack([own, other, gap], dim=1).numpy()


def similarity_figure(similarity: Tensor, names: Sequence[str]) -> Html:
    """A matrix [N, N] of cosines, images down and texts across, the darker the more alike; each pair lies on the diagonal.

    The title says the share of the rows, and of the columns, whose greatest entry is the pair's.

    Args:
        names: of the pairs, said where the pointer rests on a cell.
    """
    count = len(similarity)
    low, high = similarity.min().item(), similarity.max().item()
    shades = ((similarity - low) / max(high - low, 1e-6)).tolist()
    cells = "".join(
        f'<rect x="{column}" y="{row}" width="1" height="1" fill-opacity="{shade:.3f}"><title>{text(names[row])} with the text of '
        f"{text(names[column])}: {similarity[row, column].item():.2f}</title></rect>"
        for row, line in enumerate(shades)
        for column, shade in enumerate(line)
    )
    own = torch.arange(count)
    to_text, to_image = ((similarity.argmax(dim=dim) == own).float().mean().item() for dim in (1, 0))
    title = f"Images (down) and texts (across): cosines from {low:.2f} to {high:.2f}"
    said = f"of {count} images {to_text:.0%} find their own text first, of {count} texts {to_image:.0%} their image"
    return _figure(title, f'<g class="cells s0">{cells}</g>', f"0 0 {count} {count}", said)


def plane_figure(images: Tensor, texts: Tensor, names: Sequence[str]) -> Html:
    """Vectors [N, d] of images and of their texts in a plane, a line between the two of a pair."""
    points, method = plane(torch.cat([images, texts]))
    return _plane_figure(points[: len(images)], points[len(images) :], names, method)


def _plane_figure(images: Tensor, texts: Tensor, names: Sequence[str], method: str) -> Html:
    """Of points [N, 2] each."""
    points = torch.cat([images, texts])
    low, high = points.amin(dim=0), points.amax(dim=0)
    inner = SIDE_PX - 2 * _EDGE_PX
    places = (_EDGE_PX + inner * (points - low) / (high - low).clamp(min=1e-12)).tolist()
    pairs = list(zip(places[: len(images)], places[len(images) :], names, strict=True))
    radius, side = (4, 7) if len(images) <= 60 else (2.5, 4)
    lines = "".join(f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}"/>' for (a, b), (c, d), _ in pairs)
    dots = "".join(
        f'<circle class="s0" cx="{a:.1f}" cy="{b:.1f}" r="{radius}"><title>image of {text(name)}</title></circle>'
        f'<rect class="s1" x="{c - side / 2:.1f}" y="{d - side / 2:.1f}" width="{side}" height="{side}">'
        f"<title>text of {text(name)}</title></rect>"
        for (a, b), (c, d), name in pairs
    )
    key = '<span class="key"><span class="s0">●</span> images</span><span class="key"><span class="s1">■</span> their texts</span>'
    return _figure(f"Vectors of images and texts, {method}", lines + dots, f"0 0 {SIDE_PX} {SIDE_PX}", key=key)


def plane(vectors: Tensor) -> tuple[Tensor, str]:
    """Vectors [N, d] as points [N, 2], and how they came there: by UMAP where that package is installed, else by PCA."""
    try:
        import umap  # pyright: ignore[reportMissingImports] (no dependency of ours: whoever has it gets it)
    except ImportError:
        return principal(vectors)
    neighbours = min(15, len(vectors) - 1)
    found = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=0).fit_transform(vectors.numpy())
    return torch.as_tensor(found).float(), f"by UMAP ({neighbours} neighbours, cosine)"


def principal(vectors: Tensor) -> tuple[Tensor, str]:
    """Likewise by PCA, with the share of the variance that the plane has; equal vectors give equal points, signs included."""
    centred = vectors.double() - vectors.double().mean(dim=0)
    _, strength, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    # An axis may point either way: its largest entry is to be positive, so that pages of a run can be compared.
    axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    share = strength[:2].square().sum() / strength.square().sum().clamp(min=1e-12)
    return (centred @ axes.T).float(), f"by PCA ({share.item():.0%} of the variance)"


def _figure(title: str, inner: str, view: str, said: str = "", key: str = "") -> Html:
    return Html(
        f'<figure class="chart vectors"><h4>{text(title)}</h4><svg viewBox="{view}" role="img" aria-label="{text(title)}">'
        f'{inner}</svg><figcaption>{key}<span class="muted">{text(said)}</span></figcaption></figure>'
    )
