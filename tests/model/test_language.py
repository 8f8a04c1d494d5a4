"""The text encoder."""

import pytest
import torch
from torch import Tensor

from bitgen.model.language import TextEncoder, end_state
from bitgen.tokens import EOT, VOCABULARY
from tests import fakes

TERNARY = pytest.mark.parametrize("ternary", [False, True])
LENGTH = 9


def _encoder(ternary: bool) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(fakes.WIDTH, 2, 24, layers=2, fusion_layers=1, ternary=ternary, gated=True)


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
