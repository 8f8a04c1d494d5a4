"""The text encoder and the caption decoder."""

import pytest
import torch
from torch import Tensor, nn

from bitgen.model.language import CaptionDecoder, TextEncoder, end_state
from bitgen.tokens import EOT, VOCABULARY
from tests import fakes

TERNARY = pytest.mark.parametrize("ternary", [False, True])
LENGTH = 9


def _encoder(ternary: bool) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(fakes.WIDTH, 2, 24, layers=2, fusion_layers=1, ternary=ternary, gated=True)


def _decoder(ternary: bool = False) -> CaptionDecoder:
    torch.manual_seed(0)
    return CaptionDecoder(fakes.WIDTH, 2, 24, layers=2, ternary=ternary)


def _embedding(std: float = 0.02) -> nn.Embedding:
    """Few rows beside end-of-text's are ever the likeliest when `std` is large: the states then decide."""
    torch.manual_seed(1)
    embedding = nn.Embedding(VOCABULARY, fakes.WIDTH)
    nn.init.normal_(embedding.weight, std=std)
    return embedding


def _ids(rows: int = 3, length: int = LENGTH) -> Tensor:
    ids = torch.randint(0, VOCABULARY - 1, (rows, length), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = EOT
    return ids


def _encode(encoder: TextEncoder, bucket: int) -> Tensor:
    """The states of 9 tokens in rows of `bucket` positions."""
    ids = torch.full((3, bucket), EOT)
    ids[:, :LENGTH] = _ids()
    mask = (torch.arange(bucket) < LENGTH).expand(3, -1)
    return encoder.finish(encoder.start(ids, mask), mask)[:, :LENGTH]


@TERNARY
@pytest.mark.parametrize("bucket", [16, 64, 256])
def test_more_padding_leaves_a_text_as_it_is(ternary: bool, bucket: int) -> None:
    encoder = _encoder(ternary)
    torch.testing.assert_close(_encode(encoder, bucket), _encode(encoder, LENGTH), rtol=0, atol=1e-5)


def test_what_stands_in_the_padding_is_not_read() -> None:
    encoder, mask = _encoder(True), (torch.arange(16) < LENGTH).expand(3, -1)
    ids = _ids(length=16)
    other = torch.where(mask, ids, 7)
    assert encoder.finish(encoder.start(ids, mask), mask)[mask].equal(
        encoder.finish(encoder.start(other, mask), mask)[mask]
    )


def test_a_text_does_not_depend_on_the_others_of_its_batch() -> None:
    encoder, mask = _encoder(False), torch.ones(3, LENGTH, dtype=torch.bool)
    alone = encoder.finish(encoder.start(_ids()[:1], mask[:1]), mask[:1])
    together = encoder.finish(encoder.start(_ids(), mask), mask)
    torch.testing.assert_close(alone, together[:1], rtol=0, atol=1e-6)


def test_the_order_of_tokens_matters() -> None:
    encoder, mask = _encoder(False), torch.ones(3, LENGTH, dtype=torch.bool)
    forwards = encoder.finish(encoder.start(_ids(), mask), mask).mean(dim=1)
    backwards = encoder.finish(encoder.start(_ids().flip(1), mask), mask).mean(dim=1)
    assert (forwards - backwards).abs().max() > 1e-3


def test_the_end_state_is_that_of_the_last_token_that_is_not_padding() -> None:
    states, lengths = fakes.noise(3, 5, 4).bfloat16(), [2, 5, 1]
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    expected = [states[text, length - 1].tolist() for text, length in enumerate(lengths)]
    found = end_state(states, mask)
    assert (found.dtype, found.tolist()) == (torch.float32, expected)


@TERNARY
@pytest.mark.parametrize("changed", range(1, LENGTH))
def test_a_later_token_does_not_reach_an_earlier_state(ternary: bool, changed: int) -> None:
    decoder, embedding, context = _decoder(ternary), _embedding(), fakes.noise(3, 5, fakes.WIDTH)
    ids = _ids()
    other = ids.clone()
    other[:, changed:] = 7
    before, after = decoder(ids, embedding, context), decoder(other, embedding, context)
    assert before[:, :changed].equal(after[:, :changed])
    assert not before[:, changed].equal(after[:, changed])


def test_hidden_context_is_not_read() -> None:
    decoder, embedding, context = _decoder(), _embedding(), fakes.noise(3, 5, fakes.WIDTH)
    mask = torch.tensor([True, True, False, True, False]).expand(3, -1)
    masked = decoder(_ids(), embedding, context, mask)
    torch.testing.assert_close(masked, decoder(_ids(), embedding, context[:, [0, 1, 3]]), rtol=0, atol=1e-6)


def _slow_greedy(decoder: CaptionDecoder, embedding: nn.Embedding, context: Tensor, most: int) -> list[int]:
    """One image, one step after the other, every logit a plain sum in double precision."""
    ids = [EOT]
    for _ in range(most):
        state = decoder(torch.tensor([ids]), embedding, context[None])[0, -1].double()
        likeliest = int((embedding.weight.double() * state).sum(dim=1).argmax())
        if likeliest == EOT:
            break
        ids.append(likeliest)
    return ids[1:]


@torch.no_grad()
def test_greedy_takes_the_likeliest_token_at_every_step() -> None:
    decoder, embedding, context = _decoder(), _embedding(std=0.5), fakes.noise(4, 5, fakes.WIDTH, seed=3)
    expected = [_slow_greedy(decoder, embedding, row, 6) for row in context]
    assert decoder.greedy(embedding, context, 6) == expected
    assert [len(row) for row in expected] == [6] * 4


@torch.no_grad()
def test_greedy_ends_at_end_of_text_and_leaves_it_out() -> None:
    decoder, embedding, context = _decoder(), _embedding(), fakes.noise(2, 5, fakes.WIDTH)
    start = decoder(torch.full((2, 1), EOT), embedding, context)[0, -1]
    embedding.weight[EOT] = 10 * start  # the likeliest from the first step on, for the first image
    assert decoder.greedy(embedding, context, 4)[0] == []


@torch.no_grad()
def test_greedy_gives_as_many_tokens_as_asked_at_most() -> None:
    assert [len(row) for row in _decoder().greedy(_embedding(), fakes.noise(2, 5, fakes.WIDTH), 3)] == [3, 3]


def test_the_decoder_shares_the_encoders_token_embedding() -> None:
    names = [name for name, p in fakes.model().named_parameters() if VOCABULARY in p.shape]
    assert names == ["text.token.weight"]
