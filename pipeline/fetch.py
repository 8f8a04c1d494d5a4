"""A URL becomes a file: whole, of the right bytes, or not there at all.

What has arrived of `name` waits in `name.part`, with its URL and validator in `name.part.json`; a later call goes on
from there by a Range request, whatever stopped the earlier one.
"""

import contextlib
import email.utils
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3

from bitgen.disk import room_for
from bitgen.progress import progress
from pipeline.files import read_json, replacing, sha256_of, size_of, write_json

log = logging.getLogger(__name__)

USER_AGENT = "bitgen/0.1 (dataset download; python-requests)"
TRIES = 6
"""Failures in a row, without one byte more, before a mirror is given up."""
TIMEOUT_S = 30.0
LONGEST_WAIT_S = 300.0
FREE_BYTES = 1 << 28
"""Left free on the disk."""
_CHUNK_BYTES = 1 << 18
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class FetchError(Exception):
    """No mirror gave the file, or there is too little room to begin with."""


class _TryAgainError(Exception):
    """This try failed, the next may not; `wait_s` where the server said when."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class _MirrorError(Exception):
    """This mirror will not give the file."""


@dataclass(frozen=True)
class Expected:
    """What is known of a file before it is there."""

    size_bytes: int = 0
    sha256: str = ""


def is_right(target: Path, expected: Expected) -> bool:
    """Whether `target` is there with the expected bytes; its digest is taken once and noted beside it."""
    if not target.exists():
        return False
    size_bytes, digest = size_of(target), digest_of(target)
    return expected.size_bytes in (0, size_bytes) and expected.sha256 in ("", digest)


def digest_of(target: Path) -> str:
    """sha256 of `target`, from the note beside it while size and time of change are those of the note."""
    known = read_json(_digest_note(target))
    stamp = _stamp(target)
    if known is not None and {key: known.get(key) for key in stamp} == stamp and known.get("sha256"):
        return str(known["sha256"])
    digest = sha256_of(target)
    write_json(_digest_note(target), stamp | {"sha256": digest})
    return digest


def _digest_note(target: Path) -> Path:
    return target.with_name(f".{target.name}.sha256.json")


def _stamp(target: Path) -> dict[str, int]:
    return {"bytes": size_of(target), "mtime_ns": target.stat().st_mtime_ns}


def fetch(
    urls: Sequence[str | Path],
    target: Path,
    expected: Expected,
    *,
    back_off_s: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Leaves the file of the first mirror that gives the expected bytes in `target`; a `Path` is copied.

    Raises `FetchError` naming every mirror and what it answered, `FullDiskError` where there is no room. What
    arrived of a file stays for the next call.
    """
    refused: list[str] = []
    with room_for(target):
        for url in urls:
            try:
                if isinstance(url, Path):
                    digest = _copy(url, target, expected)
                else:
                    digest = _download(url, target, expected, back_off_s, sleep)
                write_json(_digest_note(target), _stamp(target) | {"sha256": digest})
                return
            except _MirrorError as error:
                log.warning("%s: %s", url, error)
                refused.append(f"{url}: {error}")
    raise FetchError(f"expected {target.name} from one of {len(urls)} mirrors, found {'; '.join(refused)}")


def _copy(source: Path, target: Path, expected: Expected) -> str:
    if not source.exists():
        raise _MirrorError("no such file or folder")
    _check_room(target, size_of(source))
    if source.is_file():
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
            return _check_bytes(temporary, expected)
    temporary = target.with_name(f".{target.name}.copying")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(source, temporary)
        digest = _check_bytes(temporary, expected)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        return digest
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _download(url: str, target: Path, expected: Expected, back_off_s: float, sleep: Callable[[float], None]) -> str:
    """Tries `url` until `target` is there, and gives its digest. Raises `_MirrorError` when it will not be."""
    part, note = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    failures, most = 0, 0
    with requests.Session() as session:
        session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        while True:
            try:
                resumed = _receive(session, url, part, note, expected)
                try:
                    digest = _check_bytes(part, expected)
                except _MirrorError:
                    part.unlink()
                    if not resumed:
                        raise
                    # The rest may have been of another version than the beginning: once more, from the start.
                    continue
                break
            except _TryAgainError as error:
                size = part.stat().st_size if part.exists() else 0
                failures, most = (1, size) if size > most else (failures + 1, most)
                if failures >= TRIES:
                    raise _MirrorError(f"{error}, {failures} times in a row") from error
                wait_s = error.wait_s if error.wait_s is not None else back_off_s * 2 ** (failures - 1)
                log.info("%s: %s; trying again in %.0f s", url, error, min(wait_s, LONGEST_WAIT_S))
                sleep(min(wait_s, LONGEST_WAIT_S))
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    note.unlink(missing_ok=True)
    return digest


