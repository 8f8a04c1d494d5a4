"""Whole files or none: what is being written has a temporary name until it is complete and on disk."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitgen.disk import file_sha256, room_for, sync


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, made if need be; on leaving, fsynced and renamed to `path`.

    Removed when the block raises, so that `path` is always the old file or the whole new one. Raises `OSError` as
    `check_replaceable` does, and `FullDiskError` where there is no room.
    """
    check_replaceable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes what killed processes left in `folder` of files that they were writing by `replacing`."""
    for left in folder.glob(".*.tmp"):
        pid = left.name.split(".")[-2]
        if pid.isdecimal() and not _is_running(int(pid)):
            left.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def check_replaceable(path: Path) -> None:
    """Raises `OSError` where a folder, a device or a pipe is at `path`: a rename would put a file in its place."""
    if path.exists() and not path.is_file():
        raise OSError(f"expected a file to replace or nothing, found a folder, a device or a pipe: {path}")


class BusyError(Exception):
    """Another process is at work in the same folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes `folder` and holds it for this process alone; a killed process lets go. Raises `BusyError`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"expected no other process at work, found one: {folder}") from error
        yield


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: object) -> None:
    """Writes `value`, keys sorted, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in `path`; None where there is no such file, or no JSON object in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file; of a folder, that of the sorted lines `digest  relative/path` of its files."""
    if path.is_dir():
        digest = hashlib.sha256()
        for each in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file_sha256(each)}  {each.relative_to(path).as_posix()}\n".encode())
        return digest.hexdigest()
    return file_sha256(path)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files under a folder."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


def digest_of(path: Path) -> str:
    """`sha256_of` a file or folder, from the note beside it while size and time of change are those of the note."""
    known, stamp = read_json(_digest_note(path)), _stamp(path)
    if known is not None and {key: known.get(key) for key in stamp} == stamp and known.get("sha256"):
        return str(known["sha256"])
    digest = sha256_of(path)
    note_digest(path, digest)
    return digest


def note_digest(path: Path, digest: str) -> None:
    """What `digest_of` will say as long as the file is as it is now."""
    write_json(_digest_note(path), _stamp(path) | {"sha256": digest})


def forget_digest(path: Path) -> None:
    """Removes the note."""
    _digest_note(path).unlink(missing_ok=True)


def _digest_note(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256.json")


def _stamp(path: Path) -> dict[str, int]:
    return {"bytes": size_of(path), "mtime_ns": path.stat().st_mtime_ns}
