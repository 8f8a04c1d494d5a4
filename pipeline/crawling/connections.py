"""Connections to web servers: to public addresses alone, kept open between images, and no wait beyond a deadline.

A TLS handshake costs more CPU than all the rest of an image, so a connection that a server keeps open is used again.
Addresses are judged where a connection is made: what was looked up is what is connected to.
"""

import http.client
import io
import ipaddress
import select
import socket
import ssl
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from pipeline.crawling.public import is_public

_IDLE_S = 15.0  # servers hang up after 5 s (Apache) to 75 s (nginx); one that did costs a second try
_MOST_IDLE = 64
_NAMES_KNOWN_S = 60.0
_MOST_NAMES = 10_000
_LONGEST_TEXT = 200
_MOST_HINTS = 10


class RefusedError(Exception):
    """An address that gives no image; its text is `outcome: detail`, and so travels through img2dataset's report."""

    def __init__(self, outcome: str, detail: str, wait_s: float = 0.0) -> None:
        super().__init__(f"{outcome}: {detail}"[:_LONGEST_TEXT])
        self.outcome = outcome
        self.wait_s = wait_s
        """How long the server asks not to be asked again."""


@dataclass(frozen=True)
class Place:
    """What a connection is made to."""

    host: str
    """As it stands in a `Host` header and a certificate: ASCII, lower case."""
    port: int
    is_tls: bool

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass
class Clock:
    """The time that one image has."""

    deadline: float
    """Of `time.monotonic()`."""
    timeout_s: float
    """For each wait on the network."""

    def left_s(self) -> float:
        """What the next wait may take. Raises `TimeoutError` when the deadline is over."""
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("no whole answer before the deadline")
        return min(left_s, self.timeout_s)


