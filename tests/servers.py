"""An HTTP server on 127.0.0.1 that serves what a test gives it, and misbehaves on request. Fixture: `server`.

server.pages["/a.zip"] = Page(b"...")                 # Range, If-Range and ETag as a good server has them
server.faults["/a.zip"] = [Status(503), Cut(100)]     # the first request gets 503, the second 100 bytes of its body
server.url("/a.zip"); server.requests                 # what was asked: (path, headers)
"""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Page:
    """What a path serves."""

    body: bytes
    etag: str = '"1"'
    """Empty: none is sent."""
    has_ranges: bool = True
    has_if_range: bool = True
    """Whether `If-Range` is looked at: else the rest is sent though the page has changed."""
    content_type: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    has_length: bool = True


@dataclass(frozen=True)
class Status:
    """Answers with a status and no page."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """Promises the whole body, sends the first `size` bytes of it, and hangs up."""

    size: int


@dataclass(frozen=True)
class Drop:
    """Hangs up without a word."""


@dataclass(frozen=True)
class Lie:
    """States a body that is `bytes` longer than it is, or shorter, sends the body, and hangs up."""

    bytes: int


@dataclass(frozen=True)
class Redirect:
    """Sends the client elsewhere."""

    location: str


@dataclass(frozen=True)
class WrongBytes:
    """Sends as many bytes as asked for, all of them zero."""


@dataclass(frozen=True)
class Slow:
    """Sends the first `size` bytes, then nothing until the test lets go: `server.release.set()`."""

    size: int = 1


@dataclass(frozen=True)
class Together:
    """Sends the page once so many requests have been waiting at the same time, or after `wait_s`."""

    requests: int
    wait_s: float = 10.0


Fault = Status | Cut | Drop | Lie | Redirect | WrongBytes | Slow | Together


class Server:
    """Pages and faults by path; every path without a page is a 404."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.pages: dict[str, Page] = {}
        self.faults: dict[str, list[Fault]] = {}
        """One is used up by each request, in order; then the page is served well."""
        self.requests: list[tuple[str, Message]] = []
        self.heads: list[str] = []
        """Paths whose size alone was asked for, by HEAD: these use up no fault and are not among `requests`."""
        self.connections = 0
        """That were opened."""
        self.keeps_connections = False
        """Whether a connection is for many requests, as HTTP/1.1 has it; not together with faults."""
        self.release = threading.Event()
        self.most_at_once = 0
        """Requests that were waiting for the end of an answer at the same time."""
        self.at_once = 0
        self.changed = threading.Condition()

    def url(self, path: str) -> str:
        """`http://127.0.0.1:PORT/path`."""
        return f"http://127.0.0.1:{self.port}{path}"

    def asked(self, path: str, header: str) -> list[str | None]:
        """The values of a header in all requests for `path`, in order."""
        return [headers.get(header) for asked, headers in self.requests if asked == path]


@contextmanager
def serve(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A running server, over TLS where there is a `context`; stopped when the block is left."""
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    if context is not None:
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
    listener.daemon_threads = True
    server = Server(listener.server_address[1])
    listener.app = server  # type: ignore[attr-defined] (put there by `serve`)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        listener.shutdown()
        listener.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def handle(self) -> None:
        """As ever, but a client that hangs up is no news."""
        app: Server = self.server.app  # type: ignore[attr-defined] (put there by `serve`)
        app.connections += 1
        if app.keeps_connections:
            self.protocol_version = "HTTP/1.1"
        with suppress(ConnectionError):
            super().handle()

    def finish(self) -> None:
        """Likewise."""
        with suppress(ConnectionError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server: Server = self.server.app  # type: ignore[attr-defined] (put there by `serve`)
        with server.changed:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            server.changed.notify_all()
        try:
            self._serve(server)
        finally:
            with server.changed:
                server.at_once -= 1

    def _serve(self, server: Server) -> None:
        if self.command == "HEAD":
            server.heads.append(self.path)
        else:
            server.requests.append((self.path, self.headers))
        faults = server.faults.get(self.path) if self.command == "GET" else None
        fault = faults.pop(0) if faults else None
        page = server.pages.get(self.path)
        if isinstance(fault, Drop):
            return None
        if isinstance(fault, Together):
            with server.changed:
                server.changed.wait_for(lambda: server.most_at_once >= fault.requests, fault.wait_s)
        if isinstance(fault, Status):
            return self._answer(fault.code, fault.headers)
        if isinstance(fault, Redirect):
            return self._answer(302, {"Location": fault.location})
        if page is None:
            return self._answer(404, {})
        part = self._part(page)
        start, stop = part or (0, len(page.body))
        if start >= len(page.body) > 0:
            return self._answer(416, {"Content-Range": f"bytes */{len(page.body)}"})
        body = page.body[start:stop]
        headers = {"Content-Type": page.content_type, **page.headers}
        if page.has_length:
            headers["Content-Length"] = str(len(body) + (fault.bytes if isinstance(fault, Lie) else 0))
        if page.etag:
            headers["ETag"] = page.etag
        if part:
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(page.body)}"
        self.send_response(206 if part else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if isinstance(fault, WrongBytes):
            body = bytes(len(body))
        if isinstance(fault, Cut):
            body = body[: fault.size]
        if isinstance(fault, Slow):
            self.wfile.write(body[: fault.size])
            self.wfile.flush()
            server.release.wait(10)
            body = body[fault.size :]
        self.wfile.write(body)
        return None

    def _part(self, page: Page) -> tuple[int, int] | None:
        """The bytes asked for, from one to before another; None, all of them, where ranges are not for this server, or
        the client's beginning is of another page."""
        asked, only_if = self.headers.get("Range"), self.headers.get("If-Range")
        if not asked or not page.has_ranges or (only_if and page.has_if_range and only_if != page.etag):
            return None
        first, _, last = asked.removeprefix("bytes=").partition("-")
        return int(first), min(int(last) + 1, len(page.body)) if last else len(page.body)

    def _answer(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
