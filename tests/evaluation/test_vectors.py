"""Embeddings as figures."""

import re
import sys
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bitgen.evaluation.vectors import evaluate_vectors, plane, plane_figure, principal, similarity_figure
from tests import fakes


def _svg(figure: str) -> ElementTree.Element:
    found = re.search(r"<svg.*</svg>", figure)
    assert found is not None
    return ElementTree.fromstring(found.group())


def test_a_matrix_has_a_cell_for_every_two_and_says_who_finds_whom() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.5, 0.2], [0.1, 0.6, 0.3]])
    figure = similarity_figure(similarity, ["a", "<b>", "c"])
    cells = _svg(figure).findall(".//rect")
    assert [float(cell.get("fill-opacity", "")) for cell in cells[:3]] == pytest.approx([1, 1 / 9, 0], abs=1e-3)
    assert (cells[5].get("x"), cells[5].get("y"), cells[5][0].text) == ("2", "1", "<b> with the text of c: 0.20")
    assert "of 3 images 33% find their own text first, of 3 texts 67% their image" in figure


def test_the_plane_is_the_one_that_most_of_the_variance_lies_in() -> None:
    flat = fakes.noise(40, 2) * torch.tensor([5.0, 2.0]) @ torch.linalg.qr(fakes.noise(6, 6, seed=1)).Q[:2]
    points, method = principal(flat + 3)
    centred = flat - flat.mean(dim=0)
    torch.testing.assert_close(points.square().sum(dim=1), centred.square().sum(dim=1), rtol=1e-4, atol=1e-4)
    assert points[:, 0].var() > points[:, 1].var()
    assert method == "by PCA (100% of the variance)"


def test_an_axis_does_not_turn_round_between_two_pages() -> None:
    vectors = fakes.noise(10, 6)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(principal(vectors[order])[0], principal(vectors)[0][order])


def test_equal_vectors_have_a_figure_too() -> None:
    same = torch.ones(3, 4)
    assert "NaN" not in plane_figure(same, same, "abc")


def test_a_pair_has_a_dot_a_square_and_a_line() -> None:
    svg = _svg(plane_figure(fakes.unit(5), fakes.unit(5, seed=1), list("abcde")))
    assert [len(svg.findall(f".//{name}")) for name in ("circle", "rect", "line")] == [5, 5, 5]
    places = [float(dot.get(axis, "")) for dot in svg.findall(".//circle") for axis in ("cx", "cy")]
    assert 0 <= min(places) < max(places) <= 400


def test_umap_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Umap:
        def __init__(self, **options: Any) -> None:
            self.options = options

        def fit_transform(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
            assert self.options == {"n_neighbors": 7, "metric": "cosine", "random_state": 0}
            return vectors[:, :2]

    vectors = fakes.unit(8)
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Umap))  # type: ignore[arg-type] (a module's stand-in)
    points, method = plane(vectors)
    assert points.equal(vectors[:, :2])
    assert method == "by UMAP (7 neighbours, cosine)"
    monkeypatch.setitem(sys.modules, "umap", None)  # type: ignore[arg-type] (as where it is not installed)
    assert plane(vectors)[1].startswith("by PCA")


@torch.no_grad()
def test_images_and_first_texts_of_a_set_are_mapped() -> None:
    model, batches = fakes.model().eval(), [fakes.fake_batch(images=3, seed=n, position=3 * n) for n in (0, 1)]
    found, figures = evaluate_vectors(model, batches)
    images = torch.cat([model.encode_image(batch.images).embedding for batch in batches])
    texts = torch.cat(
        [model.encode_text(b.token_ids, b.token_mask).embedding[[0, 2, 4]] for b in batches]
    )  # two texts an image
    cosines = [[float(image @ text) for text in texts] for image in images]
    own = [cosines[n][n] for n in range(6)]
    others = [cosines[n][m] for n in range(6) for m in range(6) if n != m]
    assert found["pairs"] == 6
    assert found["own_cosine"] == pytest.approx(sum(own) / 6, abs=1e-3)
    assert found["other_cosine"] == pytest.approx(sum(others) / 30, abs=1e-3)
    assert found["gap"] == pytest.approx(float((images.mean(0) - texts.mean(0)).norm()), abs=1e-3)
    assert found["points"]["keys"] == [f"fake-{n}" for n in range(6)]
    assert len(_svg(figures["vectors-map"]).findall(".//circle")) == 6
    assert set(figures) == {"vectors-map", "vectors-similarity"}


@torch.no_grad()
def test_intervals_are_those_of_copied_photographs() -> None:
    """Of five photographs, one of which is there twice, and is no other photograph to itself."""
    model, batch = fakes.model().eval(), fakes.fake_batch(images=6, texts=1, image_ids=[1, 2, 3, 4, 5, 5])
    seen = model.encode_image(batch.images).embedding.double()
    said = model.encode_text(batch.token_ids, batch.token_mask).embedding.double()
    ids, cosines = batch.image_ids, seen @ said.T

    def slow(photographs: list[int]) -> list[float]:
        rows = torch.tensor([row for each in photographs for row in (ids == each).nonzero()[:, 0].tolist()])
        others = cosines[rows][:, rows][ids[rows][:, None] != ids[rows]]
        gap = (seen[rows].mean(dim=0) - said[rows].mean(dim=0)).norm()
        return [cosines[rows, rows].mean().item(), others.mean().item(), gap.item()]

    found, _ = evaluate_vectors(model, [batch], seed=4, resamples=50)
    names = ("own_cosine", "other_cosine", "gap")
    assert [found[name] for name in names] == pytest.approx(slow([1, 2, 3, 4, 5]), abs=1e-6)
    random = np.random.default_rng(4)
    drawn = [(random.integers(5, size=5) + 1).tolist() for _ in range(50)]
    ends = np.quantile([slow(each) for each in drawn if len(set(each)) > 1], [0.025, 0.975], axis=0).T
    np.testing.assert_allclose([found["interval"][name] for name in names], ends, rtol=0, atol=1e-6)
    assert found["bootstrap"] == {"percent": 95, "resamples": 50, "seed": 4, "photographs": 5}


def test_one_photograph_that_is_there_twice_is_not_mapped() -> None:
    with pytest.raises(ValueError, match="expected two or more images to map, found 1"):
        evaluate_vectors(fakes.model().eval(), [fakes.fake_batch(images=2, image_ids=[7, 7])])


def test_a_map_needs_two_images() -> None:
    with pytest.raises(ValueError, match="expected two or more images to map, found 0"):
        evaluate_vectors(fakes.model(), [])