class Names:
    """Addresses of hosts, each looked up once a minute; safe for threads.

    The system's look-up knows no time limit, so it runs in a thread of its own, which is left alone where it is late.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Future[list[str]]]] = {}
        self._lock = threading.Lock()

    def find(self, host: str, clock: Clock) -> list[str]:
        """IP addresses, best first. Raises `socket.gaierror`, `TimeoutError`."""
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        return self._asked(host).result(clock.left_s())

    def _asked(self, host: str) -> "Future[list[str]]":
        """The answer that is known, the one that others wait for already, or a new one."""
        now = time.monotonic()
        with self._lock:
            until, found = self._known.get(host, (now, None))
            if found is not None and now < until and not (found.done() and found.exception()):
                return found
            if len(self._known) >= _MOST_NAMES:
                self._known.clear()
            found = Future[list[str]]()
            self._known[host] = (now + _NAMES_KNOWN_S, found)
        threading.Thread(target=_look_up, args=(host, found), daemon=True).start()
        return found


class Connections:
    """Opens connections, and keeps those that are open and idle, of all hosts together; safe for threads."""

    def __init__(self, private: tuple[str, ...]) -> None:
        """`private`: `host:port` that may be connected to although they are not public."""
        self._private = private
        self._names = Names()
        # Once for all: loading the certificate store takes 23 ms of CPU.
        self._context = ssl.create_default_context()
        self._context.set_alpn_protocols(["http/1.1"])
        self._idle: deque[tuple[float, Place, Connection]] = deque()  # oldest first
        self._lock = threading.Lock()

    def ask(self, place: Place, target: str, headers: dict[str, str], clock: Clock) -> "Asked":
        """Sends a GET and reads the head of the answer.

        Args:
            target: path and query, percent-encoded.

        Raises `RefusedError`, `OSError`, `http.client.HTTPException`.
        """
        idle = self._take(place)
        if idle is not None:
            try:
                return self._answered(idle, target, headers, clock)
            except (ConnectionError, ssl.SSLError, http.client.BadStatusLine):
                pass  # what became of the connection while it was idle says nothing about this image
        return self._answered(self._opened(place, clock), target, headers, clock)

    def give_back(self, asked: "Asked") -> None:
        """For the next request, when the answer was read to its end and nothing came after it; else it is closed."""
        connection, response, too_old = asked.connection, asked.response, None
        is_whole = response.isclosed() and response.status >= 200
        if response.will_close or not is_whole or connection.has_unread:
            response.close()
            connection.hang_up()
            return
        with self._lock:
            self._idle.append((time.monotonic(), connection.place, connection))
            if len(self._idle) > _MOST_IDLE:
                too_old = self._idle.popleft()[2]
        if too_old is not None:
            too_old.hang_up()

    def _take(self, place: Place) -> "Connection | None":
        late = time.monotonic() - _IDLE_S
        with self._lock:
            for at in range(len(self._idle) - 1, -1, -1):
                since, found, connection = self._idle[at]
                if found == place and since > late:
                    del self._idle[at]
                    if connection.is_quiet():
                        return connection
                    connection.hang_up()
        return None

    def _answered(self, connection: "Connection", target: str, headers: dict[str, str], clock: Clock) -> "Asked":
        connection.clock = clock
        try:
            connection.request("GET", target, headers=headers)
            return Asked(connection, connection.getresponse())
        except BaseException:
            connection.hang_up()
            raise

    def _opened(self, place: Place, clock: Clock) -> "Connection":
        found = self._names.find(place.host, clock)
        allowed = found if str(place) in self._private else [ip for ip in found if is_public(ip)]
        if not allowed:
            raise RefusedError("private_address", f"{place.host} is {', '.join(sorted(set(found)))}")
        for ip in allowed[:-1]:
            try:
                return self._connected(place, ip, clock)
            except OSError:
                pass  # the next address may answer
        return self._connected(place, allowed[-1], clock)

    def _connected(self, place: Place, ip: str, clock: Clock) -> "Connection":
        line = socket.create_connection((ip, place.port), clock.left_s())
        try:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if place.is_tls:
                line.settimeout(clock.left_s())
                line = self._context.wrap_socket(line, server_hostname=place.host)
        except BaseException:
            line.close()
            raise
        return Connection(place, line, clock)


class _LastAnswer(http.client.HTTPResponse):
    """The final answer: http.client takes a 103 (hints) or 102 (wait) before it for an answer without a body, and so
    the final one for that of the next request."""

    def begin(self) -> None:
        super().begin()
        for _ in range(_MOST_HINTS):
            if not 101 < self.status < 200:
                return
            self.headers = self.msg = None  # type: ignore[assignment]  (what makes it read on)
            super().begin()
        raise http.client.HTTPException(f"more than {_MOST_HINTS} answers with status 1xx")


class Connection(http.client.HTTPConnection):
    """A connection that is open, with a clock beside it."""

    auto_open = 0
    response_class = _LastAnswer

    def __init__(self, place: Place, line: socket.socket, clock: Clock) -> None:
        super().__init__(f"[{place.host}]" if ":" in place.host else place.host, place.port)
        self.default_port = 443 if place.is_tls else 80  # left out of the Host header
        self.place, self.clock, self._line = place, clock, line
        self.has_unread = False
        """Whether bytes came after the end of an answer: they would be taken for the next one."""
        self.sock = _Timed(self, line)

    def is_quiet(self) -> bool:
        """Whether nothing has come since the last answer, not even the end of the connection."""
        waiting = select.poll()
        waiting.register(self._line, select.POLLIN)
        return not waiting.poll(0) and not (isinstance(self._line, ssl.SSLSocket) and self._line.pending())

    def hang_up(self) -> None:
        """Closes it for good; `close`, which http.client calls between answers, does not."""
        self.close()
        self._line.close()


@dataclass(frozen=True)
class Asked:
    """A request whose answer has begun; `Connections.give_back` ends it."""

    connection: Connection
    response: http.client.HTTPResponse


class _Timed:
    """What http.client needs of a socket; every wait is as long as the connection's clock allows."""

    def __init__(self, connection: Connection, line: socket.socket) -> None:
        self._connection, self._line = connection, line

    def sendall(self, data: bytes) -> None:
        self._line.settimeout(self._connection.clock.left_s())
        self._line.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return _Buffer(_Reading(self._connection, self._line))

    def close(self) -> None:
        """Left to `Connection.hang_up`: the answer may still be read."""


class _Reading(io.RawIOBase):
    def __init__(self, connection: Connection, line: socket.socket) -> None:
        self.connection, self._line = connection, line
        self.is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.is_over:
            return 0
        # Before every wait, so that a server that sends a byte now and then is left in time as well.
        self._line.settimeout(self.connection.clock.left_s())
        return self._line.recv_into(buffer)


class _Buffer(io.BufferedReader):
    """Of one answer; says at its end whether more has come."""

    def __init__(self, reading: _Reading) -> None:
        super().__init__(reading)
        self._reading = reading

    def close(self) -> None:
        if not self.closed:
            self._reading.is_over = True  # only what is in memory already is looked at
            self._reading.connection.has_unread = bool(self.peek(1))
        super().close()


def _look_up(host: str, found: Future[list[str]]) -> None:
    try:
        found.set_result([str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)])
    except (OSError, ValueError) as error:
        found.set_exception(error)
