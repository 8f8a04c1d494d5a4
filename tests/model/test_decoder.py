"""The caption decoder: what it sees, and that its cache changes nothing."""

import math

import pytest
import torch
from torch import Tensor, nn

from bitgen.model.decoder import CaptionDecoder
from bitgen.model.decoding import beam_search, greedy
from bitgen.model.vocabulary import TokenEmbedding
from bitgen.tokens import EOT, MAX_TOKENS, VOCABULARY
from tests import fakes

TERNARY = pytest.mark.parametrize("ternary", [False, True])
LENGTH = 9
CLEAR = 0.06
"""Distance of the two largest logits at which no single activation's 8-bit code decides between them."""
MASK = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]).bool()


def _decoder(ternary: bool = False, width: int = fakes.WIDTH) -> CaptionDecoder:
    torch.manual_seed(0)
    decoder = CaptionDecoder(width, 2, 24, layers=2, ternary=ternary)
    nn.init.normal_(
        decoder.position.weight
    )  # as large as tokens here: else the first token would be repeated to the end
    return decoder


def _embedding(std: float = 0.02, width: int = fakes.WIDTH) -> TokenEmbedding:
    torch.manual_seed(1)
    embedding = TokenEmbedding(width)
    nn.init.normal_(embedding.weight, std=std)
    return embedding


def _words(count: int) -> TokenEmbedding:
    """Only tokens 0 .. count - 1 are ever likely: theirs are long, and far enough apart for the states to decide."""
    embedding = _embedding()
    with torch.no_grad():
        embedding.weight[:count] = 2 * fakes.unit(count)
    return embedding


