"""What we measure beside what torchmetrics and scikit-learn measure of the same, on random inputs without ties.

Of ties they take the order in which a sort leaves them, and ours count against the model (`test_ranking.py`).
Captions beside pycocoevalcap and sacrebleu: `test_caption_scores.py`.
"""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, top_k_accuracy_score
from torch import Tensor
from torchmetrics.functional.detection import generalized_intersection_over_union, intersection_over_union
from torchmetrics.functional.text import bleu_score
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalRecall

from bitgen.boxes import aligned_overlap, generalised_overlap, overlap
from bitgen.evaluation.caption_scores import bleu, bleu_counts, words
from bitgen.evaluation.novelty import area_under_curve
from bitgen.evaluation.phrase_scores import Answers, measure
from bitgen.evaluation.ranking import Gallery, rank_both
from bitgen.evaluation.retrieval import recall
from bitgen.evaluation.vectors import principal
from tests import fakes
from tests.phrase_targets import targets

IMAGES = 40
TEXT_IMAGE = torch.arange(IMAGES).repeat_interleave(torch.arange(IMAGES) % 5 + 1)
"""[T] the image of each text: one to five an image."""
LINES = (
    "a red dog runs on the beach",
    "two men ride a horse",
    "the man rides the old horse slowly",
    "a dog on a beach",
)


def gallery(seed: int) -> Gallery:
    """Texts lie so near to their images that half of them are found first."""
    images = fakes.noise(IMAGES, 16, seed=seed)
    texts = images[TEXT_IMAGE] + 1.2 * fakes.noise(len(TEXT_IMAGE), 16, seed=seed + 1)
    normal = torch.nn.functional.normalize
    return Gallery(normal(images, dim=-1), normal(texts, dim=-1), torch.arange(IMAGES), TEXT_IMAGE)


