"""Files that a process has locked as long as it lives, and that others leave alone as long as they are."""

import fcntl
import os
from pathlib import Path


class BusyError(Exception):
    """Another process, or thread, has the file locked."""


def claim(path: Path) -> int:
    """A file of that name, made where there is none, locked for this thread alone. Raises `BusyError`."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not is_at(handle, path):
            raise BusyError
    except BaseException as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise BusyError from error
        raise
    return handle


def remove(path: Path) -> bool:
    """Whether the file is gone: nobody had it locked."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(handle, path):
            path.unlink()
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def is_at(handle: int, path: Path) -> bool:
    """Whether the open file still has that name."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), status)
