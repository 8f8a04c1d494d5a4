"""A URL becomes a file: whole, of the right bytes, or not there at all.

What has arrived of `name` waits in `name.part`, with the digest of its URL and its validator in `name.part.json`; a
later call goes on from there by a request for the rest, whatever stopped the earlier one.
"""

import hashlib
import itertools
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitgen.disk import room_for, sync
from bitgen.progress import Task
from bitgen.remote import MirrorError, StaleError, TryAgainError, opened_at, shown
from pipeline.downloading.room import check_room
from pipeline.files import digest_of, forget_digest, note_digest, read_json, replacing, sha256_of, size_of, write_json

log = logging.getLogger(__name__)

TRIES = 10
"""Failures in a row, without one byte more, before a mirror is given up: 511 s of waits, as a router restarts."""
LONGEST_WAIT_S = 300.0
_HTML = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)


class FetchError(Exception):
    """No mirror gave the file."""


@dataclass(frozen=True)
class Expected:
    """What is known of a file before it is there."""

    size_bytes: int = 0
    sha256: str = ""

    def __str__(self) -> str:
        known = [f"{self.size_bytes:,} bytes"] * bool(self.size_bytes) + [f"sha256 {self.sha256}"] * bool(self.sha256)
        return " of ".join(known) or "any bytes"


def is_right(target: Path, expected: Expected) -> bool:
    """Whether `target` is there with the expected bytes; its digest is taken once and noted beside it."""
    if not target.exists() or expected.size_bytes not in (0, size_of(target)):
        return False
    return expected.sha256 in ("", digest_of(target))


def arrived(target: Path) -> int:
    """Bytes of `target` that an earlier call left for the next one."""
    part = _part(target)
    return part.stat().st_size if part.exists() else 0


def tidy(target: Path, is_done: bool) -> None:
    """Removes what a killed `fetch` left beside `target`; what a later one goes on from only where `target` is done.

    A file of wrong bytes may lie at `target` while its replacement arrives.
    """
    if is_done:
        _part(target).unlink(missing_ok=True)
    if not _part(target).exists():
        _part_note(target).unlink(missing_ok=True)


def forget(target: Path) -> None:
    """Removes `target` and what is noted of it."""
    target.unlink(missing_ok=True)
    forget_digest(target)


