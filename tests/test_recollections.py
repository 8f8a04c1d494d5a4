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


def _weights(memory: EpisodicMemory, keys: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of each of the six images in what is read, [Q, 6], and familiarity [Q], by kernel regression: k(v, w) = v Λ0⁻¹ wᵀ."""
    spread, noise = np.exp(-memory.prior_log_precision.double().numpy()), memory.noise().double().item()
    places = np.concatenate([memory.address(_noise(2, WIDTH, seed=i)).double().numpy() for i in range(3)])
    asked = memory.address(keys).double().numpy()
    reach = (asked * spread) @ places.T
    weights = reach @ np.linalg.inv((places * spread) @ places.T + noise * np.eye(6))
    return weights, (weights * reach).sum(1) / (asked**2 * spread).sum(1)


def test_confidences_are_the_weights_of_a_kernel_regression() -> None:
    memory = _memory()
    keys = torch.cat([_noise(2, WIDTH, seed=1), _noise(4, WIDTH, seed=50)])
    weights, familiarity = _weights(memory, keys)
    expected = weights.reshape(-1, 3, 2).sum(2).clip(0, 1)
    for q, found in enumerate(_filled(memory).recall(keys)):
        assert found.names == pytest.approx(dict(zip(NAMES, expected[q], strict=True)), abs=1e-5)
        assert found.familiarity == pytest.approx(familiarity[q], abs=1e-5)


def test_the_weights_are_those_of_the_values_in_what_the_memory_reads() -> None:
    memory, keys = _memory(), _noise(4, WIDTH, seed=50)
    state, mean = memory.empty(1), memory.prior_mean.double().numpy()
    expected = memory.address(keys).double().numpy() @ mean
    weights, _ = _weights(memory, keys)
    for i in range(3):
        written, value = _noise(2, WIDTH, seed=i), _noise(WIDTH, seed=10 + i)
        state = memory.write(state, written[None], value.expand(1, 2, WIDTH), torch.ones(1, 2, dtype=torch.bool))
        surprise = value.double().numpy() - memory.address(written).double().numpy() @ mean
        expected = expected + weights[:, 2 * i : 2 * i + 2] @ surprise
    np.testing.assert_allclose(memory.read(state, keys[None]).values[0].numpy(), expected, rtol=0, atol=1e-4)


def test_an_image_that_the_memory_does_not_know_has_no_name() -> None:
    memory = _memory()
    found = _filled(memory, NAMES[:1]).recall(torch.cat([_noise(2, WIDTH, seed=0)[:1], _noise(9, WIDTH, seed=50)]))
    assert found[0].name == NAMES[0]
    assert {(each.is_known, each.name) for each in found} == {(True, NAMES[0]), (False, None)}


def test_the_surest_name_comes_first() -> None:
    for found in _filled(_memory()).recall(_noise(5, WIDTH, seed=50)):
        assert list(found.names.values()) == sorted(found.names.values(), reverse=True)
        assert found.confidence == max(found.names.values())


def test_of_one_image_alone_the_name_is_as_sure_as_its_place_is_familiar() -> None:
    recollections, key = Recollections(_memory()), _noise(1, WIDTH, seed=0)
    recollections.remember(key, _noise(WIDTH, seed=10), "Rex")
    found = recollections.recall(key)[0]
    assert found.confidence == pytest.approx(found.familiarity, abs=1e-6)


def test_names_with_one_value_are_told_apart_by_their_images() -> None:
    recollections = Recollections(_memory())
    for i, name in enumerate(NAMES):
        recollections.remember(_noise(1, WIDTH, seed=i), _noise(WIDTH, seed=10), name)
    found = recollections.recall(torch.cat([_noise(1, WIDTH, seed=i) for i in range(3)]))
    assert tuple(each.name for each in found) == NAMES


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
