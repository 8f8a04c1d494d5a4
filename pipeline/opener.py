"""One URL becomes bytes, politely and safely: what img2dataset's workers open addresses with.

`urllib.request.urlopen` loads the certificate store anew for every image, which costs 23 ms of CPU; an opener that
is installed once per process shares one TLS context. It is also the one place where every request passes, redirects
included: so it says who is asking, refuses private addresses, and caps bytes, time and connections per host.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from email.message import Message
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

USER_AGENT = "bitgen/0.1 (image-text dataset research crawler; python-urllib)"
_TRY_AGAIN = ("timeout", "connection_error", "cut_short", "http_408", "http_425", "http_429")
_CHUNK_BYTES = 1 << 16
_LONGEST_WAIT_S = 30.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class RefusedError(Exception):
    """An address that gives no image; its text is `outcome: detail`, and so travels through img2dataset's report."""

    def __init__(self, outcome: str, detail: str, wait_s: float = 0.0) -> None:
        super().__init__(f"{outcome}: {detail}")
        self.outcome = outcome
        self.wait_s = wait_s


@dataclass(frozen=True)
class Manners:
    """How a crawl behaves towards the servers, and what it takes from them."""

    user_agent: str = USER_AGENT
    timeout_s: float = 10.0
    """For a connection, and for each wait for more bytes."""
    deadline_s: float = 60.0
    """For one image, tries included."""
    retries: int = 2
    """After a failure that may pass: a time-out, a lost connection, 408, 425, 429 or 5xx."""
    back_off_s: float = 1.0
    """Before the first retry; doubled for each further one, unless the server says how long."""
    max_bytes: int = 32 << 20
    per_host: int = 8
    """Images that one process asks of one host at a time."""
    private: tuple[str, ...] = ()
    """`host:port` that may be asked although they are not public: for tests against a local server."""


