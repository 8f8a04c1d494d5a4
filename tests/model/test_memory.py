"""The memory against ridge regression in float64, torch.distributions, and what its definition promises.

T1 to T12 number the properties that an exact memory has; T6 is in `test_larimar.py`.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from bitgen.model.memory import NOISE_FLOOR, EpisodicMemory, MemoryState

SLOTS, WIDTH = 8, 32


def _memory(slots: int = SLOTS, width: int = WIDTH, **options: object) -> EpisodicMemory:
    """A memory whose parameters have all left their initial values."""
    torch.manual_seed(0)
    memory = EpisodicMemory(slots, width, **options)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        memory.addresses.add_(torch.randn(slots, width) * 0.1)
        memory.prior_mean.normal_()
        memory.prior_log_precision.uniform_(-0.5, 0.5)
    return memory


def _pairs(count: int, episodes: int = 2, width: int = WIDTH, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and a mask that is all true."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, episodes, count, width, generator=generator)
    return keys, values, torch.ones(episodes, count, dtype=torch.bool)


def _rows(pairs: tuple[Tensor, Tensor, Tensor], rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    return pairs[0][:, rows], pairs[1][:, rows], pairs[2][:, rows]


def _full(memory: EpisodicMemory, pairs: tuple[Tensor, Tensor, Tensor]) -> MemoryState:
    return memory.write(memory.empty(len(pairs[0])), *pairs)


def _addresses(memory: EpisodicMemory, keys: np.ndarray) -> np.ndarray:
    """Addresses of keys [N, C] in float64, from the definition."""
    reference = memory.addresses.detach().double().numpy()
    orthonormal = np.linalg.inv(np.linalg.cholesky(reference @ reference.T)) @ reference
    normal = (keys - keys.mean(1, keepdims=True)) / np.sqrt(keys.var(1, keepdims=True) + 1e-5)
    return normal @ orthonormal.T / np.sqrt(memory.slots)


def _ridge(memory: EpisodicMemory, keys: Tensor, values: Tensor, queries: Tensor) -> np.ndarray:
    """The read of one episode as a least-squares problem in float64: data rows over noise, prior rows beneath."""
    sigma = math.sqrt(memory.noise().item())
    prior = np.diag(np.exp(0.5 * memory.prior_log_precision.detach().double().numpy()))
    rows = np.concatenate([_addresses(memory, keys.double().numpy()) / sigma, prior])
    targets = np.concatenate([values.double().numpy() / sigma, prior @ memory.prior_mean.detach().double().numpy()])
    slots = np.linalg.lstsq(rows, targets, rcond=None)[0]
    return _addresses(memory, queries.double().numpy()) @ slots


@pytest.mark.parametrize("count", [1, 4, 8, 20])
def test_a_read_is_ridge_regression_in_float64(count: int) -> None:
    """T3."""
    memory, pairs = _memory(noise=0.02), _pairs(count)
    queries = torch.randn(2, 5, WIDTH)
    read = memory.read(_full(memory, pairs), queries).values[1]
    np.testing.assert_allclose(
        read.detach(), _ridge(memory, pairs[0][1], pairs[1][1], queries[1]), rtol=1e-4, atol=1e-4
    )


def test_writing_one_by_one_equals_writing_all_at_once() -> None:
    """T3."""
    memory, pairs = _memory(), _pairs(3)
    state = memory.write(memory.empty(2), *_rows(pairs, slice(0, 1)))
    state = memory.write(state, *_rows(pairs, slice(1, 2)))
    state = memory.write(state, *_rows(pairs, slice(2, 3)))
    torch.testing.assert_close(state, _full(memory, pairs))


def test_the_order_of_an_episode_does_not_matter() -> None:
    """T2; its counterpart, addresses from the current memory, is below."""
    memory, (keys, values, mask) = _memory(), _pairs(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = _full(memory, (keys[:, order], values[:, order], mask))
    torch.testing.assert_close(
        memory.read(shuffled, keys).values, memory.read(_full(memory, (keys, values, mask)), keys).values
    )


def _kanerva(memory: EpisodicMemory, keys: np.ndarray, values: np.ndarray, fixed: bool) -> np.ndarray:
    """R after Kanerva's update in float64, pair by pair; addresses are the memory's own, or made from the current R."""
    reference = memory.addresses.detach().double().numpy()
    start = np.linalg.inv(np.linalg.cholesky(reference @ reference.T)) @ reference
    mean, covariance, noise = start.copy(), np.eye(memory.slots), memory.noise().item()
    for key, value in zip(keys, values, strict=True):
        normal = (key - key.mean()) / np.sqrt(key.var() + 1e-5)
        address = normal @ np.linalg.pinv(start if fixed else mean) / np.sqrt(memory.slots)
        spread = address @ covariance
        gain = spread / (spread @ address + noise)
        mean, covariance = mean + np.outer(gain, value - address @ mean), covariance - np.outer(gain, spread)
    return mean


def test_with_addresses_from_the_current_memory_the_order_would_matter() -> None:
    """T2, the counterpart: it is why the addresses are fixed."""
    memory, (keys, values, _) = _memory(), _pairs(6)
    key, value = keys[0].double().numpy(), values[0].double().numpy()
    apart = [
        np.abs(_kanerva(memory, key, value, f) - _kanerva(memory, key[::-1], value[::-1], f)) for f in (True, False)
    ]
    assert apart[0].max() < 1e-10 < 0.1 < apart[1].max()


def test_a_read_is_kanervas_update_in_float64() -> None:
    """T3: the Bayesian update of arXiv 1804.01756 pair by pair, with fixed addresses and a prior mean of the addresses."""
    memory, pairs = _memory(), _pairs(12)
    memory.prior_log_precision.data.zero_()
    reference = memory.addresses.detach()
    memory.prior_mean.data = torch.linalg.solve_triangular(
        torch.linalg.cholesky(reference @ reference.T), reference, upper=False
    )
    slots = _kanerva(memory, pairs[0][1].double().numpy(), pairs[1][1].double().numpy(), fixed=True)
    queries = torch.randn(2, 5, WIDTH)
    expected = _addresses(memory, queries[1].double().numpy()) @ slots
    np.testing.assert_allclose(
        memory.read(_full(memory, pairs), queries).values[1].detach(), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("count", [1, 4, 8, 16])
def test_without_a_ridge_what_was_written_is_read(count: int) -> None:
    """T1: the ridge is σ² Λ0, and vanishes with the prior's precision."""
    torch.manual_seed(0)
    memory, pairs = EpisodicMemory(32, 128, noise=0.0101), _pairs(count, width=128)
    memory.prior_log_precision.data.fill_(-7)
    read = memory.read(_full(memory, pairs), pairs[0]).values
    assert (read - pairs[1]).norm() / pairs[1].norm() < 1e-4


