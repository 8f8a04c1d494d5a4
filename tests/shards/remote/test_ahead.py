"""Batches from a URL are those from the folder, and shards come before they are needed."""

import dataclasses
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

import shards.mixture
from bitgen.batch import Batch, load
from bitgen.image import Transform
from shards.index import ShardIndex
from shards.remote.cache import Cache
from shards.remote.store import Store
from shards.root import Root
from shards.stream import Stream
from tests.servers import Server
from tests.stores import HASTY, gets, remember_folder, serve_folder, wait_until

from ..conftest import Build

SHARD_BYTES = 10_240
INDEX_BYTES = 9_000
"""At most."""


@pytest.fixture(autouse=True)
def _memory() -> Iterator[None]:
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture
def data(build: Build) -> Path:
    """The folder of two datasets, of seven and three shards."""
    build("data/coarse/cats", (2, 1, 3))
    return build("data/coarse/pets", (2,) * 7).parent.parent


@pytest.fixture
def open_stream(tmp_path: Path) -> Iterator[Callable[..., Stream]]:
    roots: list[Root] = []

    def make(place: str | Path, *names: str, limit_bytes: int = 10**9) -> Stream:
        roots.append(Root(place, Cache(tmp_path / "cache", limit_bytes, patience=HASTY)))
        return Stream.open(roots[-1], dict.fromkeys(names, 1.0), seed=3, texts_per_image=2)

    yield make
    for root in roots:
        root.close()


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard is a group."""
    monkeypatch.setattr(shards.mixture, "GROUP_SHARDS", 1)
    monkeypatch.setattr(shards.mixture, "GROUP_SAMPLES", 1)


def wait_for_shard(index: ShardIndex, number: int) -> None:
    """Until a shard is in the cache, without asking for it."""
    store = index.files
    assert isinstance(store, Store)
    file = store.wanted(index.dataset["shards"][number])
    wait_until(lambda: store._cache.opened(file) is not None)


def batches(stream: Stream, workers: int, count: int = 12) -> list[Batch]:
    plans = islice(stream.micro_batches(0, batch=4), count)
    return list(load(stream.draw, plans, Transform(8, 0.5), 0, workers))


def is_equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize(
    ("limit_bytes", "has_ranges"),
    [
        (10**9, True),
        (10**9, False),
        (3 * SHARD_BYTES + 2 * INDEX_BYTES, True),
        (3 * SHARD_BYTES + 2 * INDEX_BYTES, False),
        (INDEX_BYTES, True),  # no shard fits; that is an error without ranges: tests/shards/test_store.py
    ],
)
@pytest.mark.usefixtures("small_groups")
def test_batches_by_http_are_those_from_the_folder_tensor_for_tensor(
    server: Server, data: Path, open_stream: Callable[..., Stream], limit_bytes: int, has_ranges: bool
) -> None:
    names = ("coarse/cats", "coarse/pets")
    here = batches(open_stream(data, *names), 0)
    there = batches(open_stream(serve_folder(server, data, has_ranges), *names, limit_bytes=limit_bytes), 3)
    fields = [field.name for field in dataclasses.fields(Batch)]
    pairs = list(zip(here, there, strict=True))
    assert [n for n in fields for a, b in pairs if not is_equal(getattr(a, n), getattr(b, n))] == []


def test_batches_from_the_memory_store_are_those_from_the_folder(
    data: Path, open_stream: Callable[..., Stream]
) -> None:
    here, there = (batches(open_stream(place, "coarse/pets"), 2) for place in (data, remember_folder(data)))
    assert [a.keys for a in here] == [b.keys for b in there]
    assert [torch.equal(a.images, b.images) for a, b in zip(here, there, strict=True)] == [True] * 12


def test_a_folder_has_no_cache(data: Path, open_stream: Callable[..., Stream], tmp_path: Path) -> None:
    stream = open_stream(data, "coarse/pets")
    batches(stream, 1)
    assert (stream.ahead, (tmp_path / "cache").exists()) == (None, False)


@pytest.mark.usefixtures("small_groups")
def test_the_next_shard_comes_before_a_sample_of_it_is_drawn(
    server: Server, data: Path, open_stream: Callable[..., Stream]
) -> None:
    stream = open_stream(serve_folder(server, data), "coarse/pets")
    index = stream.indexes["coarse/pets"]
    next(stream.micro_batches(0, batch=2))
    for group in stream.mixture.groups(0):
        wait_for_shard(index, group.shards[0])
    assert sum(gets(server, f"/coarse/pets/{number:06d}.tar") for number in range(7)) == 2


@pytest.mark.usefixtures("small_groups")
def test_a_bounded_cache_goes_along_with_the_stream(
    server: Server, data: Path, open_stream: Callable[..., Stream], tmp_path: Path
) -> None:
    limit = 3 * SHARD_BYTES + INDEX_BYTES
    stream = open_stream(serve_folder(server, data), "coarse/pets", limit_bytes=limit)
    index = stream.indexes["coarse/pets"]
    for plan in islice(stream.micro_batches(0, batch=2), 14):  # two epochs
        for group in stream.mixture.groups(plan.positions[0]):
            wait_for_shard(index, group.shards[0])
        assert [stream.draw(position).position for position in plan.positions] == list(plan.positions)
        assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= limit
    asked = [header for n in range(7) for header in server.asked(f"/coarse/pets/{n:06d}.tar", "Range")]
    assert set(asked) == {None}  # whole shards, no parts


@pytest.mark.parametrize(
    ("limit_bytes", "message"),
    [
        (
            SHARD_BYTES,
            "expected a cache of 7.17e-05 GB (--data.cache-gb) for what is read at one time, found 1.02e-05 GB",
        ),
        (10 * SHARD_BYTES, ""),
    ],
)
def test_a_cache_that_is_too_small_says_what_it_takes(
    server: Server,
    data: Path,
    open_stream: Callable[..., Stream],
    caplog: pytest.LogCaptureFixture,
    limit_bytes: int,
    message: str,
) -> None:
    stream = open_stream(serve_folder(server, data), "coarse/pets", limit_bytes=limit_bytes)
    next(stream.micro_batches(0, batch=2))
    assert message in caplog.text
    assert bool(message) == ("expected a cache of" in caplog.text)


@pytest.mark.usefixtures("small_groups")
def test_a_cache_that_holds_no_second_group_says_what_it_takes(
    server: Server, data: Path, open_stream: Callable[..., Stream], caplog: pytest.LogCaptureFixture
) -> None:
    stream = open_stream(serve_folder(server, data), "coarse/pets", limit_bytes=15_000)
    next(stream.micro_batches(0, batch=2))
    assert "expected a cache of 2.05e-05 GB (--data.cache-gb) for that and what is read next" in caplog.text
