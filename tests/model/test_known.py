"""What a memory knows of: evidence, the decision that follows from it, and the slots in use, against float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bitgen.model.memory import EpisodicMemory, MemoryState

SLOTS, WIDTH = 32, 128


def _memory(noise: float = 0.1) -> EpisodicMemory:
    torch.manual_seed(0)
    return EpisodicMemory(SLOTS, WIDTH, noise=noise)


def _noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


def _written(memory: EpisodicMemory, keys: Tensor) -> MemoryState:
    """A state with these keys [E, N, C] and values of noise."""
    return memory.write(
        memory.empty(len(keys)), keys, _noise(*keys.shape[:2], seed=9), torch.ones(keys.shape[:2]).bool()
    )


def _known(memory: EpisodicMemory, state: MemoryState, queries: Tensor) -> Tensor:
    return memory.is_known(memory.read(state, queries))


def test_an_empty_memory_has_no_evidence_of_anything() -> None:
    memory = _memory()
    assert memory.evidence(memory.read(memory.empty(2), _noise(2, 50))).eq(0).all()


def test_an_empty_memory_knows_nothing() -> None:
    memory = _memory()
    assert not memory.is_known(memory.read(memory.empty(2), _noise(2, 50)), threshold=1e-6).any()


@pytest.mark.parametrize("noise", [0.02, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("count", [1, 8, 32, 128])
def test_a_key_that_was_written_has_the_evidence_of_one_writing_or_more(count: int, noise: float) -> None:
    memory, keys = _memory(noise), _noise(3, count)
    assert memory.evidence(memory.read(_written(memory, keys), keys)).min() > 0.999


@pytest.mark.parametrize("times", [1, 2, 7])
def test_evidence_counts_how_often_a_key_was_written(times: int) -> None:
    memory, key = _memory(), _noise(1, 1)
    reading = memory.read(_written(memory, key.expand(1, times, WIDTH)), key)
    assert memory.evidence(reading).item() == pytest.approx(times, rel=1e-3)


def test_evidence_is_noise_times_confidence_over_the_posterior_variance() -> None:
    memory, keys, queries = _memory(), _noise(1, 6), _noise(1, 4, seed=2)
    memory.prior_log_precision.data.uniform_(-1, 1)
    address, asked = (memory.address(k)[0].detach().double().numpy() for k in (keys, queries))
    prior = np.diag(memory.prior_log_precision.detach().double().exp().numpy())
    noise = memory.noise().item()
    before = np.diag(asked @ np.linalg.inv(prior) @ asked.T)
    after = np.diag(asked @ np.linalg.inv(prior + address.T @ address / noise) @ asked.T)
    found = memory.evidence(memory.read(_written(memory, keys), queries))
    np.testing.assert_allclose(found[0].detach(), noise * (1 / after - 1 / before), rtol=1e-3)


def test_a_written_key_is_known() -> None:
    memory, keys = _memory(), _noise(20, 16)
    assert _known(memory, _written(memory, keys), keys).all()


@pytest.mark.parametrize(
    ("count", "least", "most"), [(8, 0.0, 0.001), (16, 0.003, 0.01), (24, 0.1, 0.2), (64, 0.99, 1.0)]
)
def test_an_unwritten_key_is_not_known_until_the_memory_is_half_full(count: int, least: float, most: float) -> None:
    memory = _memory()
    known = _known(memory, _written(memory, _noise(100, count)), _noise(100, 50, seed=2))
    assert least <= known.float().mean().item() <= most


def test_forgetting_a_key_makes_it_unknown_again() -> None:
    memory, keys = _memory(), _noise(50, 8)
    values, mask = _noise(50, 8, seed=9), torch.ones(50, 8).bool()
    state = memory.forget(_written(memory, keys), keys, values, mask & (torch.arange(8) < 3))
    known = _known(memory, state, keys)
    assert not known[:, :3].any()
    assert known[:, 3:].all()


def test_what_became_nan_is_not_known() -> None:
    memory, keys = _memory(), _noise(1, 3)
    state = memory.forget(memory.empty(1), keys, keys, torch.ones(1, 3).bool())
    assert memory.read(state, keys).values.isnan().all()
    assert not _known(memory, state, keys).any()


def test_a_key_without_direction_is_not_known() -> None:
    memory = _memory()
    assert not _known(memory, _written(memory, _noise(1, 4)), torch.ones(1, 1, WIDTH)).any()


@pytest.mark.parametrize(("cosine", "evidence"), [(1.0, 1.0), (0.95, 0.46), (0.9, 0.28), (0.8, 0.14)])
def test_evidence_falls_with_the_angle_between_addresses(cosine: float, evidence: float) -> None:
    """Keys from two orthonormal addresses, centred and of LayerNorm's length, so that addresses have the length 1."""
    memory = _memory()
    rows = memory.addresses.detach() - memory.addresses.detach().mean(dim=1, keepdim=True)
    memory.addresses.data = torch.linalg.qr(rows.T)[0].T.contiguous()
    basis = torch.linalg.solve_triangular(
        torch.linalg.cholesky(memory.addresses.data @ memory.addresses.data.T), memory.addresses.data, upper=False
    )
    other = torch.linalg.qr(torch.cat([basis, torch.ones(1, WIDTH), _noise(1)]).T)[0][:, -1]
    # LayerNorm gives a length of √C, an address has 1/√K of what lies in its span: a quarter of the square is in it.
    key = (basis[0] + 3**0.5 * other)[None, None]
    query = (cosine * basis[0] + (1 - cosine**2) ** 0.5 * basis[1] + 3**0.5 * other)[None, None]
    assert memory.address(key).norm().item() == pytest.approx(1, abs=1e-3)
    found = memory.evidence(memory.read(_written(memory, key), query)).item()
    assert found == pytest.approx(evidence, abs=0.006)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_a_threshold_that_an_empty_memory_would_meet_is_refused(threshold: float) -> None:
    memory = _memory()
    with pytest.raises(ValueError, match="expected a threshold above 0"):
        memory.is_known(memory.read(memory.empty(1), _noise(1, 1)), threshold)


