"""Words of phrases, told from their regions and their neighbours."""

import torch
from torch import Tensor

from bitgen.batch import Batch
from bitgen.model.vocabulary import TokenEmbedding
from bitgen.objectives.grounding import phrase_coverage
from bitgen.objectives.words import RegionWords
from bitgen.tokens import EOT
from tests import fakes

SIDE, TOWER, WIDTH = 4, 6, 8


def _embedding(batch: Batch) -> TokenEmbedding:
    torch.manual_seed(1)
    kept = sorted({*batch.token_ids.flatten().tolist(), EOT})
    return TokenEmbedding(WIDTH, len(kept), kept)


def _head() -> RegionWords:
    torch.manual_seed(0)
    return RegionWords(TOWER, WIDTH)


def _patches(batch: Batch) -> Tensor:
    return fakes.noise(len(batch.keys), SIDE * SIDE, TOWER, seed=3)


def _ask(head: RegionWords, patches: Tensor, batch: Batch, embedding: TokenEmbedding) -> tuple[Tensor, Tensor]:
    cover = phrase_coverage(batch.boxes, batch.box_phrase, len(batch.phrase_text), SIDE)
    texts = batch.token_ids, batch.token_mask, batch.phrase_text, batch.phrase_tokens
    return head(patches, cover, batch.text_image[batch.phrase_text], *texts, embedding)


@torch.no_grad()
def _slow(head: RegionWords, patches: Tensor, batch: Batch, embedding: TokenEmbedding) -> list[float]:
    """Of every word of every phrase, one by one."""
    cover = phrase_coverage(batch.boxes, batch.box_phrase, len(batch.phrase_text), SIDE)
    nats = []
    for phrase, (start, stop) in enumerate(batch.phrase_tokens.tolist()):
        text = int(batch.phrase_text[phrase])
        ids = batch.token_ids[text]
        region = (cover[phrase][:, None] * patches[batch.text_image[text]]).sum(dim=0) / cover[phrase].sum()
        for place in range(start, stop):
            before, after = (embedding(each)[None] for each in (ids[place - 1], ids[place + 1]))
            state = head.region(region) + head.before(before)[0] + head.after(after)[0]
            log_p = (embedding.head @ state).log_softmax(dim=0)
            nats.append(-log_p[embedding.rows(ids[place : place + 1])].item())
    return nats


def test_it_is_that_of_a_slow_loop() -> None:
    batch, head = fakes.fake_batch(3), _head()
    embedding = _embedding(batch)
    total, count = _ask(head, _patches(batch), batch, embedding)
    slow = _slow(head, _patches(batch), batch, embedding)
    assert int(count) == len(slow) > 12
    torch.testing.assert_close(total, torch.tensor(sum(slow)), rtol=1e-5, atol=1e-5)


def test_a_word_does_not_see_itself() -> None:
    """Other words for one of a text's: what its own state is does not change, what its neighbours' are does."""
    batch, head = fakes.fake_batch(1, texts=1, phrases=1), _head()
    embedding, ids = _embedding(batch), batch.token_ids
    words = embedding(ids)
    other = ids.clone()
    other[0, 2] = ids[0, 5]
    beside, changed = (head.before(each) + head.after(each.roll(-2, dims=1)) for each in (words, embedding(other)))
    same = (beside == changed).all(dim=2)[0]
    assert same[1]  # the state that stands for token 2
    assert (same[0], same[2]) == (False, False)  # tokens 1 and 3


def test_words_without_a_class_do_not_count() -> None:
    batch, head = fakes.fake_batch(2), _head()
    left_out = int(batch.token_ids[0, 1])
    kept = sorted({*batch.token_ids.flatten().tolist(), EOT} - {left_out})
    _, count = _ask(head, _patches(batch), batch, TokenEmbedding(WIDTH, len(kept), kept))
    _, all_words = _ask(head, _patches(batch), batch, _embedding(batch))
    assert int(count) < int(all_words)


def test_every_part_has_a_gradient() -> None:
    batch, head = fakes.fake_batch(2), _head()
    patches, embedding = _patches(batch).requires_grad_(), _embedding(batch)
    _ask(head, patches, batch, embedding)[0].backward()
    parts = [patches, *head.parameters(), embedding.weight]
    assert all(part.grad is not None and part.grad.abs().max() > 0 for part in parts)


def test_without_phrases_there_is_nothing_to_tell() -> None:
    batch, head = fakes.fake_batch(2, phrases=0), _head()
    total, count = _ask(head, _patches(batch), batch, _embedding(batch))
    total.backward()
    assert (total.item(), int(count)) == (0.0, 0)
    assert head.region.weight.grad is not None  # other ranks wait for it
