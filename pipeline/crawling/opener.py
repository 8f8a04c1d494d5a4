"""One URL becomes bytes, politely and safely: what img2dataset's workers open addresses with.

`urllib.request.urlopen` loads the certificate store and shakes hands anew for every image; an opener that is installed
once per process shares one store and the connections that servers keep open. It is also the one place where every
request passes, redirects included: so it says who is asking, asks for http and https alone and of public addresses
alone, leaves alone what is opted out, and caps bytes, time and requests per host. No proxy is used: it would hide
addresses.
"""

import http.client
import re
import socket
import ssl
import time
import urllib.request
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from pipeline.crawling.connections import Asked, Clock, Connections, Place, RefusedError
from pipeline.crawling.manners import TDM_RESERVATION, Manners
from pipeline.crawling.turns import LONGEST_REST_S, PATIENCE_S, Turns

AGENT = "bitgen"
"""The name under which `X-Robots-Tag: bitgen: noai` speaks to this crawler alone."""
_VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
"""Directives of `X-Robots-Tag` with a colon of their own. Source:
https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag"""
_TRY_AGAIN = ("timeout", "connection_error", "cut_short", "dns_timeout", "http_408", "http_425", "http_429")
NAMED: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, "timeout"),
    (socket.gaierror, "dns_error"),
    (ssl.SSLError, "tls_error"),
    (ConnectionError, "connection_error"),
    (http.client.InvalidURL, "bad_url"),
    (http.client.IncompleteRead, "cut_short"),
    (http.client.HTTPException, "bad_answer"),
    (OSError, "connection_error"),
    (ValueError, "bad_url"),
)
"""Outcomes of errors; the first that fits counts."""
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9._:-]+")
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 10
_ASKS_FOR_REST = (429, 503)
"""With these a `Retry-After` speaks of the host; with others (404, 301) of one page."""
_ENCODINGS = ("gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress")
"""Not asked for, so not decoded; what else stands there is nonsense beside a good image ("image/jpeg", "utf-8")."""
_DRAINED_BYTES = 1 << 16  # of an answer that is no image: read to its end, so that its connection can be used again
_SAFE = "%/:=&?~+!$,;'@()*[]"
"""What stays as it is in a path or query; all else is percent-encoded."""


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
    """An opener with manners, for `urllib.request.install_opener`; safe to use from several threads."""

    def __init__(self, manners: Manners) -> None:
        super().__init__()
        self._manners = manners
        self._connections = Connections(manners.private)
        self._turns = Turns(manners.per_host)
        self._headers = {"User-Agent": manners.user_agent, "Accept": "image/*,*/*;q=0.5", "Connection": "keep-alive"}
        self.stopped = ""
        """Why nobody is asked any more; empty: it works."""

    def stop(self, why: str) -> None:
        """Ask nobody any more: every further `open` is refused as `stopped`."""
        self.stopped = why
        self._turns.stop()

    def open(self, fullurl: str | urllib.request.Request, data: Any = None, timeout: float | None = None) -> Answer:
        """The whole answer of a URL. Raises `RefusedError`. `data` and `timeout` are not used."""
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        manners, attempt = self._manners, 0
        clock = Clock(time.monotonic() + manners.deadline_s, manners.timeout_s)
        while True:
            try:
                return self._once(url, clock)
            except RefusedError as refused:
                may_pass = refused.outcome in _TRY_AGAIN or refused.outcome.startswith("http_5")
                if not may_pass or attempt == manners.retries or refused.wait_s > PATIENCE_S:
                    raise
                clock.deadline += refused.wait_s  # the rest is the host's wish, and not the image's time
                wait_s = max(refused.wait_s, manners.back_off_s * 2**attempt)
                if time.monotonic() + wait_s > clock.deadline:
                    raise
            attempt += 1
            self._turns.wait(wait_s)

    def _once(self, url: str, clock: Clock) -> Answer:
        """One try, through all redirects."""
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                if self.stopped:
                    raise RefusedError("stopped", self.stopped)
                place, target = _parsed(url)
                with self._turns.of(place.host, clock):
                    try:
                        asked = self._connections.ask(place, target, self._headers, clock)
                    except OSError:
                        self._turns.fell_silent(place.host)
                        raise
                    self._turns.answered(place.host)
                    try:
                        status, headers = asked.response.status, asked.response.headers
                        if status in (200, 203):
                            return Answer(headers, self._body(asked))
                        wait_s = _retry_after_s(headers) if status in _ASKS_FOR_REST else 0.0
                        if wait_s:
                            self._turns.rest(place.host, wait_s)
                        _drain(asked.response)
                    finally:
                        self._connections.give_back(asked)
                location = headers.get("Location")
                if status not in _REDIRECTS or location is None:
                    raise RefusedError(f"http_{status}", asked.response.reason, wait_s)
                # http.client reads headers as Latin-1: so the bytes are those that the server sent.
                url = urljoin(url, quote(location.strip(), safe=_SAFE + "#", encoding="latin-1"))
            raise RefusedError("redirects", f"more than {_MOST_REDIRECTS}, the last to {url}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _named(error) from error

    def _body(self, asked: Asked) -> bytes:
        response, allowed = asked.response, self._manners.max_bytes
        if (directive := opted_out(response.headers, self._manners.opt_outs)) is not None:
            raise RefusedError("opted_out", directive)
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding in _ENCODINGS:
            raise RefusedError("bad_answer", f"Content-Encoding {encoding}, unasked")
        stated = response.length
        if stated is not None and stated > allowed:
            raise RefusedError("too_large", f"{stated} bytes stated, {allowed} allowed")
        body = response.read(allowed + 1)
        if len(body) > allowed:
            raise RefusedError("too_large", f"more than {allowed} bytes")
        if stated is not None and len(body) < stated:
            raise RefusedError("cut_short", f"{len(body)} bytes of {stated}")
        if not body:
            raise RefusedError("no_bytes", f"status {response.status}")
        return body


def opted_out(headers: Message, opt_outs: tuple[str, ...]) -> str | None:
    """The directive by which an answer asks not to be used, of those in `opt_outs`; None where there is none.

    `X-Robots-Tag` may come several times, with several directives, and name who a directive is for; those before any
    name are for all.
    """
    if TDM_RESERVATION in opt_outs and headers.get(TDM_RESERVATION, "").strip() == "1":
        return f"{TDM_RESERVATION}: 1"
    for value in headers.get_all("X-Robots-Tag", []):
        agent = ""
        for part in value.lower().split(","):
            name, colon, rest = part.partition(":")
            if colon and name.strip() not in _VALUED:
                agent, part = name.strip(), rest
            if agent in ("", "*", AGENT) and part.strip() in opt_outs:
                return f"X-Robots-Tag: {value}"
    return None


def _parsed(url: str) -> tuple[Place, str]:
    """Where to ask, and for what; a URL is read as browsers do, with spaces and letters outside ASCII.

    Raises `RefusedError`, `ValueError`.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in _PORTS or not parts.hostname:
        raise RefusedError("bad_url", f"expected http:// or https:// and a host, found {url[:200]!r}")
    host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode("ascii")
    if not _HOST.fullmatch(host):
        raise RefusedError("bad_url", f"expected the name of a host, found {host[:200]!r}")
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    place = Place(host, parts.port or _PORTS[parts.scheme], parts.scheme == "https")
    return place, (quote(parts.path, safe=_SAFE) or "/") + query


def _drain(response: http.client.HTTPResponse) -> None:
    if response.chunked or (response.length or 0) <= _DRAINED_BYTES:
        response.read(_DRAINED_BYTES)


def _named(error: BaseException) -> RefusedError:
    """The outcome that an error of the network or of the address is counted under."""
    outcome = next((outcome for kind, outcome in NAMED if isinstance(error, kind)))
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        outcome = "dns_timeout"
    return RefusedError(outcome, str(error) or repr(error))


def _retry_after_s(headers: Message) -> float:
    """Seconds, from a number or a date, an hour at most; 0 where there is neither."""
    stated = headers.get("Retry-After", "").strip()
    if stated.isdecimal():
        return min(float(stated), LONGEST_REST_S)
    try:
        when = parsedate_to_datetime(stated)
    except ValueError:
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return min(max(0.0, (when - datetime.now(UTC)).total_seconds()), LONGEST_REST_S)
