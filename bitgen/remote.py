"""A URL opened at a byte: http and https by requests, whatever else by fsspec, with the same few errors."""

import contextlib
import email.utils
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from urllib.parse import urlsplit

import requests
import urllib3

from bitgen import filesystems
from bitgen.arrival import AbsentError, Arrival, MirrorError, StaleError, TryAgainError, is_http, shown
from bitgen.filesystems import library_errors

__all__ = [
    "AbsentError",
    "Arrival",
    "MirrorError",
    "StaleError",
    "TryAgainError",
    "host_of",
    "is_http",
    "library_errors",
    "names_at",
    "opened_at",
    "read_at",
    "shown",
    "size_at",
]

USER_AGENT = "bitgen/0.1 (dataset download; python-requests)"
TIMEOUT_S = 30.0
_SIZE_TIMEOUT_S = 10.0
_CHUNK_BYTES = 1 << 16
_REASON = re.compile(r"(?:\[Errno -?\d+\]|certificate verify failed:) [\w ,'-]+")
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_OWN = threading.local()


def host_of(url: str) -> str:
    """Whom a download of `url` is a burden to: `s3://bucket`, `https://example.org`."""
    parts = urlsplit(url)
    return f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2].lower()}"


def opened_at(url: str, start: int, validator: str, *, timeout_s: float = TIMEOUT_S) -> AbstractContextManager[Arrival]:
    """The bytes of `url` from `start` on; from 0 where the file has another `validator`, or cannot be sent in part.

    An empty `validator` asks for whatever version is there. After `timeout_s` without a byte the connection counts as
    lost. Raises `TryAgainError`, `StaleError`, `MirrorError`.
    """
    if is_http(url):
        return _http(requests.get, url, start, "", validator, timeout_s)
    return filesystems.opened_at(url, start, validator, timeout_s)


def read_at(url: str, start: int, stop: int, *, timeout_s: float = TIMEOUT_S) -> bytes | None:
    """Bytes [start, stop) of `url`, fewer where the file ends; None where it is only sent whole. Raises as `opened_at`."""
    if not is_http(url):
        return filesystems.read_at(url, start, stop, timeout_s)
    # A connection of each thread's own, kept open: a new one takes as long as the bytes of an image.
    session = _OWN.session = getattr(_OWN, "session", None) or requests.Session()
    with _http(session.get, url, start, str(stop - 1), "", timeout_s) as arrival:
        if not arrival.is_part:
            return None
        found = bytearray()
        for chunk in arrival.chunks:
            found += chunk
            if len(found) > stop - start:
                raise TryAgainError(f"expected {stop - start} bytes, found more")
        return bytes(found)


def names_at(url: str, *, timeout_s: float = TIMEOUT_S) -> list[str] | None:
    """What lies in the folder at `url`, sorted; None where it cannot be known. Raises `TryAgainError`, `MirrorError`."""
    return None if is_http(url) else filesystems.names_at(url, timeout_s)


def size_at(url: str) -> int:
    """Bytes of the file at `url`, without fetching it; 0 where that cannot be known."""
    with contextlib.suppress(requests.RequestException, TryAgainError, MirrorError):
        if not is_http(url):
            return filesystems.size_at(url)
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        with requests.head(url, headers=headers, allow_redirects=True, timeout=_SIZE_TIMEOUT_S) as response:
            if response.status_code == 200 and not _is_encoded(response):
                return _whole(response.headers.get("Content-Length", "")) or 0
    return 0


@contextmanager
def _http(
    get: Callable[..., requests.Response], url: str, start: int, last: str, validator: str, timeout_s: float
) -> Iterator[Arrival]:
    """`last`: number of the last byte; empty: of the file's."""
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if start or last:
        headers["Range"] = f"bytes={start}-{last}"
        if validator:
            headers["If-Range"] = validator
    try:
        response = get(url, headers=headers, stream=True, timeout=timeout_s)
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise MirrorError(f"expected a certificate that can be trusted, found {_reason(error)}") from error
        raise TryAgainError(f"connection failed: {_reason(error)}") from error
    except requests.TooManyRedirects as error:
        raise MirrorError("expected a file, found redirects without end") from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise MirrorError(f"expected a URL of http or https, found {type(error).__name__}") from error
    except requests.RequestException as error:
        raise TryAgainError(f"connection failed: {_reason(error)}") from error
    with response:
        yield _answered(response, start, validator)


def _answered(response: requests.Response, start: int, validator: str) -> Arrival:
    """What the answer to a request for the bytes from `start` on brings."""
    status = response.status_code
    if status in _TRY_AGAIN:
        raise TryAgainError(f"status {status}", _retry_after_s(response.headers.get("Retry-After", "")))
    if _is_encoded(response):
        raise MirrorError(f"expected plain bytes, found Content-Encoding {response.headers['Content-Encoding']}")
    found = _validator(response)
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if status == 200:
        total = _whole(response.headers.get("Content-Length", ""))
        return Arrival(0, total, found, content_type, _received(response))
    span, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    total = _whole(whole)
    if status == 206 and span.partition("-")[0] == str(start):
        if validator and found and found != validator:
            raise StaleError(f"expected the rest of {validator}, found {found}")
        return Arrival(start, total, found, content_type, _received(response), is_part=True)
    if status == 416 and start and total == start:
        return Arrival(start, total, validator, content_type, iter(()))
    if status in (206, 416):
        raise StaleError(f"status {status} with Content-Range {span}/{whole} for a request from byte {start}")
    raise (AbsentError if status in (404, 410) else MirrorError)(f"status {status}")


def _received(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.raw.stream(_CHUNK_BYTES, decode_content=False)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise TryAgainError(f"connection failed: {_reason(error)}") from error


def _whole(text: str) -> int | None:
    """Bytes as a header states them; None where it states none, or more than any file has."""
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _reason(error: Exception) -> str:
    """Why http failed, without the URL that messages of requests hold: it may be a redirect's, with a signature."""
    found = _REASON.search(str(error))
    return f"{type(error).__name__}: {found[0]}" if found else type(error).__name__


def _is_encoded(response: requests.Response) -> bool:
    return response.headers.get("Content-Encoding", "identity") != "identity"


def _validator(response: requests.Response) -> str:
    """What If-Range may carry: a strong ETag, else the date of change, else nothing."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _retry_after_s(value: str) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date."""
    if value.isdecimal():
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None
