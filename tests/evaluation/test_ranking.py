import pytest
import torch
from torch import Tensor, tensor
from torch.nn.functional import normalize

from bitgen.evaluation.ranking import Gallery, first, first_both, rank_both, ranks, reranked
from tests import orders


def scores_with_ties(images: int, texts: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 7, (images, texts), generator=generator).float()


# Of 12 texts, in no order, on 5 images: 4, 1, 3, 2, 2 texts an image.
TEXT_IMAGE = tensor([2, 0, 4, 0, 2, 3, 1, 0, 0, 3, 2, 4])


def with_nan(scores: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scores.masked_fill(torch.rand(scores.shape, generator=generator) < 0.2, torch.nan)


@pytest.mark.parametrize("seed", range(20))
def test_image_ranks_equal_a_sorted_reference(seed: int):
    similarity = scores_with_ties(5, 12, seed)
    relevant = torch.arange(5)[:, None] == TEXT_IMAGE
    expected = [orders.rank(s, r) for s, r in zip(similarity.tolist(), relevant.tolist(), strict=True)]
    assert ranks(similarity, relevant).tolist() == expected


@pytest.mark.parametrize("seed", range(20))
def test_text_ranks_equal_a_sorted_reference(seed: int):
    similarity = scores_with_ties(5, 12, seed)
    relevant = TEXT_IMAGE[:, None] == torch.arange(5)
    expected = [orders.rank(s, r) for s, r in zip(similarity.T.tolist(), relevant.tolist(), strict=True)]
    assert ranks(similarity.T, relevant).tolist() == expected


def test_any_caption_of_the_image_is_a_hit():
    found = ranks(tensor([[0.9, 0.1, 0.5]]), tensor([[True, True, False]]))
    assert found.tolist() == [1]


def test_captions_of_one_image_do_not_push_each_other_down():
    found = ranks(tensor([[0.9, 0.9, 0.9, 0.1]]), tensor([[True, True, True, False]]))
    assert found.tolist() == [1]


def test_a_tie_counts_against_the_query():
    assert ranks(tensor([[0.5, 0.5, 0.5, 0.1]]), tensor([[True, False, False, False]])).tolist() == [3]


def test_a_model_that_gives_nan_ranks_last():
    assert ranks(torch.full((1, 4), torch.nan), tensor([[True, False, False, False]])).tolist() == [4]


def test_a_nan_among_the_others_counts_against_the_query():
    assert ranks(tensor([[0.5, torch.nan, 0.1]]), tensor([[True, False, False]])).tolist() == [2]


def test_a_query_with_nothing_relevant_is_refused():
    with pytest.raises(ValueError, match="found a query with nothing to retrieve"):
        ranks(torch.rand(2, 3), tensor([[True, False, False], [False, False, False]]))


def random_gallery(seed: int) -> Gallery:
    generator = torch.Generator().manual_seed(seed)
    images = normalize(torch.randn(5, 8, generator=generator), dim=-1)
    texts = normalize(torch.randn(12, 8, generator=generator), dim=-1)
    return Gallery(images, texts, torch.arange(5) * 100, TEXT_IMAGE * 100)


def test_chunks_of_any_size_give_the_ranks_of_the_whole_matrix():
    gallery = random_gallery(0)
    similarity = gallery.images @ gallery.texts.T
    relevant = torch.arange(5)[:, None] == TEXT_IMAGE
    image_ranks, text_ranks = rank_both(gallery, cells=1)
    assert torch.equal(image_ranks, ranks(similarity, relevant))
    assert torch.equal(text_ranks, ranks(similarity.T, relevant.T))


def test_a_photograph_that_stands_twice_is_not_its_own_distractor():
    vectors = torch.eye(3)
    gallery = Gallery(vectors[[0, 0, 1]], vectors[[0, 0, 1]], tensor([5, 5, 6]), tensor([5, 5, 6]))
    image_ranks, text_ranks = rank_both(gallery)
    assert image_ranks.tolist() == [1, 1, 1]
    assert text_ranks.tolist() == [1, 1, 1]


@pytest.mark.parametrize("k", [1, 2, 5, 12, 20])
@pytest.mark.parametrize("seed", range(10))
def test_the_first_few_are_those_of_a_sorted_reference(seed: int, k: int):
    similarity = with_nan(scores_with_ties(5, 12, seed), seed)
    relevant = torch.arange(5)[:, None] == TEXT_IMAGE
    expected = [orders.order(s, r)[:k] for s, r in zip(similarity.tolist(), relevant.tolist(), strict=True)]
    assert first(similarity, relevant, k).tolist() == expected


@pytest.mark.parametrize("k", [1, 2, 3, 5, 12, 20])
@pytest.mark.parametrize("seed", range(10))
def test_reranked_image_queries_equal_a_sorted_reference(seed: int, k: int):
    dual, again = scores_with_ties(5, 12, seed), scores_with_ties(5, 12, seed + 100)
    relevant = torch.arange(5)[:, None] == TEXT_IMAGE
    wanted = first(dual, relevant, k)
    found = reranked(ranks(dual, relevant), again.gather(1, wanted), relevant.gather(1, wanted))
    rows = zip(dual.tolist(), again.tolist(), relevant.tolist(), strict=True)
    assert found.tolist() == [orders.rank_again(*row, k) for row in rows]


@pytest.mark.parametrize("k", [1, 2, 3, 5, 12, 20])
@pytest.mark.parametrize("seed", range(10))
def test_reranked_text_queries_equal_a_sorted_reference(seed: int, k: int):
    dual, again = scores_with_ties(12, 5, seed), with_nan(scores_with_ties(12, 5, seed + 100), seed)
    relevant = TEXT_IMAGE[:, None] == torch.arange(5)
    wanted = first(dual, relevant, k)
    found = reranked(ranks(dual, relevant), again.gather(1, wanted), relevant.gather(1, wanted))
    rows = zip(dual.tolist(), again.tolist(), relevant.tolist(), strict=True)
    assert found.tolist() == [orders.rank_again(*row, k) for row in rows]


def test_what_stands_beyond_the_candidates_keeps_its_rank():
    found = reranked(tensor([7]), tensor([[0.1, 0.2]]), tensor([[False, False]]))
    assert found.tolist() == [7]


def test_a_tie_among_the_candidates_counts_against_the_query():
    found = reranked(tensor([1]), tensor([[0.5, 0.5, 0.5, 0.1]]), tensor([[True, False, False, False]]))
    assert found.tolist() == [3]


def test_a_nan_of_the_matching_head_puts_a_query_last_among_its_candidates():
    found = reranked(tensor([1]), tensor([[torch.nan, 0.5, 0.1]]), tensor([[True, False, False]]))
    assert found.tolist() == [3]


def test_dual_ranks_are_left_as_they_are():
    dual = tensor([2])
    reranked(dual, tensor([[0.1, 0.9]]), tensor([[False, True]]))
    assert dual.tolist() == [2]


def test_candidates_in_chunks_of_any_size_are_those_of_the_whole_matrix():
    gallery = random_gallery(0)
    similarity = gallery.images @ gallery.texts.T
    relevant = torch.arange(5)[:, None] == TEXT_IMAGE
    texts, images = first_both(gallery, 3, cells=1)
    assert torch.equal(texts, first(similarity, relevant, 3))
    assert torch.equal(images, first(similarity.T, relevant.T, 3))


def test_a_photograph_that_stands_twice_is_no_distractor_among_the_candidates():
    vectors = torch.eye(3)
    gallery = Gallery(vectors[[0, 0, 1]], vectors[[0, 0, 1]], tensor([5, 5, 6]), tensor([5, 5, 6]))
    texts, _ = first_both(gallery, 2)
    assert texts[0].tolist() == [0, 1]
