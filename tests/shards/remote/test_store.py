"""A dataset at a URL reads as the same dataset in a folder does, and nothing that a store says leads out of the cache."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from shards.format import NoDatasetError, ShardError
from shards.index import ShardIndex, write_index
from shards.remote.cache import Cache, RoomError
from shards.remote.patience import Patience, StoreError
from shards.root import Root, is_remote
from tests.servers import Server, Slow, Status
from tests.stores import HASTY, gets, remember_folder, serve_folder, wait_until

from ..conftest import Build

TOO_SMALL = 9000
"""Bytes: no shard fits."""


@pytest.fixture(autouse=True)
def _memory() -> Iterator[None]:
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture
def pets(build: Build) -> Path:
    """A dataset of two shards, 10,240 bytes each, with three and two samples."""
    return build("data/pets", (3, 2))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """`opened(url, limit_bytes)`: the dataset pets there, through a cache."""
    roots: list[Root] = []

    def make(url: str, limit_bytes: int = 10**9, patience: Patience = HASTY) -> ShardIndex:
        roots.append(Root(url, Cache(tmp_path / "cache", limit_bytes, patience=patience)))
        return roots[-1].open("pets")

    yield make
    for root in roots:
        root.close()


def change(server: Server, **fields: Any) -> None:
    """`dataset.json` as the store has it from now on."""
    page = server.pages["/pets/dataset.json"]
    body = json.dumps({**json.loads(page.body), **fields}).encode()
    server.pages["/pets/dataset.json"] = type(page)(body)


def samples(index: ShardIndex) -> list[Any]:
    return [(index.entry(i), *index.read(i)) for i in range(len(index))]


def test_a_url_is_told_from_a_folder() -> None:
    assert [is_remote(place) for place in ("s3://b/data", "http://h/d", "memory://d", "simplecache::s3://b")] == [
        True
    ] * 4
    assert [is_remote(place) for place in ("data", "/data", "a:b/c", "file:///data", Path("data"))] == [False] * 5


def test_a_dataset_reads_the_same_by_http_and_from_its_folder(server: Server, pets: Path, opened: Any) -> None:
    assert samples(opened(serve_folder(server, pets.parent))) == samples(ShardIndex.open(pets))


def test_a_dataset_reads_the_same_from_the_memory_store_and_from_its_folder(pets: Path, opened: Any) -> None:
    assert samples(opened(remember_folder(pets.parent))) == samples(ShardIndex.open(pets))


def test_a_folder_named_as_a_url_is_read_in_place(pets: Path, tmp_path: Path) -> None:
    root = Root(f"file://{pets.parent}")
    assert samples(root.open("pets")) == samples(ShardIndex.open(pets))
    assert os.listdir(tmp_path) == ["data"]


def test_many_threads_read_a_dataset_that_is_coming(server: Server, pets: Path, opened: Any) -> None:
    index, order = opened(serve_folder(server, pets.parent)), [i % 5 for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert [sample.key for sample, _ in pool.map(index.read, order)] == [f"pets-{i}" for i in order]


def test_samples_of_a_shard_that_has_not_come_are_read_by_themselves(server: Server, pets: Path, opened: Any) -> None:
    index = opened(serve_folder(server, pets.parent), TOO_SMALL)
    assert samples(index) == samples(ShardIndex.open(pets))
    asked = [*server.asked("/pets/000000.tar", "Range"), *server.asked("/pets/000001.tar", "Range")]
    assert [text.startswith("bytes=") for text in asked if text is not None] == [True] * 5


def test_a_store_that_sends_no_parts_sends_whole_shards(server: Server, pets: Path, opened: Any) -> None:
    index = opened(serve_folder(server, pets.parent, has_ranges=False))
    assert samples(index) == samples(ShardIndex.open(pets))


def test_a_store_that_sends_no_parts_needs_a_cache_that_holds_a_shard(server: Server, pets: Path, opened: Any) -> None:
    index = opened(serve_folder(server, pets.parent, has_ranges=False), TOO_SMALL, replace(HASTY, timeout_s=0.2))
    with pytest.raises(RoomError, match=r"expected room for .* GB in a cache of 9e-06 GB, found none"):
        index.read(0)


def test_parts_are_checked_as_whole_shards_are(server: Server, pets: Path, opened: Any) -> None:
    url = serve_folder(server, pets.parent)
    data = bytearray(server.pages["/pets/000000.tar"].body)
    data[0:6] = b"others"
    server.pages["/pets/000000.tar"] = type(server.pages["/pets/000000.tar"])(bytes(data))
    with pytest.raises(
        ShardError, match=r"expected member pets-0\.jpg at byte 512, found b'others.*: http://.*/000000\.tar"
    ):
        opened(url, TOO_SMALL).read(0)


def test_a_shard_that_is_shorter_at_its_store_is_an_error(server: Server, pets: Path, opened: Any) -> None:
    url = serve_folder(server, pets.parent)
    page = server.pages["/pets/000001.tar"]
    server.pages["/pets/000001.tar"] = type(page)(page.body[:1000])
    with pytest.raises(
        StoreError, match=r"expected a file in 3 tries, found expected [0-9]+ bytes at byte 0, found 1000"
    ):
        opened(url, TOO_SMALL).read(3)


def test_a_store_that_fails_while_samples_are_read_is_asked_again(server: Server, pets: Path, opened: Any) -> None:
    index = opened(serve_folder(server, pets.parent), TOO_SMALL)
    server.faults["/pets/000000.tar"] = [Status(500), Status(503)]
    assert index.read(0)[0].key == "pets-0"


def test_a_sample_does_not_wait_for_a_shard_that_stalls(server: Server, pets: Path, opened: Any) -> None:
    index = opened(serve_folder(server, pets.parent))
    wanted = index.files.wanted(index.dataset["shards"][0])
    server.faults["/pets/000000.tar"] = [Slow()]
    index.files._prefetcher.want([wanted])
    wait_until(lambda: not server.faults["/pets/000000.tar"])
    assert index.read(0)[0].key == "pets-0"
    assert index.files._cache.opened(wanted) is None
    server.release.set()


def test_no_dataset_is_named_without_secrets(server: Server, opened: Any) -> None:
    url = server.url("").replace("http://", "http://user:secret@")
    with pytest.raises(
        NoDatasetError, match=r"^expected a finished dataset, found no dataset\.json: http://127[^@]*/pets$"
    ):
        opened(url)


def test_a_store_without_a_package_is_named(opened: Any) -> None:
    with pytest.raises(StoreError, match="expected a package that opens gs: URLs, found none"):
        opened("gs://bucket/data")


def test_an_index_comes_once(server: Server, pets: Path, opened: Any) -> None:
    url = serve_folder(server, pets.parent)
    assert [len(opened(url)) for _ in range(3)] == [5] * 3
    assert (gets(server, "/pets/index.arrow"), gets(server, "/pets/dataset.json")) == (1, 4)


def test_a_dataset_that_was_built_anew_is_not_mixed_with_the_old_one(
    server: Server, pets: Path, build: Build, opened: Any
) -> None:
    url = serve_folder(server, pets.parent)
    before = opened(url)
    newer = build("newer/pets", (2, 2, 4))
    serve_folder(server, newer.parent)
    assert samples(opened(url)) == samples(ShardIndex.open(newer))
    assert before.entry(4) == ShardIndex.open(pets).entry(4)


def test_a_dataset_that_is_being_built_is_refused(server: Server, pets: Path, opened: Any, tmp_path: Path) -> None:
    url = serve_folder(server, pets.parent)
    server.faults["/pets/index.arrow"] = [Slow()]
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(opened, url)
        wait_until(lambda: not server.faults["/pets/index.arrow"])
        change(server, more="other")
        server.release.set()
        with pytest.raises(
            ShardError, match=r"expected a finished dataset, found one that is being built: http://.*/pets"
        ):
            opening.result()
    assert list((tmp_path / "cache").glob("*.arrow")) == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("file", "../000000.tar", "expected 000000.tar, found '../000000.tar'"),
        ("file", "/etc/passwd", "expected 000000.tar, found '/etc/passwd'"),
        ("sha256", "../../../tmp/x", "expected a sha256 and a number of bytes, found '../../../tmp/x' and 10240"),
        ("sha256", "A" * 64, "expected a sha256 and a number of bytes"),
        ("sha256", "0" * 64 + "\n", "expected a sha256 and a number of bytes"),
        ("bytes", 0, "expected a sha256 and a number of bytes, found '.*' and 0"),
        ("bytes", -1, "expected shards with file, samples, bytes and sha256"),
        ("bytes", 2**63, "expected shards with file, samples, bytes and sha256"),
        ("bytes", True, "expected shards with file, samples, bytes and sha256"),
    ],
)
def test_what_dataset_json_says_leads_nowhere(
    server: Server, pets: Path, opened: Any, tmp_path: Path, field: str, value: Any, message: str
) -> None:
    url = serve_folder(server, pets.parent)
    first, *others = json.loads(server.pages["/pets/dataset.json"].body)["shards"]
    change(server, shards=[{**first, field: value}, *others])
    with pytest.raises(ShardError, match=f"{message}.*: http://"):
        opened(url)
    assert {path.suffix for path in (tmp_path / "cache").glob("*")} <= {".arrow", ".lock"}


def test_a_shard_of_unlikely_size_takes_no_room(server: Server, pets: Path, opened: Any) -> None:
    url = serve_folder(server, pets.parent)
    first, *others = json.loads(server.pages["/pets/dataset.json"].body)["shards"]
    change(server, shards=[{**first, "bytes": 2**62}, *others])
    assert opened(url).read(0)[0].key == "pets-0"


def test_a_truncated_index_at_its_store_is_an_error(server: Server, pets: Path, opened: Any) -> None:
    url = serve_folder(server, pets.parent)
    page = server.pages["/pets/index.arrow"]
    server.pages["/pets/index.arrow"] = type(page)(page.body[:100])
    with pytest.raises(ShardError, match="expected an Arrow file"):
        opened(url)


def test_an_index_that_was_refused_is_fetched_again(server: Server, pets: Path, opened: Any) -> None:
    url = serve_folder(server, pets.parent)
    page = server.pages["/pets/index.arrow"]
    server.pages["/pets/index.arrow"] = type(page)(page.body[:100])
    with pytest.raises(ShardError):
        opened(url)
    server.pages["/pets/index.arrow"] = page
    assert opened(url).read(0)[0].key == "pets-0"


def test_an_index_that_points_at_the_record_of_another_sample_is_refused(
    server: Server, pets: Path, opened: Any
) -> None:
    entries = [ShardIndex.open(pets).entry(i) for i in range(5)]
    write_index(pets, [*entries[:2], entries[2]._replace(json_offset=entries[0].json_offset), *entries[3:]])
    index = opened(serve_folder(server, pets.parent))
    for read in (index.read, index.record):
        with pytest.raises(ShardError, match=r"expected member pets-2\.json at byte [0-9]+, found b'pets-0\.json'"):
            read(2)


def test_members_that_are_too_large_for_memory_come_with_their_shard(
    server: Server, pets: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.remote.store._PART_BYTES", 1000)
    assert opened(serve_folder(server, pets.parent)).read(2)[0].key == "pets-2"
    assert server.asked("/pets/000000.tar", "Range") == [None]


def test_a_damaged_shard_is_an_error_where_it_is_verified(server: Server, pets: Path, opened: Any) -> None:
    url = serve_folder(server, pets.parent, has_ranges=False)
    page = server.pages["/pets/000000.tar"]
    server.pages["/pets/000000.tar"] = type(page)(page.body[:-1] + b"x", has_ranges=False)
    with pytest.raises(ShardError, match=r"expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}: http://.*/000000\.tar"):
        opened(url).read(0)


def test_a_folder_of_a_store_is_listed_where_the_store_can(server: Server, pets: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10**9, patience=HASTY)
    (tmp_path / "shards/eval").mkdir(parents=True)
    pets.rename(tmp_path / "shards/eval/pets")
    places = (tmp_path / "shards", remember_folder(tmp_path / "shards"), serve_folder(server, tmp_path / "shards"))
    assert [Root(place, cache).names("eval") for place in places] == [["eval/pets"], ["eval/pets"], None]
    assert [Root(place, cache).names("none") for place in places[:2]] == [[], []]