def test_up_to_as_many_pairs_as_slots_are_recalled() -> None:
    memory, pairs = EpisodicMemory(32, 128, noise=0.0101), _pairs(8, width=128)
    read = memory.read(_full(memory, pairs), pairs[0]).values
    # The ridge: an address of squared length 1 shrinks its value by 0.0101 / 1.0101.
    assert (read - pairs[1]).norm() / pairs[1].norm() < 0.03


def test_recall_falls_off_only_beyond_the_slots() -> None:
    """T5."""
    torch.manual_seed(0)
    memory = EpisodicMemory(32, 128, noise=0.02)
    errors = [
        (memory.read(_full(memory, pairs), pairs[0]).values - pairs[1]).square().mean().item()
        for pairs in (_pairs(count, width=128) for count in (1, 4, 8, 16, 32, 64, 128))
    ]
    assert errors == sorted(errors)
    assert errors[3] < 0.05 < 0.4 < errors[5]


def test_a_forgotten_pair_was_never_there() -> None:
    """T4."""
    memory, pairs = _memory(noise=0.011), _pairs(6)
    state = memory.forget(_full(memory, pairs), *_rows(pairs, slice(4, 6)))
    never = _full(memory, _rows(pairs, slice(0, 4)))
    torch.testing.assert_close(
        memory.read(state, pairs[0]).values, memory.read(never, pairs[0]).values, rtol=1e-3, atol=1e-3
    )


