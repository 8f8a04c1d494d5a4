"""A file of a store comes once, whole, into a bounded folder, whatever store, disk and processes do."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from bitgen.disk import FullDiskError
from bitgen.progress import StoppedError
from shards.format import ShardError
from shards.remote.arriving import Wanted
from shards.remote.cache import Cache, RoomError
from shards.remote.locks import BusyError
from shards.remote.patience import Patience, StoreError
from tests.servers import Cut, Drop, Fault, Lie, Page, Server, Slow, Status, WrongBytes
from tests.stores import HASTY, gets, wait_until, wanted

ROOT = Path(__file__).parents[2]
BODY = bytes(range(256)) * 4
FETCH = """
import json, sys
from pathlib import Path
from shards.remote.arriving import Wanted
from shards.remote.cache import Cache
from shards.remote.prefetch import Prefetcher
prefetcher = Prefetcher(Cache(Path(sys.argv[1]), 10**9))
files = [Wanted(*each) for each in json.loads(sys.argv[2])]
prefetcher.want(files)
print([len(prefetcher.wait(file)) for file in files])
prefetcher.close()
"""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Room for three bodies."""
    return Cache(tmp_path / "cache", 3 * len(BODY), patience=HASTY)


def fetch(cache: Cache, file: Wanted) -> bytes:
    return cache.fetch(file, Event())[0 : file.size_bytes]


def names(cache: Cache) -> list[str]:
    return sorted(name for name in os.listdir(cache.folder) if name != "room.lock")


def body(number: int) -> bytes:
    return bytes([number]) * len(BODY)


def start(cache: Cache, *files: Wanted) -> subprocess.Popen[str]:
    """Another process that fetches them."""
    asked = json.dumps([[file.url, file.name, file.size_bytes, file.sha256] for file in files])
    command = [sys.executable, "-c", FETCH, str(cache.folder), asked]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_file_is_whole_and_named_by_its_digest(server: Server, cache: Cache) -> None:
    file = wanted(server, "/a.tar", BODY)
    assert fetch(cache, file) == BODY
    assert names(cache) == [file.name]
    assert cache.path(file).read_bytes() == BODY


def test_a_file_comes_once(server: Server, cache: Cache, tmp_path: Path) -> None:
    file = wanted(server, "/a.tar", BODY)
    assert [fetch(each, file) for each in (cache, cache, Cache(cache.folder, 10**9))] == [BODY] * 3
    assert gets(server, "/a.tar") == 1


def test_nothing_is_opened_that_has_not_come(server: Server, cache: Cache) -> None:
    assert cache.opened(wanted(server, "/a.tar", BODY)) is None


@pytest.mark.parametrize(
    "faults",
    [
        [Status(500), Status(503, {"Retry-After": "0"})],
        [Drop(), Cut(100)],
        [Cut(0), Cut(1)],
        [Lie(7), Lie(-7)],
        [WrongBytes(), WrongBytes()],
    ],
)
def test_a_store_that_fails_twice_is_asked_a_third_time(server: Server, cache: Cache, faults: list[Fault]) -> None:
    file = wanted(server, "/a.tar", BODY)
    server.faults["/a.tar"] = faults
    assert fetch(cache, file) == BODY
    assert gets(server, "/a.tar") == 3


def test_a_store_that_stalls_is_asked_again(server: Server, cache: Cache) -> None:
    file = wanted(server, "/a.tar", BODY)
    server.faults["/a.tar"] = [Slow(100)]
    hasty = Cache(cache.folder, 10**9, patience=replace(HASTY, timeout_s=0.1))
    assert fetch(hasty, file) == BODY


def test_what_has_come_does_not_come_again(server: Server, cache: Cache) -> None:
    file = wanted(server, "/a.tar", BODY)
    server.faults["/a.tar"] = [Cut(100)]
    fetch(cache, file)
    assert server.asked("/a.tar", "Range") == [None, "bytes=100-"]


def test_a_store_that_keeps_failing_is_named_without_its_secrets(server: Server, cache: Cache) -> None:
    file = replace(wanted(server, "/a.tar", BODY), url=server.url("/a.tar?key=secret"))
    server.pages["/a.tar?key=secret"] = Page(BODY)
    server.faults["/a.tar?key=secret"] = [Status(500)] * 3
    with pytest.raises(StoreError, match=r"^expected a file in 3 tries, found status 500: http://127[^?]*/a\.tar$"):
        fetch(cache, file)
    assert names(cache) == []