def _assert_alike(found: Tensor, expected: Tensor, ternary: bool) -> None:
    """States [..., d] of standard deviation 1: to 1e-5, but ternary ones only for the most part.

    Attention adds up in another order, and a last bit may decide an activation's 8-bit code. In 1,440 random steps one in twelve
    had such a state, and none was off by more than 0.026.
    """
    if ternary:
        assert (found - expected).abs().max() < 0.05
        assert (found - expected).abs().amax(dim=-1).median() < 1e-5
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def _ids(rows: int = 3, length: int = LENGTH) -> Tensor:
    ids = torch.randint(0, VOCABULARY - 1, (rows, length), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = EOT
    return ids


def _first(rows: int) -> Tensor:
    return torch.full((rows, 1), EOT)


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


@torch.no_grad()
@TERNARY
@pytest.mark.parametrize("width", [fakes.WIDTH, 128])
@pytest.mark.parametrize("mask", [None, MASK])
def test_states_with_a_cache_are_those_without_at_every_step(ternary: bool, width: int, mask: Tensor | None) -> None:
    decoder, embedding = _decoder(ternary, width), _embedding(0.5, width)
    context, ids = fakes.noise(3, 5, width), _ids(length=24)
    cache = decoder.start(context, mask)
    found = [decoder.step(ids[:, step : step + 1], embedding, cache) for step in range(24)]
    expected = [decoder(ids[:, : step + 1], embedding, context, mask)[:, -1:] for step in range(24)]
    _assert_alike(torch.cat(found, dim=1), torch.cat(expected, dim=1), ternary)


@torch.no_grad()
@TERNARY
def test_a_sequence_goes_on_from_the_one_it_follows(ternary: bool) -> None:
    decoder, embedding, context = _decoder(ternary), _embedding(0.5), fakes.noise(2, 5, fakes.WIDTH)
    steps = [
        (_first(2), [[0], [0]]),
        (torch.tensor([[1, 2, 3], [4, 5, 6]]), [[0, 0, 0], [0, 0, 0]]),
        (torch.tensor([[7, 8], [9, 10]]), [[2, 0], [1, 1]]),
    ]
    cache, states = decoder.start(context, MASK[:2]), torch.empty(0)
    for tokens, parents in steps:
        cache.follow(torch.tensor(parents))
        states = decoder.step(tokens, embedding, cache)
    followed = torch.tensor([[[EOT, 3, 7], [EOT, 1, 8]], [[EOT, 5, 9], [EOT, 5, 10]]])
    expected = [decoder(followed[:, k], embedding, context, MASK[:2])[:, -1:] for k in range(2)]
    _assert_alike(states, torch.cat(expected, dim=1), ternary)


@torch.no_grad()
def test_a_step_projects_one_token_and_no_context() -> None:
    decoder, embedding = _decoder(), _embedding()
    seen: list[tuple[str, int]] = []
    for name, part in decoder.named_modules():
        if name.endswith(("key_value", "feed_forward.up")):
            part.register_forward_hook(
                lambda _, inputs, __, name=name: seen.append((name, inputs[0].shape[:-1].numel()))
            )
    cache = decoder.start(fakes.noise(1, 5, fakes.WIDTH))
    assert seen == [(f"layers.{i}.cross_attention.key_value", 5) for i in range(2)]
    parts = ("attention.key_value", "feed_forward.up")
    for _ in range(3):
        seen.clear()
        decoder.step(_first(1), embedding, cache)
        assert seen == [(f"layers.{i}.{part}", 1) for i in range(2) for part in parts]


@torch.no_grad()
def test_a_cache_reaches_the_last_position() -> None:
    decoder, embedding = _decoder(), _embedding(0.5)
    context, ids = fakes.noise(1, 5, fakes.WIDTH), _ids(1, MAX_TOKENS)
    cache = decoder.start(context)
    states = [decoder.step(ids[:, step : step + 1], embedding, cache) for step in range(MAX_TOKENS)]
    torch.testing.assert_close(torch.cat(states, dim=1), decoder(ids, embedding, context), rtol=0, atol=1e-5)


def _slow_logits(decoder: CaptionDecoder, embedding: nn.Embedding, context: Tensor, ids: list[int]) -> Tensor:
    """[V] after a whole prefix, every logit a plain sum in double precision."""
    state = decoder(torch.tensor([ids]), embedding, context[None])[0, -1].double()
    return (embedding.weight.double() * state).sum(dim=1)


def _slow_greedy(
    decoder: CaptionDecoder, embedding: nn.Embedding, context: Tensor, most: int
) -> tuple[list[int], float]:
    """One image, one step after the other, and the least distance of a largest logit from the next."""
    ids, clear = [EOT], math.inf
    for _ in range(most):
        values, tokens = _slow_logits(decoder, embedding, context, ids).topk(2)
        clear = min(clear, float(values[0] - values[1]))
        if tokens[0] == EOT:
            break
        ids.append(int(tokens[0]))
    return ids[1:], clear


def _slow_beams(decoder: CaptionDecoder, embedding: nn.Embedding, context: Tensor, most: int, beams: int) -> list[int]:
    """One image, α = 0, with lists and whole prefixes."""
    live, ended = [(0.0, [EOT])], []
    for _ in range(most):
        grown = []
        for log_p, ids in live:
            top = _slow_logits(decoder, embedding, context, ids).log_softmax(dim=0).topk(beams)
            grown += [(log_p + p, [*ids, i]) for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]
        grown = sorted(grown, reverse=True)[:beams]
        ended += [(log_p, ids[1:-1]) for log_p, ids in grown if ids[-1] == EOT]
        live = [(log_p, ids) for log_p, ids in grown if ids[-1] != EOT]
    return max(ended + [(log_p, ids[1:]) for log_p, ids in live])[1]


@torch.no_grad()
@TERNARY
def test_greedy_takes_the_likeliest_token_at_every_step(ternary: bool) -> None:
    decoder, embedding = _decoder(ternary), _words(12)
    context = fakes.noise(4, 5, fakes.WIDTH, seed=6)
    expected, clear = zip(*(_slow_greedy(decoder, embedding, row, 8) for row in context), strict=True)
    assert greedy(decoder.next_token(embedding, context), _first(4), 8) == list(expected)
    assert min(clear) > CLEAR


@torch.no_grad()
@pytest.mark.parametrize("beams", [2, 4])
def test_beams_are_those_of_a_search_over_whole_prefixes(beams: int) -> None:
    decoder, embedding = _decoder(), _words(12)
    context = fakes.noise(12, 5, fakes.WIDTH, seed=3)
    expected = [_slow_beams(decoder, embedding, row, 5, beams) for row in context]
    assert beam_search(decoder.next_token(embedding, context), _first(12), 5, beams, 0.0) == expected
    assert expected != [_slow_greedy(decoder, embedding, row, 5)[0] for row in context]


@torch.no_grad()
def test_greedy_ends_at_end_of_text_and_leaves_it_out() -> None:
    decoder, embedding, context = _decoder(), _embedding(), fakes.noise(2, 5, fakes.WIDTH)
    start = decoder(torch.full((2, 1), EOT), embedding, context)[0, -1]
    embedding.weight[EOT] = 10 * start  # the likeliest from the first step on, for the first image
    assert greedy(decoder.next_token(embedding, context), _first(2), 4)[0] == []


def test_the_decoder_shares_the_encoders_token_embedding() -> None:
    names = [name for name, p in fakes.model().named_parameters() if VOCABULARY in p.shape]
    assert names == ["text.token.weight"]