def test_a_forgotten_value_is_not_found_by_its_key() -> None:
    """T4: its norm does not vanish, since its address overlaps with those of the others; its direction does."""
    torch.manual_seed(0)
    memory, pairs = EpisodicMemory(32, 128), _pairs(12, episodes=200, width=128)
    state = memory.forget(_full(memory, pairs), *_rows(pairs, slice(0, 1)))
    read = memory.read(state, pairs[0][:, :1]).values
    cosine = torch.nn.functional.cosine_similarity(read, pairs[1], dim=-1)
    assert cosine[:, 0].mean().abs() < 0.02
    assert (cosine.argmax(dim=1) == 0).float().mean() < 1 / 12


def test_what_was_kept_is_still_found_by_its_key() -> None:
    """T4."""
    torch.manual_seed(0)
    memory, pairs = EpisodicMemory(32, 128), _pairs(12, episodes=50, width=128)
    state = memory.forget(_full(memory, pairs), *_rows(pairs, slice(0, 6)))
    read = memory.read(state, pairs[0][:, 6:]).values
    cosine = torch.nn.functional.normalize(read, dim=-1) @ torch.nn.functional.normalize(pairs[1], dim=-1).mT
    assert (cosine.argmax(dim=2) == torch.arange(6, 12)).all()


def test_forgetting_everything_leaves_the_prior() -> None:
    memory, pairs = _memory(), _pairs(6)
    reading = memory.read(memory.forget(_full(memory, pairs), *pairs), pairs[0])
    torch.testing.assert_close(reading.values, memory.read(memory.empty(2), pairs[0]).values, rtol=1e-3, atol=1e-3)
    assert reading.confidence.max() < 1e-4


def test_forgetting_what_was_not_written_is_loud() -> None:
    memory, pairs = _memory(), _pairs(6)
    assert memory.read(memory.forget(memory.empty(2), *pairs), pairs[0]).values.isnan().all()


def test_an_empty_memory_reads_the_prior_mean() -> None:
    """T10."""
    memory, (keys, _, _) = _memory(), _pairs(3)
    expected = _addresses(memory, keys[0].double().numpy()) @ memory.prior_mean.detach().double().numpy()
    np.testing.assert_allclose(memory.read(memory.empty(2), keys).values[0].detach(), expected, rtol=1e-4, atol=1e-5)


def test_an_empty_memory_has_a_confidence_of_exactly_zero() -> None:
    memory, (keys, _, _) = _memory(), _pairs(50)
    assert memory.read(memory.empty(2), keys).confidence.eq(0).all()


def test_an_empty_memory_diverges_from_the_prior_by_exactly_zero() -> None:
    assert _memory().kl(_memory().empty(2)).item() == 0


def test_confidence_is_one_minus_the_ratio_of_variances() -> None:
    memory, pairs = _memory(), _pairs(4)
    address = _addresses(memory, pairs[0][0].double().numpy())
    prior = np.diag(np.exp(memory.prior_log_precision.detach().double().numpy()))
    posterior = prior + address.T @ address / memory.noise().item()
    before = np.einsum("nk,kj,nj->n", address, np.linalg.inv(prior), address)
    after = np.einsum("nk,kj,nj->n", address, np.linalg.inv(posterior), address)
    reading = memory.read(_full(memory, pairs), pairs[0])
    np.testing.assert_allclose(reading.confidence[0].detach(), 1 - after / before, rtol=1e-4)
    np.testing.assert_allclose(reading.novelty[0].detach(), after + memory.noise().item(), rtol=1e-4)


def test_confidence_stays_below_one_however_often_a_pair_is_written() -> None:
    memory, (keys, values, mask) = _memory(noise=0.0101), _pairs(1)
    state = _full(memory, (keys.expand(2, 500, -1), values.expand(2, 500, -1), mask.expand(2, 500)))
    assert memory.read(state, keys).confidence.max() < 1


def test_an_unwritten_query_is_more_novel_than_a_written_one() -> None:
    """T9."""
    torch.manual_seed(0)
    memory, pairs = EpisodicMemory(32, 128), _pairs(12, episodes=4, width=128)
    state = _full(memory, pairs)
    written = memory.read(state, pairs[0]).novelty
    unwritten = memory.read(state, _pairs(12, episodes=4, width=128, seed=2)[0]).novelty
    area_under_curve = (unwritten[:, :, None] > written[:, None, :]).float().mean()
    assert area_under_curve > 0.99


