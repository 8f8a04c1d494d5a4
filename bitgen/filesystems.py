"""URLs that fsspec opens, with the same few errors, whatever the package behind it raises."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import IO, Any, TypeVar

from fsspec.core import url_to_fs

from bitgen.arrival import AbsentError, Arrival, MirrorError, TryAgainError, shown

_CHUNK_BYTES = 1 << 16
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


@contextmanager
def opened_at(url: str, start: int, validator: str, timeout_s: float) -> Iterator[Arrival]:
    """As `bitgen.remote.opened_at`."""
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


def read_at(url: str, start: int, stop: int, timeout_s: float) -> bytes:
    """As `bitgen.remote.read_at`."""
    with _translated(url):
        filesystem, path = url_to_fs(url)
        return _in_time(lambda: filesystem.cat_file(path, start=start, end=stop), timeout_s)


def size_at(url: str) -> int:
    """As `bitgen.remote.size_at`. Raises `TryAgainError`, `MirrorError`."""
    with _translated(url):
        filesystem, path = url_to_fs(url)
        return int(filesystem.size(path) or 0)


def names_at(url: str, timeout_s: float) -> list[str]:
    """What lies in the folder at `url`, sorted; nothing where there is none. Raises as `size_at`."""
    try:
        with _translated(url):
            filesystem, path = url_to_fs(url)
            filesystem.invalidate_cache()
            found = _in_time(lambda: filesystem.ls(path, detail=False), timeout_s)
    except AbsentError:
        return []
    return sorted(str(each).rstrip("/").rsplit("/", 1)[-1] for each in found)


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
            f"expected a package that opens {url.partition(':')[0]}: URLs, found none: {shown(str(error))}"
        ) from error
    except FileNotFoundError as error:
        raise AbsentError(f"{type(error).__name__}: {shown(str(error))}") from error
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise MirrorError(f"{type(error).__name__}: {shown(str(error))}") from error
    except (ValueError, NotImplementedError) as error:  # of a protocol or an operation that fsspec does not know
        raise MirrorError(f"expected a URL that fsspec opens, found {shown(str(error))}") from error
    except OSError as error:
        raise TryAgainError(f"connection failed: {type(error).__name__}: {shown(str(error))}") from error
    except library_errors() as error:
        raise TryAgainError(f"connection failed: {type(error).__name__}: {shown(str(error))}") from error


def library_errors() -> tuple[type[Exception], ...]:
    """Those of `_LIBRARY_ERRORS` whose package is in use."""
    loaded = [(sys.modules[module], names) for module, names in _LIBRARY_ERRORS.items() if module in sys.modules]
    return tuple(getattr(module, name) for module, names in loaded for name in names if hasattr(module, name))