def test_a_file_that_is_not_there_is_asked_for_once(server: Server, cache: Cache) -> None:
    file = wanted(server, "/a.tar", BODY)
    del server.pages["/a.tar"]
    with pytest.raises(ShardError, match=r"expected a file, found none \(status 404\): http://.*/a\.tar"):
        fetch(cache, file)
    assert gets(server, "/a.tar") == 1


def test_a_store_that_forbids_is_asked_once(server: Server, cache: Cache) -> None:
    file = wanted(server, "/a.tar", BODY)
    server.faults["/a.tar"] = [Status(403)]
    with pytest.raises(StoreError, match="expected a file, found status 403"):
        fetch(cache, file)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (BODY[:-1], "expected 1024 bytes, found 1023"),
        (BODY + b"x", "expected 1024 bytes, found 1025"),
        (bytes(len(BODY)), "expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}"),
        (b"", "expected 1024 bytes, found 0"),
    ],
)
def test_another_file_than_expected_is_refused(server: Server, cache: Cache, found: bytes, message: str) -> None:
    file = wanted(server, "/a.tar", BODY)
    server.pages["/a.tar"] = Page(found)
    with pytest.raises(ShardError, match=rf"^{message}: http://.*/a\.tar$"):
        fetch(cache, file)
    assert names(cache) == []


@pytest.mark.parametrize("more", [b"x", BODY * 9])
def test_a_file_longer_than_its_store_says_is_refused(server: Server, cache: Cache, more: bytes) -> None:
    file = wanted(server, "/a.tar", BODY)
    server.pages["/a.tar"] = Page(BODY + more, has_length=False)
    with pytest.raises(ShardError, match="expected at most 1024 bytes, found more"):
        fetch(cache, file)


def test_a_fetch_that_is_stopped_leaves_nothing(server: Server, cache: Cache) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(StoppedError):
        cache.fetch(wanted(server, "/a.tar", BODY), stop)
    assert names(cache) == []


