"""Files of a store in a bounded folder of this machine, which any number of processes share.

A file that is whole bears a name made of digests; one that is coming bears the same name and `.partial`. Who brings a
file has its lock (flock) alone, who reads it shares it. A lock ends with its process, however that ends; so what nobody
has locked may go: at once the beginning of a file whose bringer died, and, where room is needed, what was opened longest
ago. Locks are for one machine: the folder has to be on a disk of it.
"""

import fcntl
import logging
import os
import stat
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock

from bitgen.disk import file_sha256, room_for, sync
from bitgen.remote import shown
from shards.files import ShardFile
from shards.remote.arriving import NAME, Arriving, Wanted
from shards.remote.locks import BusyError, claim, is_at, remove
from shards.remote.patience import Patience, StoreError

log = logging.getLogger(__name__)

_PARTIAL = ".partial"
_ROOM = "room.lock"
_OPEN_FILES = 256
"""Held open in a process, which may have 1,024."""


class RoomError(StoreError):
    """The cache has no room for a file."""


class Cache:
    """The folder. Safe to use from several threads. It is made when the first file comes."""

    def __init__(
        self, folder: Path, limit_bytes: int, *, verify: bool = False, patience: Patience | None = None
    ) -> None:
        """A file's sha256 is computed as it comes; with `verify`, also that of one that has come before."""
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.patience = patience or Patience()
        self._verify = verify
        self._open: OrderedDict[str, ShardFile] = OrderedDict()
        self._kept: frozenset[str] = frozenset()
        self._lock = Lock()
        self._is_swept = False

    def path(self, wanted: Wanted) -> Path:
        """Where the file is, or would be."""
        return self.folder / wanted.name

    def opened(self, wanted: Wanted) -> ShardFile | None:
        """The file, where it is here; as long as it is referred to, or held here, no process removes it."""
        with self._lock:
            if (file := self._open.get(wanted.name)) is not None:
                self._open.move_to_end(wanted.name)
                return file
        file = self._open_whole(wanted)
        return None if file is None else self._hold(wanted.name, file)

    def keep(self, names: Collection[str]) -> None:
        """What is to be held open from now on; all else is let go. It is still read where it is needed again."""
        self._kept = frozenset(names)
        self._let_go(self._kept)

    def fetch(self, wanted: Wanted, stop: Event, *, is_awaited: bool = False) -> ShardFile:
        """The file, brought here unless it has come already. For one that is awaited, what is kept may go.

        Raises `BusyError` where it is not to be had now, `RoomError`, `StoppedError` once `stop` is set, what
        `Patience.ask` raises, and `FullDiskError`. Nothing is left behind then.
        """
        self._sweep()
        if (file := self.opened(wanted)) is not None:
            return file
        partial = self.folder / (wanted.name + _PARTIAL)
        handle = claim(partial)
        is_whole = False
        try:
            if (file := self.opened(wanted)) is not None:
                return file
            if os.path.lexists(self.path(wanted)):  # it has come this moment, and who brought it still has it locked
                raise BusyError
            with room_for(self.path(wanted)):
                self._make_room(wanted, handle, partial, is_awaited)
                arriving = Arriving(handle, wanted, self.limit_bytes, stop)
                self.patience.ask(lambda: arriving.receive(self.patience.timeout_s), wanted.url, stop)
                os.fsync(handle)
                os.rename(partial, self.path(wanted))
                is_whole = True
                sync(self.folder)
            fcntl.flock(handle, fcntl.LOCK_SH)
            if not is_at(handle, self.path(wanted)):  # to share a lock is to leave it for a moment
                raise BusyError
            file = ShardFile(os.dup(handle), os.fstat(handle).st_size, shown(wanted.url))
        finally:
            if not is_whole:
                partial.unlink(missing_ok=True)
            os.close(handle)
        return self._hold(wanted.name, file)

    def _hold(self, name: str, file: ShardFile) -> ShardFile:
        with self._lock:
            file = self._open.setdefault(name, file)
            self._open.move_to_end(name)
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
            return file

    def _let_go(self, kept: frozenset[str]) -> None:
        with self._lock:
            for name in [name for name in self._open if name not in kept]:
                del self._open[name]

    def _open_whole(self, wanted: Wanted) -> ShardFile | None:
        """The file, locked against removal; one that cannot be the right one is removed."""
        path = self.path(wanted)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        status = os.fstat(handle)
        file = ShardFile(handle, status.st_size, shown(wanted.url))
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if not is_at(handle, path):
                return None
            is_right = stat.S_ISREG(status.st_mode) and status.st_size == (wanted.size_bytes or status.st_size)
            if is_right and self._verify and wanted.sha256:
                is_right = file_sha256(path) == wanted.sha256
            if is_right:
                os.utime(handle)
                return file
            log.warning("the cache's %s is damaged: it will be fetched again", path)
            path.unlink(missing_ok=True)
        return None

    def _sweep(self) -> None:
        """Once a process: what dead ones left, and what is above a limit that may have been lowered."""
        with self._lock:
            if self._is_swept:
                return
            with room_for(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            for entry in self._entries():
                if entry.name.endswith(_PARTIAL):
                    remove(Path(entry.path))
            with self._room():
                self._evict(0, "")
            self._is_swept = True

    def _make_room(self, wanted: Wanted, handle: int, partial: Path, is_awaited: bool) -> None:
        """Raises `RoomError`. The partial file is as long as the whole one from here on, and counts as such."""
        size = wanted.size_bytes
        with self._room():
            fits = size <= self.limit_bytes and self._evict(size, partial.name)
            if not fits and size <= self.limit_bytes:
                self._let_go(frozenset() if is_awaited else self._kept)
                fits = self._evict(size, partial.name)
            if not fits:
                limit = f"{self.limit_bytes / 1e9:.3g} GB"
                raise RoomError(
                    f"expected room for {size / 1e9:.3g} GB in a cache of {limit}, found none: {self.folder}"
                )
            os.ftruncate(handle, size)

    @contextmanager
    def _room(self) -> Iterator[None]:
        """One process at a time counts and removes."""
        handle = os.open(self.folder / _ROOM, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _entries(self) -> list[os.DirEntry[str]]:
        """Files that are the cache's: whatever else the folder holds is left alone."""
        with os.scandir(self.folder) as entries:
            return [entry for entry in entries if NAME.fullmatch(entry.name.removesuffix(_PARTIAL))]

    def _evict(self, size_bytes: int, but: str) -> bool:
        """Whether there is room for so many bytes, beside a file that is not counted."""
        found = []
        for entry in self._entries():
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                found.append((status.st_mtime_ns, Path(entry.path), status.st_size))
        found = [each for each in found if each[1].name != but]
        total = size_bytes + sum(size for _, _, size in found)
        for _, path, size in sorted(found):
            if total <= self.limit_bytes:
                break
            if remove(path):
                total -= size
        return total <= self.limit_bytes
