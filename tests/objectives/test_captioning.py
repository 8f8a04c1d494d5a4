"""Next-token prediction, against torch's own cross-entropy."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bitgen.objectives import captioning
from bitgen.objectives.captioning import next_token_loss, predicted
from tests import fakes

V, D = 211, 12
"""Vocabulary and width of these tests."""
MASK = torch.arange(7) < torch.tensor([7, 3, 5])[:, None]


def _operands() -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.randint(0, V, (3, 7), generator=torch.Generator().manual_seed(0))
    return fakes.noise(3, 7, D).requires_grad_(), fakes.noise(V, D, seed=1).requires_grad_(), ids


def _reference(states: Tensor, embedding: Tensor, ids: Tensor, smoothing: float) -> Tensor:
    """Torch's loss over the tokens that count, one by one."""
    total = torch.zeros((), dtype=torch.float64)
    for t, length in enumerate(MASK.sum(dim=1).tolist()):
        logits = states[t, : length - 1].double() @ embedding.double().T
        total = total + functional.cross_entropy(logits, ids[t, 1:length], reduction="sum", label_smoothing=smoothing)
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [1, 4, 5, 18, 1024])
def test_loss_and_gradients_are_those_of_torch(monkeypatch: pytest.MonkeyPatch, chunk: int, smoothing: float) -> None:
    monkeypatch.setattr(captioning, "CHUNK_BYTES", chunk * 4 * V)
    states, embedding, ids = _operands()
    expected = _reference(states, embedding, ids, smoothing)
    to_states, to_embedding = torch.autograd.grad(3 * expected, (states, embedding))
    found = next_token_loss(states, embedding, ids, MASK, smoothing)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    own_states, own_embedding = torch.autograd.grad(3 * found, (states, embedding))
    torch.testing.assert_close(own_states, to_states, rtol=0, atol=1e-5)
    torch.testing.assert_close(own_embedding, to_embedding, rtol=0, atol=1e-5)


def test_gradients_reach_only_states_that_predict() -> None:
    states, embedding, ids = _operands()
    next_token_loss(states, embedding, ids, MASK, 0.1).backward()
    assert states.grad is not None
    predicts = torch.arange(7) < torch.tensor([6, 2, 4])[:, None]
    assert (states.grad.abs().amax(dim=2) > 0).equal(predicts)


def test_padding_may_hold_anything() -> None:
    states, embedding, ids = _operands()
    other = torch.where(MASK, ids, 5)
    assert next_token_loss(states, embedding, ids, MASK, 0.1).equal(
        next_token_loss(states, embedding, other, MASK, 0.1)
    )


def test_all_tokens_but_each_first_are_predicted() -> None:
    assert predicted(MASK).item() == 6 + 2 + 4


def test_a_perfect_prediction_costs_nothing() -> None:
    embedding, ids = 20 * torch.eye(V), torch.tensor([[3, 8, 2]])
    states = 20 * torch.eye(V)[torch.tensor([[8, 2, 0]])]
    assert next_token_loss(states, embedding, ids, torch.ones(1, 3, dtype=torch.bool), 0.0).item() < 1e-6


def test_copying_the_token_that_is_seen_is_no_prediction() -> None:
    embedding, ids = 20 * torch.eye(V), torch.tensor([[3, 8, 2]])
    states = 20 * torch.eye(V)[ids]
    assert next_token_loss(states, embedding, ids, torch.ones(1, 3, dtype=torch.bool), 0.0).item() > 100


@pytest.mark.parametrize("chunk", [1, 5, 1024])
def test_tokens_told_right_and_their_surprise_are_counted_where_they_are_predicted(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(captioning, "CHUNK_BYTES", chunk * 4 * V)
    states, embedding, ids = _operands()
    with torch.no_grad():
        states[0, :3] += 30 * embedding[ids[0, 1:4]]  # some are told right
        states[1, 3:] += 30 * embedding[ids[1, 3:]]  # padding
    seen: dict[str, Tensor] = {}
    next_token_loss(states, embedding, ids, MASK, 0.1, seen)
    logits = (states[:, :-1] @ embedding.T).detach()
    counts = [(t, l) for t in range(3) for l in range(int(MASK[t].sum()) - 1)]  # noqa: E741 (a token, as in the formula)
    right = sum(int(logits[t, l].argmax() == ids[t, l + 1]) for t, l in counts)  # noqa: E741
    assert seen["token_acc"].item() == right
    assert 0 < right < len(counts)
    assert seen["token_nats"].item() == pytest.approx(_reference(states, embedding, ids, 0.0).item(), rel=1e-6)
    assert not seen["token_nats"].requires_grad
