"""T12: a memory's state goes to a file and comes back, to the memory that wrote it and to no other."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bitgen.model.memory import EpisodicMemory, MemoryState
from bitgen.model.memory_file import MemoryFileError, address_digest, load_state, save_state

SLOTS, WIDTH = 8, 32


def _memory(seed: int = 0, **options: object) -> EpisodicMemory:
    torch.manual_seed(seed)
    return EpisodicMemory(**{"slots": SLOTS, "width": WIDTH, **options})  # pyright: ignore[reportArgumentType]


def _pairs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    keys, values = torch.randn(2, 2, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    return keys, values, torch.ones(2, 4, dtype=torch.bool)


def _state(memory: EpisodicMemory) -> MemoryState:
    return memory.write(memory.empty(2), *_pairs())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that `_memory()` wrote."""
    save_state(tmp_path / "memory.safetensors", _memory(), _state(_memory()))
    return tmp_path / "memory.safetensors"


def _damage(path: Path, **changes: object) -> None:
    """The file again with other metadata (text) or tensors; None takes one out."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors: dict[str, object] = dict(load_file(path))
    for name, value in changes.items():
        part = metadata if name in metadata else tensors
        part.pop(name, None)
        if value is not None:
            part[name] = value
    save_file(tensors, path, metadata=metadata)  # pyright: ignore[reportArgumentType]


def test_a_state_survives_a_file(path: Path) -> None:
    memory, pairs = _memory(), _pairs()
    loaded = load_state(path, memory)
    assert memory.read(loaded, pairs[0]).values.equal(memory.read(_state(memory), pairs[0]).values)


def test_what_was_written_before_the_file_is_forgotten_after_it(path: Path) -> None:
    memory, pairs = _memory(), _pairs()
    reading = memory.read(memory.forget(load_state(path, memory), *pairs), pairs[0])
    assert not memory.is_known(reading).any()


def test_an_empty_state_survives_a_file(path: Path) -> None:
    save_state(path, _memory(), _memory().empty(0))
    assert load_state(path, _memory()).information.shape == (0, SLOTS, WIDTH)


def test_a_file_says_how_many_episodes_it_holds(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format_version": "1", "episodes": "2", "addresses": address_digest(_memory())}


def test_another_prior_may_read_a_state(path: Path) -> None:
    memory = _memory()
    memory.prior_mean.data.normal_()
    assert load_state(path, memory).precision.equal(_state(memory).precision)


def test_a_memory_in_half_precision_refuses_what_its_addresses_did_not_write(path: Path) -> None:
    with pytest.raises(MemoryFileError, match="addresses and noise"):
        load_state(path, _memory().bfloat16())


@pytest.mark.parametrize("options", [{"seed": 1}, {"noise": 0.2}, {"pseudo_inverse": "newton"}])
def test_a_memory_with_other_addresses_or_noise_is_refused(path: Path, options: dict[str, object]) -> None:
    with pytest.raises(
        MemoryFileError, match=r"expected a memory written with this model's addresses and noise, .*found"
    ):
        load_state(path, _memory(**options))  # pyright: ignore[reportArgumentType]


def test_another_number_of_newton_steps_is_refused(path: Path) -> None:
    memory = _memory(pseudo_inverse="newton")
    save_state(path, memory, _state(memory))
    with pytest.raises(MemoryFileError, match="addresses and noise"):
        load_state(path, _memory(pseudo_inverse="newton", steps=14))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": "2"}, "expected memory format 1, found 2"),
        ({"format_version": None}, "expected memory format 1, found None"),
        (
            {"precision": None},
            r"expected information float32 \[2, 8, 32\], precision float32 \[2, 8, 8\], found information",
        ),
        ({"extra": torch.zeros(1)}, r"found extra float32 \[1\], information"),
        ({"episodes": "3"}, r"expected information float32 \[3, 8, 32\]"),
        ({"precision": torch.zeros(2, 8, 8).half()}, r"found .*precision float16 \[2, 8, 8\]"),
        ({"precision": torch.zeros(1, 8, 8)}, r"found .*precision float32 \[1, 8, 8\]"),
        ({"information": torch.full((2, 8, 32), torch.nan)}, "expected finite numbers in information, found others"),
        ({"addresses": None}, "addresses and noise, .*found None"),
    ],
)
def test_a_damaged_file_is_refused(path: Path, changes: dict[str, object], message: str) -> None:
    _damage(path, **changes)
    with pytest.raises(MemoryFileError, match=message):
        load_state(path, _memory())


def test_a_memory_of_another_size_is_refused(path: Path) -> None:
    with pytest.raises(MemoryFileError, match=r"expected .*precision float32 \[2, 4, 4\], found"):
        load_state(path, _memory(slots=4))


@pytest.mark.parametrize("content", [b"", b"no safetensors at all"])
def test_what_is_no_safetensors_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(MemoryFileError, match=r"expected a memory's safetensors file, found .*memory\.safetensors"):
        load_state(path, _memory())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MemoryFileError, match="expected a memory's safetensors file"):
        load_state(tmp_path / "none.safetensors", _memory())


def test_what_cannot_be_written_says_where(tmp_path: Path) -> None:
    with pytest.raises(MemoryFileError, match=r"expected to write a memory, found .*none/memory\.safetensors"):
        save_state(tmp_path / "none" / "memory.safetensors", _memory(), _state(_memory()))


def test_writing_leaves_nothing_else_behind(path: Path) -> None:
    save_state(path, _memory(), _state(_memory()))
    assert [file.name for file in path.parent.iterdir()] == ["memory.safetensors"]