def _receive(session: requests.Session, url: str, part: Path, note: Path, expected: Expected) -> bool:
    """Appends to `part` until it is complete; true when it had a beginning."""
    start, validator, is_whole = _beginning(url, part, note, expected)
    if is_whole:
        return True
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and validator:
        headers["If-Range"] = validator
    try:
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            start, total = _opened(response, start, part)
            if total is not None and expected.size_bytes and total != expected.size_bytes:
                raise _MirrorError(f"expected {expected.size_bytes:,} bytes, found {total:,}")
            _check_room(part, (total or expected.size_bytes) - start)
            if not start:
                part.unlink(missing_ok=True)
                write_json(note, {"url": url, "validator": _validator(response), "total": total or expected.size_bytes})
            with part.open("ab") as file, progress(part.stem, total or expected.size_bytes or None, "B", start) as bar:
                for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                    file.write(chunk)
                    bar.update(len(chunk))
                    if expected.size_bytes and file.tell() > expected.size_bytes:
                        raise _MirrorError(f"expected {expected.size_bytes:,} bytes, found more")
    except (
        requests.exceptions.SSLError,
        requests.exceptions.TooManyRedirects,
        requests.exceptions.InvalidURL,
    ) as error:
        raise _MirrorError(str(error)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _TryAgainError(f"connection failed: {error}") from error
    size = part.stat().st_size
    if total is not None and size != total:
        raise _TryAgainError(f"expected {total:,} bytes, found {size:,}")
    return start > 0


def _beginning(url: str, part: Path, note: Path, expected: Expected) -> tuple[int, str, bool]:
    """(bytes of `part` to go on from, validator, whether it is whole); 0 where they may be of another version."""
    known = read_json(note) or {}
    size, validator = part.stat().st_size if part.exists() else 0, str(known.get("validator", ""))
    total = expected.size_bytes or known.get("total") or 0
    if known.get("url") != url or (total and size > total) or not (validator or expected.sha256):
        part.unlink(missing_ok=True)
        size = 0
    return size, validator, size > 0 and size == total


def _opened(response: requests.Response, start: int, part: Path) -> tuple[int, int | None]:
    """(where the body starts, size of the whole file or None)."""
    status, length = response.status_code, response.headers.get("Content-Length", "")
    if status in _TRY_AGAIN:
        raise _TryAgainError(f"status {status}", _retry_after_s(response.headers.get("Retry-After", "")))
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _MirrorError(f"expected plain bytes, found Content-Encoding {response.headers['Content-Encoding']}")
    if status == 200:
        return 0, int(length) if length.isdigit() else None
    span, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if status == 206 and span.partition("-")[0] == str(start):
        return start, int(whole) if whole.isdigit() else None
    if status in (206, 416):
        part.unlink(missing_ok=True)
        raise _TryAgainError(f"status {status} with Content-Range {span}/{whole} for a request from byte {start}")
    raise _MirrorError(f"status {status}")


def _validator(response: requests.Response) -> str:
    """What If-Range may carry: a strong ETag, else the date of change, else nothing."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _retry_after_s(value: str) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date."""
    if value.isdigit():
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _check_bytes(path: Path, expected: Expected) -> str:
    """The sha256 of `path`. Raises `_MirrorError` when it is not the expected one."""
    size_bytes = size_of(path)
    if expected.size_bytes not in (0, size_bytes):
        raise _MirrorError(f"expected {expected.size_bytes:,} bytes, found {size_bytes:,}")
    digest = sha256_of(path)
    if expected.sha256 not in ("", digest):
        raise _MirrorError(f"expected sha256 {expected.sha256}, found {digest}")
    return digest


def _check_room(target: Path, size_bytes: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if size_bytes + FREE_BYTES > free:
        raise FetchError(
            f"expected {(size_bytes + FREE_BYTES) / 1e9:.1f} GB free, found {free / 1e9:.1f} GB: {target.parent}"
        )
