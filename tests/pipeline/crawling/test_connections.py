"""Connections are used again where servers keep them open, and made to public addresses alone, in time."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.crawling.connections import Clock, Connections, Names, Place, RefusedError, is_public
from pipeline.crawling.manners import Manners
from pipeline.crawling.opener import PoliteOpener


class _Keeping(BaseHTTPRequestHandler):
    """Keeps connections open, but for `/last`, after which it hangs up without having said so."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        body = b"" if self.path == "/gone" else b"image"
        self.send_response({"/gone": 404, "/moved": 302}.get(self.path, 200))
        self.send_header("Location", "/a.jpg")
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"2\r\nim\r\n3\r\nage\r\n0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.path == "/last"

    def finish(self) -> None:
        super().finish()
        self.server.ended.set()  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    connections = 0
    """That were made."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Keeping)
        self.ended = threading.Event()
        """A connection has."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


@pytest.fixture
def keeping() -> Iterator[_Server]:
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def opener(keeping: _Server) -> PoliteOpener:
    return PoliteOpener(Manners(private=(f"127.0.0.1:{keeping.server_address[1]}",), retries=0))


@pytest.mark.parametrize("path", ["/a.jpg", "/chunked", "/moved"])
def test_an_open_connection_is_used_again(keeping: _Server, opener: PoliteOpener, path: str) -> None:
    assert [opener.open(keeping.url(path)).read() for _ in range(5)] == [b"image"] * 5
    assert keeping.connections == 1


def test_a_connection_survives_a_page_that_is_missing(keeping: _Server, opener: PoliteOpener) -> None:
    with pytest.raises(RefusedError, match="http_404"):
        opener.open(keeping.url("/gone"))
    opener.open(keeping.url("/a.jpg"))
    assert keeping.connections == 1


def test_a_connection_that_was_closed_in_the_meantime_costs_nothing(keeping: _Server, opener: PoliteOpener) -> None:
    opener.open(keeping.url("/last"))
    assert keeping.ended.wait(10)
    assert opener.open(keeping.url("/a.jpg")).read() == b"image"


def test_an_image_that_is_too_large_is_not_read_to_use_its_connection_again(keeping: _Server) -> None:
    small = PoliteOpener(Manners(private=(f"127.0.0.1:{keeping.server_address[1]}",), max_bytes=4))
    for _ in range(2):
        with pytest.raises(RefusedError, match="too_large"):
            small.open(keeping.url("/a.jpg"))
    assert keeping.connections == 2


def test_a_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host) or [(2, 1, 6, "", (host, 0))])
    names, clock = Names(), Clock(time.monotonic() + 10, 10)
    for _ in range(3):
        names.find("photos.example", clock)
    assert asked == ["photos.example"]


def test_a_look_up_that_failed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [socket.gaierror(socket.EAI_AGAIN, "later"), [(2, 1, 6, "", ("8.8.8.8", 0))]]

    def answer(*_: object, **__: object) -> object:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    names, clock = Names(), Clock(time.monotonic() + 10, 10)
    with pytest.raises(socket.gaierror):
        names.find("photos.example", clock)
    assert names.find("photos.example", clock) == ["8.8.8.8"]


def test_a_look_up_without_an_answer_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: silent.wait(10) and [])
    with pytest.raises(TimeoutError):
        Names().find("photos.example", Clock(time.monotonic() + 0.1, 10))
    silent.set()


def test_a_name_that_leads_to_a_private_address_is_refused(keeping: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", 0))])
    place = Place("photos.example", keeping.server_address[1], is_tls=False)
    with pytest.raises(RefusedError, match=r"private_address: photos.example is 127.0.0.1"):
        Connections(()).ask(place, "/a.jpg", {}, Clock(time.monotonic() + 10, 10))
    assert keeping.connections == 0


@pytest.mark.parametrize("ip", ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_public(ip: str) -> None:
    assert is_public(ip)


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::a00:1",
    ],
)
def test_any_other_address_is_not(ip: str) -> None:
    assert not is_public(ip)
