import pytest
import torch
from torch import Tensor, tensor

from bitgen.batch import Batch
from bitgen.evaluation.ranking import rank_both
from bitgen.evaluation.reranking import match, rerank_both, temporary_states
from bitgen.evaluation.retrieval import embed
from bitgen.model.bitgen import BitGen
from bitgen.tokens import EOT
from tests import fakes, orders

BATCHES = [
    fakes.fake_batch(3, texts=3, seed=1),
    fakes.fake_batch(4, seed=2, position=3, tokens=32, image_ids=[7, 8, 7, 9]),
]
"""Seven images with 17 texts, of two lengths; one photograph stands twice."""


def fused_model() -> BitGen:
    """Of random weights in full precision (so that what a pair is computed beside does not matter), its gates open."""
    model = fakes.model(ternary=False).eval()
    with torch.no_grad():
        for gate in model.gates().values():
            gate.fill_(1.0)
    return model


def slow_matrix(model: BitGen, batches: list[Batch]) -> Tensor:
    """[I, T] the log-odds of every pair, one at a time, from the images and the texts themselves."""
    images = [model.encode_image(batch.images[row : row + 1]) for batch in batches for row in range(len(batch.keys))]
    texts = [
        model.encode_text(batch.token_ids[row : row + 1], batch.token_mask[row : row + 1])
        for batch in batches
        for row in range(len(batch.token_ids))
    ]
    one = tensor([0])
    return tensor([[model.match(image, text, one, one).item() for text in texts] for image in images])


@pytest.mark.parametrize("k", [1, 2, 4, 7, 17, 100])
def test_ranks_are_those_of_all_pairs_in_a_sorted_reference(k: int):
    model = fused_model()
    with torch.inference_mode(), temporary_states() as states:
        gallery = embed(model, BATCHES, states)
        dual = rank_both(gallery)
        image_ranks, text_ranks = rerank_both(model, gallery, states, dual, k)
        again = slow_matrix(model, BATCHES)
    similarity = gallery.images @ gallery.texts.T
    relevant = gallery.image_ids[:, None] == gallery.text_ids
    both_ways = [(similarity, again, relevant), (similarity.T, again.T, relevant.T)]
    expected = [
        [orders.rank_again(*row, k) for row in zip(*(each.tolist() for each in matrices), strict=True)]
        for matrices in both_ways
    ]
    assert [image_ranks.tolist(), text_ranks.tolist()] == expected


def test_the_matching_head_changes_ranks_here():
    model = fused_model()
    with temporary_states() as states:
        gallery = embed(model, BATCHES, states)
        dual = rank_both(gallery)
        again = rerank_both(model, gallery, states, dual, 100)
    assert not torch.equal(dual[0], again[0])
    assert not torch.equal(dual[1], again[1])


def test_how_many_pairs_go_at_once_does_not_matter():
    model = fused_model()
    rows = torch.cartesian_prod(torch.arange(7), torch.arange(17)).unbind(dim=1)
    with temporary_states() as states:
        embed(model, BATCHES, states)
        torch.testing.assert_close(match(model, states, *rows, pairs=3), match(model, states, *rows))


def test_a_model_that_gives_nan_ranks_last_among_the_candidates():
    model = fused_model()
    with torch.no_grad():
        model.match_head.bias.fill_(torch.nan)
    with temporary_states() as states:
        gallery = embed(model, BATCHES, states)
        image_ranks, text_ranks = rerank_both(model, gallery, states, rank_both(gallery), 100)
    assert image_ranks.tolist() == [15, 15, 15, 14, 16, 14, 16]
    assert text_ranks.tolist() == [7] * 9 + [6, 6, 7, 7, 6, 6, 7, 7]


def test_states_of_images_are_kept_to_the_last_digit():
    first, second = fakes.noise(3, 16, 8, seed=1), fakes.noise(2, 16, 8, seed=2)
    with temporary_states() as states:
        for start, batch in zip((first, second), BATCHES, strict=True):
            states.add(start, batch.token_ids, batch.token_mask)
        found = states.images(tensor([0, 3, 4]))
    assert torch.equal(found, torch.cat([first[:1], second]))


def test_texts_are_padded_to_the_longest_of_those_asked_for():
    with temporary_states() as states:
        for batch in BATCHES:
            states.add(fakes.noise(len(batch.keys), 16, 8), batch.token_ids, batch.token_mask)
        ids, mask = states.texts(tensor([10, 2]))
    longer, shorter = BATCHES[1].token_mask[1], BATCHES[0].token_mask[2]
    assert mask.sum(dim=1).tolist() == [longer.sum(), shorter.sum()]
    assert ids.shape[1] == max(longer.sum(), shorter.sum())
    assert ids[0][mask[0]].tolist() == BATCHES[1].token_ids[1][longer].tolist()
    assert ids[1][mask[1]].tolist() == BATCHES[0].token_ids[2][shorter].tolist()
    assert ids[~mask].unique().tolist() == [EOT]