def fetch(
    urls: Sequence[str | Path],
    target: Path,
    expected: Expected,
    task: Task | None = None,
    *,
    back_off_s: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Leaves the file of the first mirror that gives the expected bytes in `target`; a `Path` is copied.

    Raises `FetchError` naming every mirror and what it answered, `RoomError` and `FullDiskError` where there is no
    room, and whatever `task` and `sleep` raise. What arrived of a file stays for the next call.
    """
    task, refused = task or Task(), list[str]()
    with room_for(target):
        for url in urls:
            try:
                if isinstance(url, Path):
                    digest = _copy(url, target, expected)
                else:
                    digest = _download(url, target, expected, task, back_off_s, sleep)
                note_digest(target, digest)
                return
            except MirrorError as error:
                log.warning("%s: %s", shown(url), error)
                refused.append(f"{shown(url)}: {error}")
    raise FetchError(f"expected {target.name} from one of {len(urls)} mirrors, found {'; '.join(refused)}")


def share(source: Path, target: Path) -> None:
    """Gives `target` the bytes of another downloaded file: by a hard link, or a copy where the disk knows none."""
    digest = digest_of(source)
    with room_for(target), replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
    note_digest(target, digest)


def _copy(source: Path, target: Path, expected: Expected) -> str:
    if not source.exists():
        raise MirrorError("no such file or folder")
    check_room([(target, size_of(source))])
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


def _download(
    url: str, target: Path, expected: Expected, task: Task, back_off_s: float, sleep: Callable[[float], None]
) -> str:
    """Tries `url` until `target` is there, and gives its digest. Raises `MirrorError` when it will not be."""
    part, failures, most, is_second = _part(target), 0, 0, False
    target.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            resumed = _receive(url, target, expected, task)
            try:
                task.begin("checking")
                digest = _check_bytes(part, expected)
                break
            except MirrorError:
                part.unlink()
                if not resumed or is_second:
                    raise
                is_second = True  # the rest may have been of another version than the beginning: once more, whole
        except TryAgainError as error:
            if isinstance(error, StaleError):
                part.unlink(missing_ok=True)
            size = arrived(target)
            failures, most = (1, size) if size > most else (failures + 1, most)
            if failures >= TRIES:
                raise MirrorError(f"{error}, {failures} times in a row") from error
            wait_s = error.wait_s if error.wait_s is not None else back_off_s * 2 ** (failures - 1)
            log.info("%s: %s; trying again in %.0f s", shown(url), error, min(wait_s, LONGEST_WAIT_S))
            sleep(min(wait_s, LONGEST_WAIT_S))
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    sync(target.parent)
    _part_note(target).unlink(missing_ok=True)
    return digest


def _receive(url: str, target: Path, expected: Expected, task: Task) -> bool:
    """Appends to the part of `target` until it is complete; true when it had a beginning."""
    start, validator, is_whole = _beginning(url, target, expected)
    if is_whole:
        return True
    with opened_at(url, start, validator) as arrival:
        _check_type(arrival.content_type, target)
        total = arrival.total
        if total is not None and expected.size_bytes and total != expected.size_bytes:
            raise MirrorError(f"expected {expected.size_bytes:,} bytes, found {total:,}")
        size_bytes = total or expected.size_bytes
        check_room([(target, max(0, size_bytes - arrival.start))])
        first = next(arrival.chunks, b"")
        if not arrival.start:
            if not expected.sha256:
                _check_type("text/html" if _HTML.match(first) else "", target)
            _part(target).unlink(missing_ok=True)
            write_json(
                _part_note(target), {"url_sha256": _digest(url), "validator": arrival.validator, "total": size_bytes}
            )
        task.at(arrival.start, size_bytes)
        size = arrival.start
        with _part(target).open("ab") as file:
            for chunk in itertools.chain([first], arrival.chunks):
                size += len(chunk)
                if expected.size_bytes and size > expected.size_bytes:
                    raise MirrorError(f"expected {expected.size_bytes:,} bytes, found more")
                task.update(len(chunk))
                file.write(chunk)
    if total is not None and size != total:
        raise TryAgainError(f"expected {total:,} bytes, found {size:,}")
    return arrival.start > 0


def _beginning(url: str, target: Path, expected: Expected) -> tuple[int, str, bool]:
    """(bytes of the part to go on from, their validator, whether it is whole); 0 where they may be of another version.

    Where the sha256 is known it tells, whatever validator a server gives, and one mirror goes on with what another
    began.
    """
    size, known = arrived(target), read_json(_part_note(target)) or {}
    if expected.sha256:
        validator, total = "", expected.size_bytes
    elif known.get("url_sha256") == _digest(url) and known.get("validator"):
        validator, total = str(known["validator"]), expected.size_bytes or known.get("total") or 0
    else:
        return 0, "", False
    if total and size > total:
        return 0, "", False
    return size, validator, size > 0 and size == total


def _check_type(content_type: str, target: Path) -> None:
    """Raises `MirrorError` for a page of HTML in the place of the file."""
    if content_type == "text/html" and target.suffix.lower() not in (".html", ".htm"):
        raise MirrorError("expected a file, found a page of HTML, as to sign in or of an error")


def _check_bytes(path: Path, expected: Expected) -> str:
    """The sha256 of `path`. Raises `MirrorError` when it is not the expected one."""
    size_bytes = size_of(path)
    if expected.size_bytes not in (0, size_bytes):
        raise MirrorError(f"expected {expected.size_bytes:,} bytes, found {size_bytes:,}")
    digest = sha256_of(path)
    if expected.sha256 not in ("", digest):
        raise MirrorError(f"expected sha256 {expected.sha256}, found {digest}")
    return digest


def _digest(url: str) -> str:
    """Stands for `url`, which may hold a password or a signature, in a note."""
    return hashlib.sha256(url.encode()).hexdigest()


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _part_note(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.json")