def test_an_empty_memory_uses_no_slot() -> None:
    assert _memory().utilisation(_memory().empty(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("count", [1, 12, 100])
def test_utilisation_is_the_trace_of_the_ridges_hat_matrix(count: int) -> None:
    """tr(X (XᵀX + σ²Λ0)⁻¹ Xᵀ) in float64: the ridge's degrees of freedom by the fitted values, not by the slots."""
    memory, keys = _memory(), _noise(2, count)
    memory.prior_log_precision.data.uniform_(-1, 1)
    x = memory.address(keys)[1].detach().double().numpy()
    ridge = memory.noise().item() * np.diag(memory.prior_log_precision.detach().double().exp().numpy())
    expected = np.trace(x @ np.linalg.inv(x.T @ x + ridge) @ x.T)
    assert memory.utilisation(_written(memory, keys))[1].item() == pytest.approx(expected, rel=1e-4)


def test_copies_of_one_key_use_one_slot() -> None:
    memory = _memory(0.0101)
    assert memory.utilisation(_written(memory, _noise(1, 1).expand(1, 50, WIDTH))).item() == pytest.approx(1, abs=1e-3)


def test_no_more_slots_are_used_than_there_are() -> None:
    memory = _memory(0.0101)
    assert SLOTS - 0.1 < memory.utilisation(_written(memory, _noise(1, 2000))).item() <= SLOTS


@pytest.mark.parametrize("count", [4, 16, 64])
def test_the_confidence_of_a_random_key_is_the_share_of_slots_in_use(count: int) -> None:
    """Weighted by the variance of its address, of which confidence is a share."""
    memory = _memory()
    state = _written(memory, _noise(1, count))
    queries = _noise(1, 20000, seed=2)
    reading = memory.read(state, queries)
    weight = memory.address(queries).square().sum(-1)
    mean = (reading.confidence * weight).sum() / weight.sum()
    assert mean.item() == pytest.approx(memory.utilisation(state).item() / SLOTS, abs=0.01)
