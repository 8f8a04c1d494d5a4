"""A URL opened at a byte: http and https by requests, whatever else by fsspec, with the same few errors."""

import contextlib
import email.utils
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from fsspec.core import url_to_fs

USER_AGENT = "bitgen/0.1 (dataset download; python-requests)"
TIMEOUT_S = 30.0
_SIZE_TIMEOUT_S = 10.0
_CHUNK_BYTES = 1 << 16
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^/?#\s]*@)?([^?#\s]*)(?:[?#]\S*)?")
_REASON = re.compile(r"(?:\[Errno -?\d+\]|certificate verify failed:) [\w ,'-]+")
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_LIBRARY_ERRORS = {
    "aiohttp": ("ClientError",),
    "httpx": ("HTTPError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "azure.core.exceptions": ("AzureError",),
    "paramiko.ssh_exception": ("SSHException",),
    "ftplib": ("Error",),
}
"""What the packages behind fsspec raise that is no `OSError`, by the module that defines it."""


_T = TypeVar("_T")
_OWN = threading.local()


class TryAgainError(Exception):
    """This try failed, the next may not; `wait_s` where the server said when."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class StaleError(TryAgainError):
    """Likewise, but what has arrived so far is of no use."""


class MirrorError(Exception):
    """This mirror will not give the file."""


class AbsentError(MirrorError):
    """It has none."""


@dataclass(frozen=True)
class Arrival:
    """What a server sends of a file."""

    start: int
    """Where in the file `chunks` begin."""
    total: int | None
    """Bytes of the whole file; None: not said."""
    validator: str
    """What tells this version of the file from others; empty: nothing does."""
    content_type: str
    chunks: Iterator[bytes]
    """Raises `TryAgainError` where the connection is lost."""
    is_part: bool = False
    """Whether the server took note of the place asked for."""


def is_http(url: str) -> bool:
    """Whether requests opens it."""
    return bool(re.match(r"https?:", url, re.IGNORECASE))


def host_of(url: str) -> str:
    """Whom a download of `url` is a burden to: `s3://bucket`, `https://example.org`."""
    parts = urlsplit(url)
    return f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2].lower()}"


def shown(url: str | Path) -> str:
    """`url` as people may see it: without user, password, query and fragment, where secrets are; a path as it is."""
    return _URL.sub(r"\1\2", str(url))


def opened_at(url: str, start: int, validator: str, *, timeout_s: float = TIMEOUT_S) -> AbstractContextManager[Arrival]:
    """The bytes of `url` from `start` on; from 0 where the file has another `validator`, or cannot be sent in part.

    An empty `validator` asks for whatever version is there. After `timeout_s` without a byte the connection counts as
    lost. Raises `TryAgainError`, `StaleError`, `MirrorError`.
    """
    if is_http(url):
        return _http(requests.get, url, start, "", validator, timeout_s)
    return _fsspec(url, start, validator, timeout_s)


def read_at(url: str, start: int, stop: int, *, timeout_s: float = TIMEOUT_S) -> bytes | None:
    """Bytes [start, stop) of `url`, fewer where the file ends; None where it is only sent whole. Raises as `opened_at`."""
    if not is_http(url):
        with _translated(url):
            filesystem, path = url_to_fs(url)
            return _in_time(lambda: filesystem.cat_file(path, start=start, end=stop), timeout_s)
    # A connection of each thread's own, kept open: a new one takes as long as the bytes of an image.
    session = _OWN.session = getattr(_OWN, "session", None) or requests.Session()
    with _http(session.get, url, start, str(stop - 1), "", timeout_s) as arrival:
        return b"".join(arrival.chunks) if arrival.is_part else None


def size_at(url: str) -> int:
    """Bytes of the file at `url`, without fetching it; 0 where that cannot be known."""
    with contextlib.suppress(requests.RequestException, TryAgainError, MirrorError):
        if not is_http(url):
            with _translated(url):
                filesystem, path = url_to_fs(url)
                return int(filesystem.size(path) or 0)
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


def _said(error: Exception) -> str:
    """What fsspec says, any URL in it as people may see it."""
    return _URL.sub(r"\1\2", str(error))


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


@contextmanager
def _fsspec(url: str, start: int, validator: str, timeout_s: float) -> Iterator[Arrival]:
    with contextlib.ExitStack() as stack:
        with _translated(url):
            filesystem, path = url_to_fs(url)
            filesystem.invalidate_cache()
            info: dict[str, Any] = _in_time(lambda: filesystem.info(path), timeout_s)
            if info.get("type") == "directory":
                raise MirrorError("expected a file, found a folder")
            # Not every filesystem has an ETag; `ukey` stands for all that it knows of a file.
            found = str(info.get("ETag") or info.get("etag") or filesystem.ukey(path))
            if validator and found != validator:
                start = 0
            file = stack.enter_context(_in_time(lambda: filesystem.open(path, "rb"), timeout_s))
            file.seek(start)
        total = info.get("size")
        yield Arrival(start, total if isinstance(total, int) else None, found, "", _read(url, file, timeout_s))


def _read(url: str, file: IO[bytes], timeout_s: float) -> Iterator[bytes]:
    while True:
        with _translated(url):
            chunk = _in_time(lambda: file.read(_CHUNK_BYTES), timeout_s)
        if not chunk:
            return
        yield chunk


def _in_time(call: Callable[[], _T], timeout_s: float) -> _T:
    """What `call` gives. Raises `TimeoutError` where that takes longer: not every package behind fsspec has a limit, so
    a call that never ends is left to a thread that ends with the process."""
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
            outcome.set_exception(error)

    threading.Thread(target=run, name="bitgen-fsspec", daemon=True).start()
    try:
        return outcome.result(timeout_s)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer in {timeout_s:g} s") from error


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """fsspec's errors, and those of the packages behind it, as ours."""
    try:
        yield
    except ImportError as error:
        raise MirrorError(
            f"expected a package that opens {url.partition(':')[0]}: URLs, found none: {_said(error)}"
        ) from error
    except FileNotFoundError as error:
        raise AbsentError(f"{type(error).__name__}: {_said(error)}") from error
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise MirrorError(f"{type(error).__name__}: {_said(error)}") from error
    except (ValueError, NotImplementedError) as error:
        raise MirrorError(f"expected a URL that fsspec opens, found {_said(error)}") from error
    except OSError as error:
        raise TryAgainError(f"connection failed: {type(error).__name__}: {_said(error)}") from error
    except library_errors() as error:
        raise TryAgainError(f"connection failed: {type(error).__name__}: {_said(error)}") from error


def library_errors() -> tuple[type[Exception], ...]:
    """Those of `_LIBRARY_ERRORS` whose package is in use."""
    loaded = [(sys.modules[module], names) for module, names in _LIBRARY_ERRORS.items() if module in sys.modules]
    return tuple(getattr(module, name) for module, names in loaded for name in names if hasattr(module, name))
