"""Whose turn it is at a host: a few requests at a time, and none while the host rests.

A host rests when it asks for that (429 or 503 with `Retry-After`), or when it has never answered. What is not asked for
because of a rest is `left_alone`, which settles nothing: a later round asks for it.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from pipeline.crawling.connections import Clock, RefusedError
from pipeline.crawling.crawled import LEFT_ALONE

PATIENCE_S = 900.0
"""A rest that a host asks for is waited out up to this; for a longer one the image is left for a later round."""
LONGEST_REST_S = 3600.0
_MOST_SILENCES = 10
_DOWN_S = 600.0


class Turns:
    """At most so many requests to a host at a time, and none while it rests; safe for threads."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._slots: dict[str, tuple[threading.BoundedSemaphore, int]] = {}  # and how many hold it or wait for it
        self._rests: dict[str, float] = {}  # until when, of time.monotonic()
        self._silences: dict[str, int] = {}  # tries in a row that brought no answer at all
        self._alive: set[str] = set()  # hosts that have answered
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def stop(self) -> None:
        """End every wait, those to come included."""
        self._stopping.set()

    def wait(self, wait_s: float) -> None:
        """Sleep, but not beyond `stop`."""
        self._stopping.wait(wait_s)

    @contextmanager
    def of(self, host: str, clock: Clock) -> Iterator[None]:
        """A turn at a host; the clock stands still until it comes. Raises `RefusedError` where it would come too late."""
        with self._lock:
            slot, users = self._slots.get(host) or (threading.BoundedSemaphore(self._per_host), 0)
            self._slots[host] = (slot, users + 1)
        try:
            began = time.monotonic()
            with slot:
                self._wait_out_rest(host)
                clock.deadline += time.monotonic() - began  # the queue and the rest are not the image's
                yield
        finally:
            with self._lock:
                users = self._slots[host][1] - 1
                if users:
                    self._slots[host] = (slot, users)
                else:
                    del self._slots[host]

    def rest(self, host: str, wait_s: float) -> None:
        """The host is left alone for so long; never shorter than it was told before."""
        with self._lock:
            self._rests[host] = max(self._rests.get(host, 0.0), time.monotonic() + min(wait_s, LONGEST_REST_S))

    def fell_silent(self, host: str) -> None:
        """A try brought no answer. A host that has never answered is left alone for a while after several: lists name
        some dead hosts a thousand times, and each try keeps a thread waiting."""
        with self._lock:
            if host in self._alive:
                return
            self._silences[host] = silences = self._silences.get(host, 0) + 1
        if silences >= _MOST_SILENCES:
            self.rest(host, _DOWN_S)

    def answered(self, host: str) -> None:
        """A try brought an answer, whatever it says."""
        with self._lock:
            self._alive.add(host)
            if self._silences.pop(host, 0) >= _MOST_SILENCES:
                self._rests.pop(host, None)

    def _wait_out_rest(self, host: str) -> None:
        patience = time.monotonic() + (PATIENCE_S if host in self._alive else 0.0)
        while (until := self._rests.get(host, 0.0)) > (now := time.monotonic()):
            if until > patience:
                ends = datetime.now(UTC) + timedelta(seconds=until - now)
                raise RefusedError(LEFT_ALONE, f"until {ends.isoformat(timespec='seconds')} for {host}")
            if self._stopping.wait(until - now):
                return
