from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap
from torch import Tensor, tensor

from bitgen.evaluation.items import Items
from bitgen.evaluation.ranking import ranks
from bitgen.evaluation.retrieval import chance, embed, evaluate_retrieval, recall, resampled_medians, summarise
from tests import fakes


def retrieve(similarity: Tensor, text_image: Tensor) -> dict:
    """`summarise` from a whole matrix: similarity [I, T], and the image row of each text, text_image [T]."""
    rows = torch.arange(len(similarity))
    relevant = rows[:, None] == text_image[None]
    return summarise(ranks(similarity, relevant), ranks(similarity.T, relevant.T), rows, text_image)


def slow_chance(size: int, relevant: int, k: int) -> float:
    """Tries every way to draw k of the gallery; the relevant ones are the first."""
    draws = list(combinations(range(size), k))
    return sum(min(draw) < relevant for draw in draws) / len(draws)


# Of 12 texts, in no order, on 5 images: 4, 1, 3, 2, 2 texts an image.
TEXT_IMAGE = tensor([2, 0, 4, 0, 2, 3, 1, 0, 0, 3, 2, 4])


def test_a_model_that_gives_one_score_to_everything_ranks_last():
    result = retrieve(torch.zeros(5, 12), TEXT_IMAGE)
    assert result["t2i"]["r1"] == 0
    assert result["t2i"]["median_rank"] == 5


def test_one_image_and_its_text_are_found():
    result = retrieve(tensor([[0.3]]), tensor([0]))
    assert result["t2i"] == {"r1": 1.0, "r5": 1.0, "r10": 1.0, "median_rank": 1.0, "interval": {}}
    assert result["chance"]["i2t"] == {"r1": 1.0, "r5": 1.0, "r10": 1.0, "median_rank": 1.0}
    assert result["interval"] == {}


def test_recall_by_hand():
    assert recall(tensor([1, 2, 5, 6, 10, 11])) == pytest.approx(
        {"r1": 1 / 6, "r5": 3 / 6, "r10": 5 / 6, "median_rank": 5.5}
    )


def test_rsum_adds_the_six_recalls():
    result = summarise(tensor([1, 6]), tensor([1, 1, 11]), tensor([7, 8]), tensor([7, 7, 8]))
    assert result["rsum"] == pytest.approx((0.5 + 0.5 + 1.0) + (2 / 3 + 2 / 3 + 2 / 3))


def test_chance_equals_counting_every_draw():
    found = chance(tensor([4, 4, 9]), tensor([4, 4, 4, 9, 9, 5, 6]))
    expected = (2 * slow_chance(7, 3, 5) + slow_chance(7, 2, 5)) / 3
    assert found["r5"] == pytest.approx(expected)


@pytest.mark.parametrize(("size", "relevant"), [(7, 1), (8, 1), (7, 2), (9, 4), (30, 5), (30, 29), (3, 3)])
def test_half_of_all_orders_have_something_relevant_by_the_median_rank(size: int, relevant: int):
    ids = tensor([0] * relevant + list(range(1, size - relevant + 1)))
    first = [min(places) + 1 for places in combinations(range(size), relevant)]
    within = [sum(rank <= k for rank in first) / len(first) for k in range(size + 1)]
    assert chance(tensor([0]), ids)["median_rank"] == min(k for k in range(size + 1) if within[k] >= 0.5 - 1e-12)


def test_the_median_rank_in_a_large_gallery_is_about_its_middle():
    found = chance(torch.arange(5000).repeat(5), torch.arange(5000))
    assert found["median_rank"] == 2500
    # Of five texts the first comes after G (1 - 0.5 ** (1 / 5)) on the average.
    assert chance(torch.arange(5000), torch.arange(5000).repeat(5))["median_rank"] == pytest.approx(3236, abs=2)


def test_chance_of_the_coco_5k_gallery_is_two_in_ten_thousand():
    found = chance(torch.arange(5000).repeat(5), torch.arange(5000))
    assert found["r1"] == pytest.approx(0.0002)


