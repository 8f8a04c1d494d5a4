from itertools import combinations

import pytest
import torch
from torch import Tensor, tensor
from torch.nn.functional import normalize

from bitgen.evaluation.retrieval import (
    Gallery,
    chance,
    embed,
    evaluate_retrieval,
    rank_both,
    ranks,
    recall,
    summarise,
)
from tests import fakes


def slow_rank(scores: list[float], relevant: list[bool]) -> int:
    """Sorts the gallery; among equal scores the relevant ones come last; counts from 1 to the first relevant one."""
    order = sorted(range(len(scores)), key=lambda entry: (-scores[entry], relevant[entry]))
    return 1 + [relevant[entry] for entry in order].index(True)


def retrieve(similarity: Tensor, text_image: Tensor) -> dict:
    """`summarise` from a whole matrix: similarity [I, T], and the image row of each text, text_image [T]."""
    rows = torch.arange(len(similarity))
    relevant = rows[:, None] == text_image[None]
    return summarise(ranks(similarity, relevant), ranks(similarity.T, relevant.T), rows, text_image)


def slow_chance(size: int, relevant: int, k: int) -> float:
    """Tries every way to draw k of the gallery; the relevant ones are the first."""
    draws = list(combinations(range(size), k))
    return sum(min(draw) < relevant for draw in draws) / len(draws)


def scores_with_ties(images: int, texts: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 7, (images, texts), generator=generator).float()


# Of 12 texts, in no order, on 5 images: 4, 1, 3, 2, 2 texts an image.
TEXT_IMAGE = tensor([2, 0, 4, 0, 2, 3, 1, 0, 0, 3, 2, 4])


@pytest.mark.parametrize("seed", range(20))
def test_image_ranks_equal_a_sorted_reference(seed: int):
    similarity = scores_with_ties(5, 12, seed)
    relevant = torch.arange(5)[:, None] == TEXT_IMAGE
    expected = [slow_rank(s, r) for s, r in zip(similarity.tolist(), relevant.tolist(), strict=True)]
    assert ranks(similarity, relevant).tolist() == expected


@pytest.mark.parametrize("seed", range(20))
def test_text_ranks_equal_a_sorted_reference(seed: int):
    similarity = scores_with_ties(5, 12, seed)
    relevant = TEXT_IMAGE[:, None] == torch.arange(5)
    expected = [slow_rank(s, r) for s, r in zip(similarity.T.tolist(), relevant.tolist(), strict=True)]
    assert ranks(similarity.T, relevant).tolist() == expected


def test_any_caption_of_the_image_is_a_hit():
    found = ranks(tensor([[0.9, 0.1, 0.5]]), tensor([[True, True, False]]))
    assert found.tolist() == [1]


def test_captions_of_one_image_do_not_push_each_other_down():
    found = ranks(tensor([[0.9, 0.9, 0.9, 0.1]]), tensor([[True, True, True, False]]))
    assert found.tolist() == [1]


def test_a_tie_counts_against_the_query():
    assert ranks(tensor([[0.5, 0.5, 0.5, 0.1]]), tensor([[True, False, False, False]])).tolist() == [3]


def test_a_model_that_gives_one_score_to_everything_ranks_last():
    result = retrieve(torch.zeros(5, 12), TEXT_IMAGE)
    assert result["t2i"]["r1"] == 0
    assert result["t2i"]["median_rank"] == 5


def test_a_model_that_gives_nan_ranks_last():
    assert ranks(torch.full((1, 4), torch.nan), tensor([[True, False, False, False]])).tolist() == [4]


def test_a_nan_among_the_others_counts_against_the_query():
    assert ranks(tensor([[0.5, torch.nan, 0.1]]), tensor([[True, False, False]])).tolist() == [2]


def test_a_query_with_nothing_relevant_is_refused():
    with pytest.raises(ValueError, match="found a query with nothing to retrieve"):
        ranks(torch.rand(2, 3), tensor([[True, False, False], [False, False, False]]))


def test_one_image_and_its_text_are_found():
    result = retrieve(tensor([[0.3]]), tensor([0]))
    assert result["t2i"] == {"r1": 1.0, "r5": 1.0, "r10": 1.0, "median_rank": 1.0}
    assert result["chance"]["i2t"] == {"r1": 1.0, "r5": 1.0, "r10": 1.0}


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


def test_chance_of_the_coco_5k_gallery_is_two_in_ten_thousand():
    found = chance(torch.arange(5000).repeat(5), torch.arange(5000))
    assert found["r1"] == pytest.approx(0.0002)


def test_chance_is_certainty_where_the_gallery_is_smaller_than_the_list():
    assert chance(tensor([0, 1, 2]), tensor([0, 1, 2]))["r10"] == 1.0


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
