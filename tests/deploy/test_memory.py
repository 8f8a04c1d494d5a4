"""Names remembered by the packed model are recalled as `bitgen.recollections` recalls them, and kept in a file."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Literal

import numpy as np
import pytest
import torch

from bitgen.deploy import unpack
from bitgen.deploy.memory import MAX_BYTES, MAX_NAME, Memory, MemoryFileError, changed, load, save
from bitgen.deploy.packed import Packed, read
from bitgen.recollections import Recollections
from tests import fakes, packing


def _both(folder: Path, inverse: Literal["reference", "newton"] = "reference") -> tuple[Recollections, Packed]:
    network = packing.model(memory_inverse=inverse)
    with torch.no_grad():
        network.memory.prior_log_precision.normal_(std=0.5)
        network.memory.log_noise.add_(0.3)
    packing.packed(folder, network)
    found, packed = unpack.load(folder)
    return Recollections(found.memory), packed


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("memory")
    packing.packed(folder, packing.model())
    return read(folder)


@torch.no_grad()
@pytest.mark.parametrize("inverse", ["reference", "newton"])
def test_names_are_recalled_as_torch_recalls_them(tmp_path: Path, inverse: Literal["reference", "newton"]) -> None:
    recollections, packed = _both(tmp_path, inverse)
    memory, codes = Memory(packed), fakes.noise(4, fakes.WIDTH)
    for name, rows in (("Rex", slice(0, 2)), ("Tom", slice(2, 3)), ("Rex", slice(3, 4)), ("Kim", slice(1, 2))):
        recollections.remember(codes[rows], torch.zeros(fakes.WIDTH), name)
        memory.remember(codes[rows].numpy(), name)
    recollections.forget("Kim")
    memory.forget("Kim")
    asked = torch.cat([codes, fakes.noise(5, fakes.WIDTH, seed=1)])
    for found, expected in zip(memory.recall(asked.numpy()), recollections.recall(asked), strict=True):
        assert list(found.names) == list(expected.names)
        np.testing.assert_allclose(list(found.names.values()), list(expected.names.values()), rtol=0, atol=1e-4)
        assert found.familiarity == pytest.approx(expected.familiarity, abs=1e-4)
        assert (found.is_known, found.name) == (expected.is_known, expected.name)


def test_an_empty_memory_knows_nothing(packed: Packed) -> None:
    (found,) = Memory(packed).recall(np.ones((1, fakes.WIDTH)))
    assert (found.names, found.familiarity, found.name) == ({}, 0.0, None)


def test_names_come_back_from_a_file(packed: Packed, tmp_path: Path) -> None:
    memory, codes = Memory(packed), fakes.noise(3, fakes.WIDTH).numpy()
    memory.remember(codes[:2], "Rex")
    memory.remember(codes[2:], "Tom")
    save(memory, tmp_path / "names.json", packed)
    assert load(tmp_path / "names.json", packed).recall(codes) == memory.recall(codes)


def test_what_is_forgotten_is_nowhere_in_the_file(packed: Packed, tmp_path: Path) -> None:
    path, codes = tmp_path / "names.json", fakes.noise(2, fakes.WIDTH).numpy()
    memory = Memory(packed)
    memory.remember(codes[:1], "Rex")
    save(memory, path, packed)
    before = path.read_bytes()
    memory.remember(codes[1:], "Tom")
    memory.forget("Tom")
    save(memory, path, packed)
    assert path.read_bytes() == before


def test_without_a_file_the_memory_is_empty(packed: Packed, tmp_path: Path) -> None:
    assert load(tmp_path / "none.json", packed).written == {}


def test_a_name_that_is_not_there_cannot_be_forgotten(packed: Packed) -> None:
    memory = Memory(packed)
    memory.remember(np.ones((1, fakes.WIDTH)), "Rex")
    with pytest.raises(MemoryFileError, match="expected a remembered name, 'Rex'; found 'Tom'"):
        memory.forget("Tom")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "0"}, "expected names remembered by this model, found another's"),
        ({"format_version": 2}, "expected remembered names of format 1, found 2"),
        ({"names": {"Rex": [[1.0, 2.0]]}}, f"expected codes of {fakes.WIDTH} numbers for 'Rex'"),
        ({"names": 3}, "expected a file of remembered names"),
    ],
)
def test_another_file_is_refused(packed: Packed, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "names.json"
    save(Memory(packed), path, packed)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(MemoryFileError, match=message):
        load(path, packed)


@pytest.mark.parametrize("name", ["", " \t", "x" * (MAX_NAME + 1)], ids=["none", "blank", "long"])
def test_a_name_has_some_characters_and_not_too_many(packed: Packed, name: str) -> None:
    memory = Memory(packed)
    with pytest.raises(MemoryFileError, match=f"expected a name of 1 to {MAX_NAME} characters, found"):
        memory.remember(np.ones((1, fakes.WIDTH)), name)
    assert memory.written == {}


def test_white_space_around_a_name_is_none_of_it(packed: Packed) -> None:
    memory = Memory(packed)
    memory.remember(np.ones((1, fakes.WIDTH)), " Rex\n")
    assert list(memory.written) == ["Rex"]


def test_no_name_gets_lost_when_many_are_remembered_at_once(packed: Packed, tmp_path: Path) -> None:
    path, start = tmp_path / "names.json", Barrier(8)

    def remember(name: str) -> None:
        start.wait()
        with changed(path, packed) as memory:
            memory.remember(np.ones((1, fakes.WIDTH)), name)

    names = [f"name {i}" for i in range(8)]
    with ThreadPoolExecutor(len(names)) as threads:
        list(threads.map(remember, names))
    assert sorted(load(path, packed).written) == names


def test_what_fails_changes_nothing_in_the_file(packed: Packed, tmp_path: Path) -> None:
    path = tmp_path / "names.json"

    def fail() -> None:
        with changed(path, packed) as memory:
            memory.remember(np.ones((1, fakes.WIDTH)), "Rex")
            memory.forget("Tom")

    with pytest.raises(MemoryFileError, match="found 'Tom'"):
        fail()
    assert not path.exists()


def test_a_file_of_names_has_no_more_bytes_than_names_take(packed: Packed, tmp_path: Path) -> None:
    with (tmp_path / "names.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # of zeros, which take no room
    with pytest.raises(MemoryFileError, match=f"of {MAX_BYTES} bytes at most, found {MAX_BYTES + 1}"):
        load(tmp_path / "names.json", packed)