def test_chance_is_certainty_where_the_gallery_is_smaller_than_the_list():
    assert chance(tensor([0, 1, 2]), tensor([0, 1, 2]))["r10"] == 1.0


def test_a_model_is_evaluated_over_all_texts_of_all_batches():
    batches = [fakes.fake_batch(3, seed=1), fakes.fake_batch(2, seed=2, position=3)]
    found = evaluate_retrieval(fakes.model().eval(), batches)
    assert (found["images"], found["texts"]) == (5, 10)


def test_a_models_recall_is_that_of_its_similarity_matrix():
    model, batch = fakes.model().eval(), fakes.fake_batch(6, seed=1)
    images = model.encode_image(batch.images).embedding
    texts = model.encode_text(batch.token_ids, batch.token_mask).embedding
    assert evaluate_retrieval(model, [batch])["t2i"] == retrieve(images @ texts.T, batch.text_image)["t2i"]


def test_embeddings_do_not_depend_on_the_other_images_of_a_batch():
    model = fakes.model().eval()
    one, two = fakes.fake_batch(3, seed=1), fakes.fake_batch(2, seed=2, position=3)
    both, alone = embed(model, [one, two]), embed(model, [two])
    torch.testing.assert_close(both.images[3:], alone.images)
    torch.testing.assert_close(both.texts[6:], alone.texts)


def test_nothing_to_retrieve_is_refused():
    with pytest.raises(ValueError, match="expected one or more images with texts"):
        evaluate_retrieval(fakes.model().eval(), [])


def test_every_recall_has_an_interval_by_photograph():
    # Five photographs; the texts of one are found, those of the others are not.
    text_ids = tensor([0, 0, 0, 0, 1, 2, 3, 4])
    found = summarise(torch.arange(1, 6), tensor([1, 1, 1, 1, 6, 6, 6, 6]), torch.arange(5), text_ids)
    assert found["t2i"]["interval"]["r10"] == [1.0, 1.0]
    assert found["t2i"]["interval"]["r1"][0] == 0.0  # where that photograph is not drawn
    assert found["t2i"]["interval"]["median_rank"] == [1.0, 6.0]
    assert found["i2t"]["interval"].keys() == {"r1", "r5", "r10", "median_rank"}
    assert found["bootstrap"] == {"percent": 95, "resamples": 1000, "seed": 0, "photographs": 5}


GROUPS = np.array([4, 4, 9, 4, 7, 9, 7, 7, 7, 1])
"""Photographs of ten queries."""


def copies(groups: NDArray[np.int64], seed: int, resamples: int) -> list[list[int]]:
    """The queries of every photograph that is drawn, again and again."""
    random = np.random.default_rng(seed)
    known = np.unique(groups)
    drawn = [known[random.integers(len(known), size=len(known))].tolist() for _ in range(resamples)]
    return [[row for photograph in each for row in np.flatnonzero(groups == photograph).tolist()] for each in drawn]


@pytest.mark.parametrize("seed", range(4))
def test_resampled_medians_equal_those_of_copied_queries(seed: int):
    ranks = np.random.default_rng(seed + 10).integers(1, 30, size=10)
    slow = [float(np.median(ranks[rows])) for rows in copies(GROUPS, seed, 60)]
    assert resampled_medians(ranks, GROUPS, seed, 60)[:, 0].tolist() == slow


def test_the_interval_of_a_median_agrees_with_scipy():
    ranks = np.random.default_rng(0).geometric(0.02, size=201)
    theirs = bootstrap((ranks,), np.median, n_resamples=3000, method="percentile", rng=1).confidence_interval
    ours = summarise(torch.from_numpy(ranks), torch.from_numpy(ranks), torch.arange(201), torch.arange(201), 2, 3000)
    # 21 ranks wide; the ends of two sets of 3,000 draws lie within a rank or two of each other.
    assert ours["t2i"]["interval"]["median_rank"] == pytest.approx([theirs.low, theirs.high], abs=2)


