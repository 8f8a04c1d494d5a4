"""A file of a store on its way into the cache, over as many connections as it takes, its digest computed as it comes."""

import hashlib
import os
import re
from dataclasses import dataclass
from threading import Event

from bitgen.progress import StoppedError
from bitgen.remote import StaleError, TryAgainError, opened_at
from shards.remote.patience import OtherError

NAME = re.compile(r"[0-9a-f]{64}(-[0-9]{1,19})?\.(tar|arrow)")
"""Of a file in the cache: never a path, whatever a store says."""


@dataclass(frozen=True)
class Wanted:
    """A file of a store."""

    url: str
    name: str
    """In the cache: a digest, with what tells files of that digest apart, and `.tar` or `.arrow`."""
    size_bytes: int = 0
    """0: not known."""
    sha256: str = ""
    """Empty: not known."""

    def __post_init__(self) -> None:
        assert NAME.fullmatch(self.name), self.name


class Arriving:
    """What has come so far."""

    def __init__(self, handle: int, wanted: Wanted, most_bytes: int, stop: Event) -> None:
        self._handle = handle
        self._wanted = wanted
        self._most_bytes = wanted.size_bytes or most_bytes
        self._stop = stop
        self._restart()

    def _restart(self) -> None:
        self._position, self._validator, self._digest = 0, "", hashlib.sha256()

    def receive(self, timeout_s: float) -> None:
        """All that is still to come. Raises `TryAgainError`, `MirrorError`, `StoppedError`."""
        try:
            with opened_at(self._wanted.url, self._position, self._validator, timeout_s=timeout_s) as arrival:
                if arrival.start != self._position:
                    self._restart()
                self._validator = arrival.validator
                expected = self._wanted.size_bytes or arrival.total
                if arrival.total not in (None, expected):
                    raise OtherError(f"expected {expected} bytes, found {arrival.total}")
                for chunk in arrival.chunks:
                    self._write(chunk)
        except StaleError:
            self._restart()
            raise
        if expected is not None and self._position != expected:
            raise TryAgainError(f"expected {expected} bytes, found {self._position}")
        os.ftruncate(self._handle, self._position)
        if (expected_digest := self._wanted.sha256) and (found := self._digest.hexdigest()) != expected_digest:
            self._restart()
            raise OtherError(f"expected sha256 {expected_digest}, found {found}")

    def _write(self, chunk: bytes) -> None:
        if self._stop.is_set():
            raise StoppedError
        if self._position + len(chunk) > self._most_bytes:
            self._restart()
            raise OtherError(f"expected at most {self._most_bytes} bytes, found more")
        self._digest.update(chunk)
        rest = memoryview(chunk)
        while rest:
            written = os.pwrite(self._handle, rest, self._position)
            self._position, rest = self._position + written, rest[written:]
