"""Whatever fsspec opens is fetched like http: in part where a beginning is there, and with the same errors."""

import ftplib
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bitgen.progress import StoppedError, Task
from bitgen.remote import AbsentError, TryAgainError, host_of, read_at, shown, size_at
from pipeline.fetch import Expected, FetchError, arrived, fetch
from tests.servers import Page, Server, Slow, Status

BODY = bytes(range(256)) * 1024


class Killed(Task):
    """Ends the download when its second piece arrives."""

    pieces = 0

    def update(self, n: int) -> None:
        self.pieces += n > 0
        if self.pieces == 2:
            raise StoppedError


class Unsteady(MemoryFileSystem):
    """Loses the connection while a file is opened."""

    protocol = "unsteady"
    failures: list[Exception] = []  # noqa: RUF012 (one for each file that is opened, for all instances)
    stated_more = 0
    """Bytes by which it says that files are larger than they are."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("unsteady://", "memory://"))

    def info(self, path: str, **kwargs: Any) -> Any:
        known = super().info(path, **kwargs)
        return known | {"size": known["size"] + self.stated_more}

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if self.failures:
            raise self.failures.pop(0)
        return super()._open(path, *args, **kwargs)


@pytest.fixture(autouse=True)
def memory() -> Iterator[MemoryFileSystem]:
    """An empty `memory://`."""
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    fsspec.register_implementation(
        "nowhere", "no_such_package.FileSystem", clobber=True, errtxt="Install no_such_package"
    )
    MemoryFileSystem.store.clear()
    yield MemoryFileSystem()
    MemoryFileSystem.store.clear()


def put(url: str, body: bytes) -> None:
    with fsspec.open(url, "wb") as file:
        file.write(body)  # type: ignore[attr-defined] (a file of the memory store)


def get(url: str, target: Path, expected: Expected | None = None) -> list[float]:
    """Fetches `url`; how long it would have waited between tries."""
    waited: list[float] = []
    fetch([url], target, expected or Expected(), sleep=waited.append)
    return waited


def kill(url: str, target: Path) -> None:
    """Fetches `url` up to its first piece."""
    with pytest.raises(StoppedError):
        fetch([url], target, Expected(), Killed())


@pytest.mark.parametrize("scheme", ["memory://", "local://{}/"])
def test_a_file_of_any_filesystem_is_fetched(tmp_path: Path, scheme: str) -> None:
    url = scheme.format(tmp_path) + "a.bin"
    put(url, BODY)
    get(url, tmp_path / "b", Expected(len(BODY), hashlib.sha256(BODY).hexdigest()))
    assert (tmp_path / "b").read_bytes() == BODY


@pytest.mark.parametrize("scheme", ["memory://", "local://{}/"])
def test_a_later_process_goes_on(tmp_path: Path, scheme: str) -> None:
    url = scheme.format(tmp_path) + "a.bin"
    put(url, BODY)
    kill(url, tmp_path / "b")
    size = arrived(tmp_path / "b")
    (tmp_path / "b.part").write_bytes(b"x" * size)  # so that it can be told from what is fetched again
    get(url, tmp_path / "b")
    assert size > 0
    assert (tmp_path / "b").read_bytes() == b"x" * size + BODY[size:]


def test_a_file_that_changed_since_is_fetched_from_its_start(tmp_path: Path) -> None:
    put("memory://a", BODY)
    kill("memory://a", tmp_path / "b")
    put("memory://a", BODY[::-1])
    get("memory://a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == BODY[::-1]


def test_a_file_that_is_not_there_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="memory://none: FileNotFoundError: /none"):
        get("memory://none", tmp_path / "b")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    put("memory://in/a", BODY)
    with pytest.raises(FetchError, match="expected a file, found a folder"):
        get("memory://in", tmp_path / "b")


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FetchError, match=r"expected a package that opens nowhere: URLs, found none: Install no_such_pack"
    ):
        get("nowhere://bucket/a", tmp_path / "b")


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), TimeoutError("late"), ftplib.error_temp("421")])
def test_a_lost_connection_is_tried_again(tmp_path: Path, error: Exception) -> None:
    put("memory://a", BODY)
    Unsteady.failures[:] = [error, error]
    assert get("unsteady://a", tmp_path / "b") == [1.0, 2.0]
    assert (tmp_path / "b").read_bytes() == BODY


def test_a_file_shorter_than_stated_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("memory://a", BODY)
    monkeypatch.setattr(Unsteady, "stated_more", 7)
    with pytest.raises(FetchError, match=r"unsteady://a: expected 262,151 bytes, found 262,144, 10 times in a row"):
        get("unsteady://a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_what_may_not_be_read_is_not_tried_again(tmp_path: Path) -> None:
    put("memory://a", BODY)
    Unsteady.failures[:] = [PermissionError("not yours")]
    with pytest.raises(FetchError, match="unsteady://a: PermissionError: not yours"):
        get("unsteady://a", tmp_path / "b")


def test_the_size_of_a_file_is_known_without_fetching_it(server: Server) -> None:
    server.pages["/a"] = Page(BODY)
    assert size_at(server.url("/a")) == len(BODY)
    assert server.requests == []


def test_the_size_of_a_file_of_any_filesystem_is_known() -> None:
    put("memory://a", BODY)
    assert size_at("memory://a") == len(BODY)


@pytest.mark.parametrize("url", ["memory://none", "nowhere://b/a", "http://127.0.0.1:9/a", "{}/gone", "{}/packed"])
def test_a_size_that_cannot_be_known_is_0(server: Server, url: str) -> None:
    server.pages["/packed"] = Page(BODY, headers={"Content-Encoding": "gzip"})
    assert size_at(url.format(server.url(""))) == 0


def test_a_server_is_known_by_its_name_and_port() -> None:
    assert host_of("HTTPS://Example.org:8080/a?b") == "https://example.org:8080"
    assert host_of("s3://bucket/a") == "s3://bucket"


def test_a_length_of_more_digits_than_any_file_has_is_not_known(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY, headers={"Content-Length": "9" * 5000}, has_length=False)
    assert size_at(server.url("/a")) == 0


def test_a_range_of_more_digits_than_any_file_has_is_not_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "b.part").write_bytes(BODY[:5])
    server.pages["/a"] = Page(BODY)
    server.faults["/a"] = [Status(416, {"Content-Range": "bytes */" + "9" * 5000})]
    get(server.url("/a"), tmp_path / "b", Expected(len(BODY), hashlib.sha256(BODY).hexdigest()))
    assert (tmp_path / "b").read_bytes() == BODY


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://user:TOKEN@example.org:80/a?key=SECRET#x", "http://example.org:80/a"),
        ("zip://a.zip::https://user:TOKEN@example.org/x?key=SECRET", "zip://a.zip::https://example.org/x"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("own/a?b", "own/a?b"),
    ],
)
def test_a_url_is_told_without_its_secrets(url: str, told: str) -> None:
    assert shown(url) == told


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 300), (1000, 1700), (len(BODY) - 5, len(BODY) + 9)])
def test_a_part_of_a_file_is_what_it_holds_there(server: Server, start: int, stop: int) -> None:
    server.pages["/a"] = Page(BODY)
    put("memory://a", BODY)
    assert [read_at(url, start, stop) for url in (server.url("/a"), "memory://a")] == [BODY[start:stop]] * 2


def test_the_parts_of_a_file_come_over_one_connection(server: Server) -> None:
    server.pages["/a"], server.keeps_connections = Page(BODY), True
    assert [read_at(server.url("/a"), i, i + 100) for i in range(3)] == [BODY[i : i + 100] for i in range(3)]
    assert server.connections == 1


def test_no_part_comes_of_a_file_that_is_only_sent_whole(server: Server) -> None:
    server.pages["/a"] = Page(BODY, has_ranges=False)
    assert read_at(server.url("/a"), 0, 10) is None


@pytest.mark.parametrize("url", ["/a?key=secret", "memory://a"])
def test_a_part_of_no_file_is_absent(server: Server, url: str) -> None:
    with pytest.raises(AbsentError, match=r"^(status 404|FileNotFoundError: .*a)$"):
        read_at(server.url(url) if url.startswith("/") else url, 0, 10)


def test_a_server_that_stalls_is_left(server: Server) -> None:
    server.pages["/a"] = Page(BODY)
    server.faults["/a"] = [Slow()]
    with pytest.raises(TryAgainError, match="connection failed"):
        read_at(server.url("/a"), 0, 10, timeout_s=0.05)


def test_a_filesystem_that_stalls_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    put("unsteady://a", BODY)
    monkeypatch.setattr(Unsteady, "cat_file", lambda *_, **__: release.wait(10))
    with pytest.raises(TryAgainError, match=r"connection failed: TimeoutError: no answer in 0\.05 s"):
        read_at("unsteady://a", 0, 10, timeout_s=0.05)
    release.set()
