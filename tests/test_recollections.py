"""Names in the memory, against a Gaussian process in float64, which is the same belief from the other side."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bitgen.model.memory import EpisodicMemory
from bitgen.recollections import Recollections
from bitgen.views import InputError

SLOTS, WIDTH = 8, 32
NAMES = ("Rex", "a sofa", "a tram")


def _memory() -> EpisodicMemory:
    """All parameters away from their initial values."""
    torch.manual_seed(0)
    memory = EpisodicMemory(SLOTS, WIDTH)
    with torch.no_grad():
        memory.addresses.add_(torch.randn(SLOTS, WIDTH) * 0.1)
        memory.prior_mean.normal_()
        memory.prior_log_precision.uniform_(-0.5, 0.5)
    return memory.requires_grad_(False)


def _noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _filled(memory: EpisodicMemory, names: tuple[str, ...] = NAMES) -> Recollections:
    """Two images of each name; those of a name are the same whatever else is remembered."""
    found = Recollections(memory)
    for i, name in enumerate(NAMES):
        if name in names:
            found.remember(_noise(2, WIDTH, seed=i), _noise(WIDTH, seed=10 + i), name)
    return found


def _expected(memory: EpisodicMemory, keys: Tensor) -> list[tuple[dict[str, float], float]]:
    """Names and familiarity by kernel regression: k(v, w) = v Λ0⁻¹ wᵀ, over what `_filled` wrote."""
    spread = np.exp(-memory.prior_log_precision.double().numpy())
    mean, noise = memory.prior_mean.double().numpy(), memory.noise().double().item()
    places = np.concatenate([memory.address(_noise(2, WIDTH, seed=i)).double().numpy() for i in range(3)])
    values = np.stack([_noise(WIDTH, seed=10 + i).double().numpy() for i in range(3)])
    targets = np.repeat(values, 2, axis=0) - places @ mean
    precision = np.linalg.inv((places * spread) @ places.T + noise * np.eye(6))
    found = []
    for w in memory.address(keys).double().numpy():
        reach, prior = (w * spread) @ places.T, (w * spread) @ w
        explained = reach @ precision @ reach
        r, variance = w @ mean + reach @ precision @ targets, prior - explained + noise
        likelihood = np.exp([-((z - r) ** 2).sum() / (2 * variance) for z in values])
        shares = likelihood / likelihood.sum() * explained / prior
        found.append((dict(zip(NAMES, shares, strict=True)), explained / prior))
    return found


def test_confidences_are_those_of_the_gaussian_belief() -> None:
    memory = _memory()
    keys = torch.cat([_noise(2, WIDTH, seed=1), _noise(4, WIDTH, seed=50)])
    for found, (names, familiarity) in zip(_filled(memory).recall(keys), _expected(memory, keys), strict=True):
        assert found.names == pytest.approx(names, abs=1e-4)
        assert found.familiarity == pytest.approx(familiarity, abs=1e-5)


def test_the_surest_name_comes_first() -> None:
    for found in _filled(_memory()).recall(_noise(5, WIDTH, seed=50)):
        assert list(found.names.values()) == sorted(found.names.values(), reverse=True)
        assert found.confidence == found.names[found.name or ""]


def test_the_confidences_of_all_names_sum_to_the_familiarity() -> None:
    for found in _filled(_memory()).recall(_noise(5, WIDTH, seed=50)):
        assert sum(found.names.values()) == pytest.approx(found.familiarity, abs=1e-6)


def test_a_remembered_image_is_named_and_a_strange_one_is_less_familiar() -> None:
    recollections = Recollections(_memory())
    key = _noise(1, WIDTH, seed=0)
    recollections.remember(key, _noise(WIDTH, seed=10), "Rex")
    known, strange = recollections.recall(torch.cat([key, _noise(1, WIDTH, seed=99)]))
    assert (known.name, known.confidence > 0.8) == ("Rex", True)
    assert strange.confidence < known.confidence / 2


def test_forgetting_leaves_nothing_behind_beside_other_names() -> None:
    memory, keys = _memory(), _noise(5, WIDTH, seed=50)
    found, never = _filled(memory), _filled(memory, ("Rex", "a tram"))
    found.forget("a sofa")
    for one, other in zip(found.recall(keys), never.recall(keys), strict=True):
        assert one.names == pytest.approx(other.names, abs=1e-4)
        assert one.familiarity == pytest.approx(other.familiarity, abs=1e-5)


def test_a_name_with_images_of_several_calls_is_forgotten_whole() -> None:
    memory, keys = _memory(), _noise(5, WIDTH, seed=50)
    found = _filled(memory)
    found.remember(_noise(3, WIDTH, seed=70), _noise(WIDTH, seed=11), "a sofa")
    found.forget("a sofa")
    for one, other in zip(found.recall(keys), _filled(memory, ("Rex", "a tram")).recall(keys), strict=True):
        assert one.familiarity == pytest.approx(other.familiarity, abs=1e-5)


def test_a_memory_whose_last_name_is_forgotten_is_empty_to_the_bit() -> None:
    memory, key = _memory(), _noise(1, WIDTH, seed=0)
    used, fresh = _filled(memory), Recollections(memory)
    for name in NAMES:
        used.forget(name)
    assert used.recall(key)[0].familiarity == 0.0
    for each in (used, fresh):
        each.remember(key, _noise(WIDTH, seed=10), "Rex")
    assert used.recall(key) == fresh.recall(key)


def test_a_further_image_of_a_name_makes_it_surer() -> None:
    recollections, keys = Recollections(_memory()), _noise(2, WIDTH, seed=0)
    recollections.remember(keys[:1], _noise(WIDTH, seed=10), "Rex")
    before = recollections.recall(keys[1:])[0].familiarity
    recollections.remember(keys[1:], _noise(WIDTH, seed=10), "Rex")
    assert recollections.recall(keys[1:])[0].familiarity > before
    assert recollections.names == ("Rex",)


def test_an_empty_memory_says_so() -> None:
    found = Recollections(_memory()).recall(_noise(2, WIDTH, seed=0))
    assert [(each.name, each.confidence, each.names, each.familiarity) for each in found] == [(None, 0.0, {}, 0.0)] * 2


def test_an_unknown_name_is_not_forgotten_and_those_that_are_known_are_listed() -> None:
    with pytest.raises(InputError, match="expected a remembered name, 'Rex', 'a sofa', 'a tram'; found 'a cat'"):
        _filled(_memory()).forget("a cat")