def asked(scores: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [Q, G] as torchmetrics takes them: all above 0, whether each is right, and the query of each."""
    query = torch.arange(len(scores))[:, None].expand_as(scores)
    return 2 + scores.flatten(), relevant.flatten(), query.flatten()


@pytest.mark.parametrize("seed", [0, 10])
def test_recalls_both_ways_are_the_hit_rates_of_torchmetrics(seed: int) -> None:
    both = gallery(seed)
    similarity, relevant = both.images @ both.texts.T, both.image_ids[:, None] == both.text_ids
    image_ranks, text_ranks = rank_both(both)
    for ranks, scores, right in ((image_ranks, similarity, relevant), (text_ranks, similarity.T, relevant.T)):
        found = recall(ranks)
        assert 0.3 < found["r1"] < 0.95
        theirs = {f"r{k}": RetrievalHitRate(top_k=k)(*asked(scores, right)).item() for k in (1, 5, 10)}
        assert {name: found[name] for name in theirs} == pytest.approx(theirs, abs=1e-6)
        mean_reciprocal = RetrievalMRR()(*asked(scores, right)).item()
        assert (1 / ranks.double()).mean().item() == pytest.approx(mean_reciprocal, abs=1e-6)


def test_recalls_of_texts_are_recalls_of_torchmetrics_and_top_k_accuracies_of_scikit_learn() -> None:
    # A text has one image, so that the share of hits is the share of what is right that is found.
    both = gallery(20)
    similarity = both.texts @ both.images.T
    found = recall(rank_both(both)[1])
    for k in (1, 5, 10):
        right = both.text_ids[:, None] == both.image_ids
        assert found[f"r{k}"] == pytest.approx(RetrievalRecall(top_k=k)(*asked(similarity, right)).item(), abs=1e-6)
        accuracy = top_k_accuracy_score(both.text_ids.numpy(), similarity.double().numpy(), k=k)
        assert found[f"r{k}"] == pytest.approx(accuracy, abs=1e-12)


def boxes(count: int, seed: int) -> Tensor:
    """[count, 4] float64, pixels of an image of 100 x 100."""
    generator = torch.Generator().manual_seed(seed)
    ends = 100 * torch.rand(count, 2, 2, generator=generator, dtype=torch.float64)
    return torch.cat([ends.amin(dim=1), ends.amax(dim=1)], dim=1)


def near(truth: Tensor, seed: int) -> Tensor:
    """Guesses that overlap with `truth` more or less."""
    generator = torch.Generator().manual_seed(seed)
    shifts = 15 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    moved = (truth + shifts * torch.rand(len(truth), 1, generator=generator, dtype=torch.float64)).unflatten(1, (2, 2))
    return torch.cat([moved.amin(dim=1), moved.amax(dim=1)], dim=1)


def test_overlaps_are_those_of_torchmetrics() -> None:
    a, b = boxes(60, 0), near(boxes(60, 0), 1)
    theirs = intersection_over_union(a, b, aggregate=False)
    torch.testing.assert_close(overlap(a, b), theirs)
    torch.testing.assert_close(aligned_overlap(a, b), theirs.diagonal())
    generalised = generalized_intersection_over_union(a, b, aggregate=False).diagonal()
    torch.testing.assert_close(generalised_overlap(a, b), generalised, atol=1e-6, rtol=0)  # theirs adds 1e-7 to areas
    assert generalised.min() < -0.01


def test_accuracies_are_those_of_overlaps_of_torchmetrics() -> None:
    truth = boxes(200, 2)
    guesses = near(truth, 3)
    given = Answers(guesses, torch.zeros(200, 2).double(), torch.ones(200, dtype=torch.bool))
    found = measure(given, targets(truth.tolist(), list(range(200))))
    iou = intersection_over_union(guesses, truth, aggregate=False).diagonal()
    giou = generalized_intersection_over_union(guesses, truth, aggregate=False).diagonal()
    shares = {f"acc{at}": (iou >= at / 100).double().mean().item() for at in (25, 50, 75)}
    shares |= {"giou50": (giou >= 0.5).double().mean().item(), "mean_iou": iou.mean().item()}
    assert {name: found[name] for name in shares} == pytest.approx(shares)
    assert 0.2 < shares["acc75"] < shares["giou50"] < shares["acc50"] < shares["acc25"] < 1


def test_the_area_under_a_curve_is_that_of_scikit_learn() -> None:
    positive, negative = (fakes.noise(60, seed=3) + 0.5).round(decimals=1), fakes.noise(90, seed=4).round(decimals=1)
    is_positive = [1] * len(positive) + [0] * len(negative)
    theirs = roc_auc_score(is_positive, torch.cat([positive, negative]).double().numpy())
    assert area_under_curve(positive, negative) == pytest.approx(theirs, abs=1e-12)
    assert len({*positive.tolist()} & {*negative.tolist()}) > 5  # that are equal, which count half


def test_the_plane_of_vectors_is_that_of_scikit_learn() -> None:
    vectors = fakes.noise(50, 12, seed=5) * torch.linspace(3, 0.5, 12)
    points, said = principal(vectors)
    theirs = PCA(2, svd_solver="full").fit(vectors.double().numpy())
    along = theirs.transform(vectors.double().numpy())
    assert np.abs(points.numpy()) == pytest.approx(np.abs(along), abs=1e-4)
    assert said == f"by PCA ({theirs.explained_variance_ratio_.sum():.0%} of the variance)"


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_is_that_of_torchmetrics(order: int) -> None:
    captions, references = LINES, [[LINES[(n + 3) % 4], f"{line} today"] for n, line in enumerate(LINES)]
    counts = [
        bleu_counts(words(said), [words(each) for each in meant])
        for said, meant in zip(captions, references, strict=True)
    ]
    ours = bleu(np.array(counts, dtype=np.float64).sum(axis=0))[order - 1]
    assert ours == pytest.approx(bleu_score(captions, references, n_gram=order).item(), abs=1e-6)
    assert 0.5 < ours < 1
