"""Threads that bring files into the cache before they are needed: what is needed first comes first."""

import logging
import time
from collections.abc import Sequence
from threading import Condition, Event, Thread

from bitgen.progress import StoppedError
from shards.files import ShardFile
from shards.format import ShardError
from shards.remote.arriving import Wanted
from shards.remote.cache import Cache, RoomError
from shards.remote.locks import BusyError

log = logging.getLogger(__name__)

_THREADS = 4
_BUSY_S, _FULL_S = 0.05, 0.5
"""Until a file that another process is bringing, or that had no room, is looked at again."""
_CLOSE_S = 0.5


class Prefetcher:
    """Brings files into a cache. Safe to use from several threads. Its own start with the first file, and end with
    `close` or with the process."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self._needed: dict[str, Wanted] = {}
        self._wanted: dict[str, Wanted] = {}
        self._coming: set[str] = set()
        self._awaited: set[str] = set()
        """By threads that have nothing else to do."""
        self._not_before: dict[str, float] = {}
        self._full_until = 0.0
        """For all that is not awaited: to look for room is to list the cache."""
        self._failed: dict[str, Exception] = {}
        """What was needed and did not come."""
        self._without_room: dict[str, RoomError] = {}
        """What may still come."""
        self._has_warned = False
        self._changed = Condition()
        self._stop = Event()
        self._threads: list[Thread] = []

    def want(self, files: Sequence[Wanted]) -> None:
        """What will be needed, in order, in place of what was wanted before."""
        with self._changed:
            names = {file.name for file in files}
            for name in self._wanted.keys() - names:
                self._needed.pop(name, None)
            self._wanted = {file.name: file for file in files}
            self._full_until = 0.0
            self._wake()

    def need(self, file: Wanted) -> None:
        """Bring this one first. Raises what `Cache.fetch` raised when it was needed before."""
        with self._changed:
            if (error := self._failed.pop(file.name, None)) is not None:
                raise error
            if file.name not in self._needed:
                self._needed[file.name] = file
                self._wake()

    def wait(self, file: Wanted) -> ShardFile:
        """The file, when it has come. Raises as `need`, and `RoomError` where there is none for it for long."""
        until = time.monotonic() + self.cache.patience.timeout_s
        while (found := self.cache.opened(file)) is None:
            with self._changed:
                self.need(file)
                self._awaited.add(file.name)
                if (full := self._without_room.get(file.name)) is not None and time.monotonic() > until:
                    raise full
                self._changed.wait(_FULL_S)
        return found

    def close(self) -> None:
        """Ends the threads, and what is half here goes; one whose store stalls ends with the process instead."""
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_CLOSE_S)

    def _wake(self) -> None:
        while len(self._threads) < _THREADS:
            thread = Thread(target=self._run, name="bitgen-prefetch", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while (file := self._next()) is None and not self._stop.is_set():
                    self._changed.wait(_BUSY_S if self._not_before or self._full_until else None)
                if file is None or self._stop.is_set():
                    return
                self._coming.add(file.name)
            self._bring(file)

    def _next(self) -> Wanted | None:
        now = time.monotonic()
        self._not_before = {name: at for name, at in self._not_before.items() if at > now}
        if self._full_until < now:
            self._full_until = 0.0
        for name, file in (self._needed | self._wanted).items():
            is_due = name in self._awaited or not self._full_until
            if is_due and name not in self._coming and name not in self._not_before:
                return file
        return None

    def _bring(self, file: Wanted) -> None:
        error: BaseException | None = None
        try:
            self.cache.fetch(file, self._stop, is_awaited=file.name in self._awaited)
        except StoppedError:
            pass
        except (BusyError, RoomError, ShardError, OSError) as caught:
            error = caught
        except BaseException as caught:  # a bug: whoever waits for the file shall not wait for ever
            error = caught
            raise
        finally:
            with self._changed:
                self._coming.discard(file.name)
                self._settle(file, error)
                self._changed.notify_all()

    def _settle(self, file: Wanted, error: BaseException | None) -> None:
        if isinstance(error, BusyError):
            self._not_before[file.name] = time.monotonic() + _BUSY_S
            return
        if isinstance(error, RoomError):
            self._without_room[file.name] = error
            self._not_before[file.name] = self._full_until = time.monotonic() + _FULL_S
            if file.name in self._needed and not self._has_warned:
                log.warning("%s; what is needed from it is read in parts meanwhile (--data.cache-gb)", error)
                self._has_warned = True
            return
        self._without_room.pop(file.name, None)
        self._awaited.discard(file.name)
        was_needed = self._needed.pop(file.name, None) is not None
        self._wanted.pop(file.name, None)
        if isinstance(error, Exception) and was_needed:
            self._failed[file.name] = error
        elif error is not None:
            log.warning("not there in time: %s", error)