def test_the_divergence_is_that_of_torch_distributions() -> None:
    """T7."""
    memory, pairs = _memory(3, 4), _pairs(5, episodes=1, width=4)
    state = _full(memory, pairs)
    precision = torch.diag(memory.prior_log_precision.detach().double().exp())
    posterior = precision + state.precision[0].detach().double()
    prior_mean = memory.prior_mean.detach().double()
    mean = torch.linalg.solve(posterior, precision @ prior_mean + state.information[0].detach().double())
    # vec(R) by rows: the covariance over slots, for each of 4 independent channels.
    belief = MultivariateNormal(mean.flatten(), torch.kron(posterior.inverse().contiguous(), torch.eye(4).double()))
    prior = MultivariateNormal(
        prior_mean.flatten(), torch.kron(precision.inverse().contiguous(), torch.eye(4).double())
    )
    assert memory.kl(state).item() == pytest.approx(kl_divergence(belief, prior).item() / 12, rel=1e-4)


@pytest.mark.parametrize("count", [1, 8, 64])
def test_no_writing_makes_the_divergence_negative(count: int) -> None:
    """T7; tiny values at the prior mean, where nothing is moved and only the spread counts."""
    memory, (keys, _, mask) = _memory(), _pairs(count)
    values = memory.address(keys).detach() @ memory.prior_mean.detach()
    assert memory.kl(_full(memory, (keys, values, mask))).item() > 0


def test_the_divergence_is_the_mean_over_episodes() -> None:
    memory, pairs = _memory(), _pairs(4)
    apart = [memory.kl(_full(memory, (pairs[0][i : i + 1], pairs[1][i : i + 1], pairs[2][i : i + 1]))) for i in (0, 1)]
    torch.testing.assert_close(memory.kl(_full(memory, pairs)), (apart[0] + apart[1]) / 2)


def test_writing_narrows_the_belief() -> None:
    """T7."""
    memory, pairs = _memory(), _pairs(20)
    state = _full(memory, pairs)
    assert torch.linalg.eigvalsh(state.precision).min() > -1e-4
    assert (memory.read(state, pairs[0]).novelty < memory.read(memory.empty(2), pairs[0]).novelty).all()


def test_an_episode_never_sees_another() -> None:
    """T11."""
    memory, (keys, values, mask) = _memory(), _pairs(4)
    state = _full(memory, (keys, values, mask))
    other = _full(memory, (torch.stack([keys[0], keys[1].flip(0)]), values, mask))
    assert memory.read(state, keys).values[0].equal(memory.read(other, keys).values[0])
    assert not memory.read(state, keys).values[1].equal(memory.read(other, keys).values[1])


def test_masked_pairs_are_not_written_whatever_they_hold() -> None:
    memory, (keys, values, mask) = _memory(), _pairs(4)
    keys[:, 2:], values[:, 2:], mask[:, 2:] = torch.nan, torch.inf, False
    torch.testing.assert_close(
        _full(memory, (keys, values, mask)), _full(memory, _rows((keys, values, mask), slice(0, 2)))
    )


def test_masked_pairs_get_no_gradient() -> None:
    memory, (keys, values, mask) = _memory(), _pairs(4)
    mask[:, 2:] = False
    keys.requires_grad_()
    memory.read(_full(memory, (keys, values, mask)), torch.randn(2, 3, WIDTH)).values.sum().backward()
    assert keys.grad is not None
    assert keys.grad[:, :2].abs().min() > 0
    assert keys.grad[:, 2:].eq(0).all()


def test_writing_nothing_changes_nothing() -> None:
    memory = _memory()
    torch.testing.assert_close(_full(memory, _pairs(0)), memory.empty(2))


@pytest.mark.parametrize("mode", ["reference", "newton"])
def test_autocast_changes_nothing(mode: str) -> None:
    """T8."""
    memory, pairs = _memory(pseudo_inverse=mode), _pairs(4)
    state = _full(memory, pairs)
    with torch.autocast("cpu", torch.bfloat16):
        inside = _full(memory, pairs)
        reading, divergence = memory.read(inside, pairs[0]), memory.kl(inside)
    assert reading.values.equal(memory.read(state, pairs[0]).values)
    assert divergence.equal(memory.kl(state))