def test_a_full_disk_is_named_and_nothing_is_left(
    server: Server, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(FullDiskError, match=r"expected room on the disk, found it full.*/cache/"):
        fetch(cache, wanted(server, "/a.tar", BODY))
    assert names(cache) == []


def test_processes_that_want_the_same_files_bring_each_once(server: Server, cache: Cache) -> None:
    files = [wanted(server, f"/{i}.tar", bytes([i]) * 300_000) for i in range(12)]
    processes = [start(cache, *files) for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == [f"{[300_000] * 12}\n"] * 3
    assert [gets(server, f"/{i}.tar") for i in range(12)] == [1] * 12
    assert names(cache) == sorted(file.name for file in files)


def test_a_file_that_another_process_is_bringing_is_busy(server: Server, cache: Cache) -> None:
    file = wanted(server, "/a.tar", BODY)
    server.faults["/a.tar"] = [Slow(100)]
    process = start(cache, file)
    wait_until(lambda: not server.faults["/a.tar"])
    with pytest.raises(BusyError):
        fetch(cache, file)
    server.release.set()
    assert process.communicate()[0] == "[1024]\n"


def test_a_process_that_is_killed_leaves_no_lock_and_no_half_file(server: Server, cache: Cache) -> None:
    file, other = wanted(server, "/a.tar", BODY), wanted(server, "/b.tar", body(1))
    server.faults["/a.tar"] = [Slow(100)]
    process = start(cache, file)
    wait_until(lambda: not server.faults["/a.tar"])
    process.kill()
    process.communicate()
    assert (process.returncode, cache.opened(file)) == (-signal.SIGKILL, None)
    fetch(cache, other)  # who comes next sweeps
    assert names(cache) == [other.name]
    assert fetch(cache, file) == BODY


def test_what_was_opened_longest_ago_goes_first(server: Server, cache: Cache) -> None:
    files = [wanted(server, f"/{i}.tar", body(i)) for i in range(5)]
    for age, file in enumerate(files[:3]):
        fetch(cache, file)
        os.utime(cache.path(file), (age, age))
    cache.keep([])
    cache.opened(files[0])
    cache.keep([])
    fetch(cache, files[3])
    assert names(cache) == sorted(file.name for file in (files[0], files[2], files[3]))


def test_what_another_process_reads_stays(server: Server, cache: Cache) -> None:
    files = [wanted(server, f"/{i}.tar", body(i)) for i in range(4)]
    reader = Cache(cache.folder, cache.limit_bytes, patience=HASTY)
    held = [reader.fetch(file, Event()) for file in files[:3]]
    with pytest.raises(
        RoomError, match=r"expected room for 1\.02e-06 GB in a cache of 3\.07e-06 GB, found none: .*cache"
    ):
        fetch(cache, files[3])
    assert [file[0 : len(BODY)] for file in held] == [body(i) for i in range(3)]
    assert names(cache) == sorted(file.name for file in files[:3])


def test_what_this_process_keeps_stays_and_the_rest_goes_for_what_is_new(server: Server, cache: Cache) -> None:
    files = [wanted(server, f"/{i}.tar", body(i)) for i in range(4)]
    cache.keep([files[0].name, files[1].name])
    for file in files:
        fetch(cache, file)
    assert names(cache) == sorted(files[i].name for i in (0, 1, 3))


def test_a_file_larger_than_the_cache_is_refused_and_nothing_goes_for_it(server: Server, cache: Cache) -> None:
    small, large = wanted(server, "/a.tar", BODY), wanted(server, "/b.tar", BODY * 4)
    fetch(cache, small)
    with pytest.raises(RoomError):
        fetch(cache, large)
    assert names(cache) == [small.name]


def test_a_lower_limit_holds_from_the_next_process_on(server: Server, cache: Cache) -> None:
    files = [wanted(server, f"/{i}.tar", body(i)) for i in range(3)]
    for file in files:
        fetch(cache, file)
    cache.keep([])
    fetch(Cache(cache.folder, len(BODY), patience=HASTY), files[0])
    assert names(cache) == [files[0].name]


def test_files_of_others_in_the_folder_are_left_alone(server: Server, cache: Cache) -> None:
    cache.folder.mkdir()
    (cache.folder / "thesis.tar").write_bytes(BODY * 9)
    (cache.folder / "thesis.tar.partial").write_bytes(BODY * 9)
    fetch(cache, wanted(server, "/a.tar", BODY))
    assert names(cache)[1:] == ["thesis.tar", "thesis.tar.partial"]


def test_a_file_that_was_cut_short_in_the_cache_comes_again(server: Server, cache: Cache) -> None:
    file = wanted(server, "/a.tar", BODY)
    fetch(cache, file)
    os.truncate(cache.path(file), 10)
    assert fetch(Cache(cache.folder, 10**9), file) == BODY


def test_a_file_that_was_damaged_in_the_cache_comes_again_where_files_are_verified(
    server: Server, cache: Cache
) -> None:
    file = wanted(server, "/a.tar", BODY)
    fetch(cache, file)
    cache.path(file).write_bytes(bytes(len(BODY)))
    assert fetch(Cache(cache.folder, 10**9), file) == bytes(len(BODY))
    assert fetch(Cache(cache.folder, 10**9, verify=True), file) == BODY


def test_a_link_out_of_the_cache_is_not_followed(server: Server, cache: Cache, tmp_path: Path) -> None:
    file = wanted(server, "/a.tar", BODY)
    cache.folder.mkdir()
    (tmp_path / "secret").write_bytes(BODY)
    cache.path(file).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic"):
        cache.opened(file)


def test_a_name_is_never_a_path() -> None:
    with pytest.raises(AssertionError):
        Wanted("http://127.0.0.1/a", "../a.tar")


@pytest.mark.parametrize(
    ("number", "least_s", "most_s"), [(1, 0.5, 1.0), (2, 1.0, 2.0), (4, 4.0, 8.0), (20, 60.0, 60.0)]
)
def test_waits_double_up_to_a_minute(number: int, least_s: float, most_s: float) -> None:
    assert least_s <= Patience()._wait_s(number, OSError()) <= most_s