class Answer:
    """A whole answer, in the form that img2dataset reads."""

    def __init__(self, headers: Message, body: bytes) -> None:
        self.headers = headers
        self._body = body

    def read(self) -> bytes:
        return self._body

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class PoliteOpener(urllib.request.OpenerDirector):
    """`urllib`'s opener with manners; safe to use from several threads. No proxy is used: it would hide addresses."""

    def __init__(self, manners: Manners) -> None:
        super().__init__()
        self._manners = manners
        self._slots: dict[str, threading.BoundedSemaphore] = defaultdict(
            lambda: threading.BoundedSemaphore(manners.per_host)
        )
        self._lock = threading.Lock()
        self._inner = urllib.request.OpenerDirector()
        context = ssl.create_default_context()
        for handler in (
            _HttpHandler(manners.private),
            _HttpsHandler(manners.private, context),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.UnknownHandler(),  # whatever a redirect leads to but http and https
        ):
            self._inner.add_handler(handler)

    def open(self, fullurl: str | urllib.request.Request, data: Any = None, timeout: float | None = None) -> Any:
        """The `Answer` of a URL, read to its end. Raises `RefusedError`. `data` and `timeout` are not used."""
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        host = urlsplit(url).hostname or ""
        with self._lock:
            slot = self._slots[host]
        deadline = time.monotonic() + self._manners.deadline_s
        with slot:
            for attempt in range(self._manners.retries + 1):
                try:
                    return self._once(url, deadline)
                except RefusedError as refused:
                    may_pass = refused.outcome in _TRY_AGAIN or refused.outcome.startswith("http_5")
                    wait_s = max(refused.wait_s, self._manners.back_off_s * 2**attempt)
                    if not may_pass or attempt == self._manners.retries or time.monotonic() + wait_s > deadline:
                        raise
                time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    def _once(self, url: str, deadline: float) -> Answer:
        manners = self._manners
        try:
            # Many lists hold addresses with spaces and letters outside ASCII, as browsers accept them.
            request = urllib.request.Request(quote(url, safe="%/:=&?~#+!$,;'@()*[]"))
            request.add_header("User-Agent", manners.user_agent)
            request.add_header("Accept", "image/*,*/*;q=0.5")
            left_s = min(manners.timeout_s, deadline - time.monotonic())
            if left_s <= 0:
                raise RefusedError("timeout", f"no answer within {manners.deadline_s:g} s")
            with self._inner.open(request, timeout=left_s) as response:
                return Answer(response.headers, _body(response, manners, deadline))
        except urllib.error.HTTPError as error:
            with error:
                raise RefusedError(f"http_{error.code}", str(error.reason), _retry_after_s(error.headers)) from error
        except urllib.error.URLError as error:
            raise _named(error.reason if isinstance(error.reason, OSError) else error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _named(error) from error


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet; addresses that carry another one inside are judged by that."""
    ip: _Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inside = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inside is None and ip in _NAT64:
            inside = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inside or ip
    return ip.is_global and not ip.is_multicast


def _body(response: http.client.HTTPResponse, manners: Manners, deadline: float) -> bytes:
    stated = response.headers.get("Content-Length", "")
    if stated.isdecimal() and int(stated) > manners.max_bytes:
        raise RefusedError("too_large", f"{stated} bytes stated, {manners.max_bytes} allowed")
    body = bytearray()
    while chunk := response.read1(_CHUNK_BYTES):
        body += chunk
        if len(body) > manners.max_bytes:
            raise RefusedError("too_large", f"more than {manners.max_bytes} bytes")
        if time.monotonic() > deadline:
            raise RefusedError("timeout", f"{len(body)} bytes within {manners.deadline_s:g} s")
    if stated.isdecimal() and len(body) < int(stated):
        raise RefusedError("cut_short", f"{len(body)} bytes of {stated}")
    if not body:
        raise RefusedError("no_bytes", f"status {response.status}")
    return bytes(body)


def _named(error: BaseException) -> RefusedError:
    """The outcome that an error of the network or of the address is counted under."""
    known: tuple[tuple[type[BaseException], str], ...] = (
        (TimeoutError, "timeout"),
        (socket.gaierror, "dns_error"),
        (ssl.SSLError, "tls_error"),
        (ConnectionError, "connection_error"),
        (http.client.InvalidURL, "bad_url"),
        (http.client.IncompleteRead, "cut_short"),
        (http.client.HTTPException, "bad_answer"),
        (urllib.error.URLError, "bad_url"),  # no handler for its scheme
        (OSError, "connection_error"),
        (ValueError, "bad_url"),
    )
    return RefusedError(
        next((outcome for kind, outcome in known if isinstance(error, kind))), str(error) or repr(error)
    )


def _retry_after_s(headers: Message) -> float:
    stated = headers.get("Retry-After", "")
    return min(float(stated), _LONGEST_WAIT_S) if stated.isdecimal() else 0.0


def _connect(
    address: tuple[str, int], timeout: float | None, source_address: tuple[str, int] | None, private: tuple[str, ...]
) -> socket.socket:
    """`socket.create_connection` to public addresses, and to `private` ones: judged is what is connected to."""
    host, port = address
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    allowed = found if f"{host}:{port}" in private else [ip for ip in found if is_public(ip)]
    if not allowed:
        raise RefusedError("private_address", f"{host} is {', '.join(sorted(set(found)))}")
    for last, ip in enumerate(allowed, 1):
        try:
            return socket.create_connection((ip, port), timeout, source_address)
        except OSError:
            if last == len(allowed):
                raise
    raise AssertionError("the last address returns or raises")


class _Http(http.client.HTTPConnection):
    def __init__(self, *args: Any, private: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = partial(_connect, private=private)


class _Https(http.client.HTTPSConnection):
    def __init__(self, *args: Any, private: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = partial(_connect, private=private)


class _HttpHandler(urllib.request.HTTPHandler):
    def __init__(self, private: tuple[str, ...]) -> None:
        super().__init__()
        self._private = private

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Http, private=self._private), req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, private: tuple[str, ...], context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._private = private
        self._shared = context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Https, private=self._private), req, context=self._shared)