def test_the_interval_of_rsum_is_of_the_same_photographs_both_ways():
    image_ids, text_ids = np.unique(GROUPS), GROUPS
    image_ranks, text_ranks = np.array([1, 7, 20, 3]), np.array([1, 2, 9, 30, 1, 6, 12, 1, 4, 5])

    def rsum(images: list[int], texts: list[int]) -> float:
        return sum(float((ranks <= k).mean()) for ranks in (image_ranks[images], text_ranks[texts]) for k in (1, 5, 10))

    slow = [rsum(*rows) for rows in zip(copies(image_ids, 3, 200), copies(text_ids, 3, 200), strict=True)]
    ranks_and_ids = [torch.from_numpy(each) for each in (image_ranks, text_ranks, image_ids, text_ids)]
    found = summarise(*ranks_and_ids, seed=3, resamples=200)
    assert found["interval"]["rsum"] == pytest.approx(np.quantile(slow, [0.025, 0.975]).tolist())


def test_seed_and_resamples_of_the_intervals_are_those_asked_for():
    model, batch = fakes.model().eval(), fakes.fake_batch(12, seed=1)
    found = evaluate_retrieval(model, [batch], seed=1, resamples=20)
    assert found["bootstrap"] == {"percent": 95, "resamples": 20, "seed": 1, "photographs": 12}
    assert found["t2i"] != evaluate_retrieval(model, [batch], seed=2, resamples=20)["t2i"]


def test_of_one_resample_both_ends_are_its_mean():
    found = evaluate_retrieval(fakes.model().eval(), [fakes.fake_batch(12, seed=1)], resamples=1)
    ends = [*found["t2i"]["interval"].values(), *found["i2t"]["interval"].values(), found["interval"]["rsum"]]
    assert all(low == high for low, high in ends)


def collected(rerank: int | None) -> tuple[dict, dict[str, Items]]:
    batches = [fakes.fake_batch(3, seed=1), fakes.fake_batch(2, seed=2, position=3, tokens=32)]
    items: dict[str, Items] = {}
    return evaluate_retrieval(fakes.model().eval(), batches, rerank=rerank, items=items), items


def test_every_query_can_be_had_by_name_and_photograph():
    _, items = collected(None)
    assert items["i2t"].keys == ("fake-0", "fake-1", "fake-2", "fake-3", "fake-4")
    assert items["i2t"].photographs.tolist() == [1000, 1001, 1002, 1003, 1004]
    assert items["t2i"].keys[5:8] == ("fake-2.1", "fake-3.0", "fake-3.1")
    assert items["t2i"].photographs[5:8].tolist() == [1002, 1003, 1003]


@pytest.mark.parametrize("name", ["t2i", "i2t"])
def test_the_means_of_the_queries_are_the_recalls(name: str):
    found, items = collected(3)
    recalls = {figure: found[name][figure] for figure in ("r1", "r5", "r10")}
    again = {f"reranked_{figure}": found["reranked"][name][figure] for figure in ("r1", "r5", "r10")}
    assert items[name].means() == pytest.approx(recalls | again)


def test_without_reranking_there_is_nothing_of_it():
    found, items = collected(None)
    assert "reranked" not in found
    assert items["t2i"].values.keys() == {"r1", "r5", "r10"}


def test_what_is_reranked_stands_beside_what_the_dual_encoder_finds():
    alone, both = collected(None)[0], collected(4)[0]
    reranked = both.pop("reranked")
    assert both == alone
    assert reranked["k"] == 4
    assert reranked["t2i"].keys() == alone["t2i"].keys()
    assert reranked["rsum"] == sum(reranked[name][f"r{k}"] for name in ("t2i", "i2t") for k in (1, 5, 10))


def test_the_first_alone_cannot_be_reranked():
    found, _ = collected(1)
    assert found["reranked"]["t2i"] == found["t2i"]
    assert found["reranked"]["i2t"] == found["i2t"]


def test_no_candidates_are_refused():
    with pytest.raises(ValueError, match="expected one or more candidates to order anew, found 0"):
        evaluate_retrieval(fakes.model().eval(), [fakes.fake_batch()], rerank=0)