def test_keys_in_half_precision_give_fp32() -> None:
    memory, (keys, values, mask) = _memory(), _pairs(4)
    state = _full(memory, (keys.bfloat16(), values.bfloat16(), mask))
    assert {tensor.dtype for tensor in [*state, *memory.read(state, keys.bfloat16())]} == {torch.float32}


def test_reading_is_the_same_in_training_and_evaluation() -> None:
    memory, pairs = _memory(), _pairs(4)
    trained = memory.train().read(_full(memory, pairs), pairs[0]).values
    assert memory.eval().read(_full(memory, pairs), pairs[0]).values.equal(trained)


@pytest.mark.parametrize("mode", ["reference", "newton"])
@pytest.mark.parametrize("parameter", ["addresses", "prior_mean", "prior_log_precision", "log_noise"])
def test_a_written_memory_passes_a_gradient_to(parameter: str, mode: str) -> None:
    memory, pairs = _memory(pseudo_inverse=mode), _pairs(4)
    memory.read(_full(memory, pairs), torch.randn(2, 3, WIDTH)).values.square().sum().backward()
    gradient = memory.get_parameter(parameter).grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 1e-4


def test_the_divergence_passes_a_gradient_to_what_was_written() -> None:
    memory, (keys, values, mask) = _memory(), _pairs(4)
    values.requires_grad_()
    memory.kl(_full(memory, (keys, values, mask))).backward()
    assert values.grad is not None
    assert values.grad.abs().min() > 0


def _loss(memory: EpisodicMemory, pairs: tuple[Tensor, Tensor, Tensor], log_noise: float) -> Tensor:
    memory.log_noise.data.fill_(log_noise)
    state = _full(memory, pairs)
    return memory.read(state, pairs[0]).values.square().sum() + memory.kl(state)


def test_the_gradient_of_the_noise_agrees_with_finite_differences() -> None:
    memory, pairs = _memory(3, 6), _pairs(2, episodes=1, width=6)
    slope = (_loss(memory, pairs, -1.99) - _loss(memory, pairs, -2.01)).item() / 0.02
    _loss(memory, pairs, -2.0).backward()
    assert memory.log_noise.grad is not None
    assert memory.log_noise.grad.item() == pytest.approx(slope, rel=1e-2)


def test_a_state_survives_a_file(tmp_path: Path) -> None:
    """T12."""
    memory, pairs = _memory(), _pairs(4)
    state = _full(memory, pairs)
    save_file({name: tensor.detach() for name, tensor in state._asdict().items()}, tmp_path / "state.safetensors")
    loaded = MemoryState(**load_file(tmp_path / "state.safetensors"))
    assert memory.read(loaded, pairs[0]).values.equal(memory.read(state, pairs[0]).values)


def test_the_memory_survives_a_state_dict() -> None:
    memory, pairs = _memory(), _pairs(4)
    loaded = EpisodicMemory(SLOTS, WIDTH)
    loaded.load_state_dict(memory.state_dict())
    assert loaded.read(_full(loaded, pairs), pairs[0]).values.equal(memory.read(_full(memory, pairs), pairs[0]).values)


def test_a_random_address_has_a_length_of_about_one() -> None:
    assert _memory(32, 128).address(torch.randn(2000, 128)).square().sum(-1).mean().item() == pytest.approx(1, abs=0.05)


def test_the_learned_noise_never_falls_below_its_floor() -> None:
    memory = _memory()
    memory.log_noise.data.fill_(-1000)
    assert memory.noise().item() == pytest.approx(NOISE_FLOOR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "expected 1 to 128 slots"),
        ({"slots": 129}, "expected 1 to 128 slots"),
        ({"noise": 1e-6}, "expected a noise variance above 0.01, came 1e-06"),
        ({"pseudo_inverse": "exact"}, "expected pseudo_inverse to be reference or newton, came 'exact'"),
        ({"steps": 0}, "expected at least 1 step, came 0"),
    ],
)
def test_a_memory_that_cannot_work_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpisodicMemory(**options)  # pyright: ignore[reportArgumentType]
