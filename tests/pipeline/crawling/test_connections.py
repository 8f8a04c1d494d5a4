"""Connections are used again where servers keep them open, and made to public addresses alone, in time."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.crawling.connections import Clock, Connections, Names, Place, RefusedError
from pipeline.crawling.manners import Manners
from pipeline.crawling.opener import PoliteOpener

RAW = {
    "/early": b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly",
    "/wait": b"HTTP/1.1 102 Processing\r\n\r\n" * 3 + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwait",
    "/hints": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 99,
    "/switch": b"HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfalse",
    "/longer": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlongHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfalse",
    "/far-longer": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nfar" + bytes(1 << 18),
    "/empty": b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfalse",
}
"""Answers, byte by byte."""
SECOND = {
    "/second-lost": b"",
    "/second-odd": b"false\r\n\r\n",
    "/second-cut": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nima",
}


class _Keeping(BaseHTTPRequestHandler):
    """Keeps connections open, but for `/last`, after which it hangs up without having said so. What begins with
    `/second-` is done to the second request of a connection alone."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1  # type: ignore[attr-defined] (put there by the test)
        self.requests = 0

    def do_GET(self) -> None:
        self.requests += 1
        if self.requests == 2 and self.path in SECOND:
            self.wfile.write(SECOND[self.path])
            self.close_connection = True
            return
        if self.path in RAW:
            self.wfile.write(RAW[self.path])
            return
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
        self.server.ended.set()  # type: ignore[attr-defined] (put there by the test)

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


def test_a_connection_that_speaks_unasked_is_not_used_again(keeping: _Server, opener: PoliteOpener) -> None:
    assert [opener.open(keeping.url(path)).read() for path in ("/far-longer", "/a.jpg")] == [b"far", b"image"]
    assert keeping.connections == 2


@pytest.mark.parametrize(("path", "body"), [("/early", b"early"), ("/wait", b"wait"), ("/longer", b"long")])
def test_every_url_gets_its_own_image(keeping: _Server, opener: PoliteOpener, path: str, body: bytes) -> None:
    paths = [path, "/a.jpg", path, "/a.jpg"]
    assert [opener.open(keeping.url(each)).read() for each in paths] == [body, b"image"] * 2


@pytest.mark.parametrize(
    ("path", "outcome"), [("/switch", "http_101"), ("/empty", "http_204"), ("/hints", "bad_answer")]
)
def test_an_answer_without_an_image_gives_the_next_url_none(
    keeping: _Server, opener: PoliteOpener, path: str, outcome: str
) -> None:
    with pytest.raises(RefusedError, match=outcome):
        opener.open(keeping.url(path))
    assert opener.open(keeping.url("/a.jpg")).read() == b"image"


def test_hints_before_an_image_leave_its_connection_open(keeping: _Server, opener: PoliteOpener) -> None:
    assert [opener.open(keeping.url("/early")).read() for _ in range(3)] == [b"early"] * 3
    assert keeping.connections == 1


@pytest.mark.parametrize("path", ["/second-lost", "/second-odd"])
def test_a_connection_that_fails_when_used_again_costs_no_image(
    keeping: _Server, opener: PoliteOpener, path: str
) -> None:
    assert [opener.open(keeping.url(each)).read() for each in ("/a.jpg", path)] == [b"image"] * 2
    assert keeping.connections == 2


def test_an_image_cut_short_on_a_connection_that_is_used_again_is_refused(
    keeping: _Server, opener: PoliteOpener
) -> None:
    opener.open(keeping.url("/a.jpg"))
    with pytest.raises(RefusedError, match="cut_short: 3 bytes of 5"):
        opener.open(keeping.url("/second-cut"))


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
