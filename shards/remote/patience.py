"""A store that fails is asked again, with longer and longer waits, and then there is one clear error."""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

from bitgen.progress import StoppedError
from bitgen.remote import AbsentError, MirrorError, TryAgainError, shown
from shards.format import ShardError

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 60.0
_T = TypeVar("_T")


class StoreError(OSError):
    """A store does not give what it should have, however often it is asked."""


class OtherError(TryAgainError):
    """A store gave something else than what was expected: perhaps an older copy, so it is asked again."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a store."""

    tries: int = 5
    backoff_s: float = 1.0
    """After the first try that failed; twice as long after each further one, less up to a half by chance."""
    timeout_s: float = 30.0
    """Without a byte, until a try counts as failed."""

    def ask(self, call: Callable[[], _T], url: str, stop: Event | None = None) -> _T:
        """What `call` gives. Raises `ShardError` where there is no such file or it is still another one at the last
        try, `StoreError` for all else that keeps failing, `StoppedError` once `stop` is set."""
        last: Exception | None = None
        stop = stop or Event()
        for number in range(self.tries):
            if last is not None and stop.wait(self._wait_s(number, last)):
                raise StoppedError
            try:
                return call()
            except TryAgainError as error:
                log.debug("try %d of %d: %s: %s", number + 1, self.tries, error, shown(url))
                last = error
            except AbsentError as error:
                raise ShardError(f"expected a file, found none ({error}): {shown(url)}") from error
            except MirrorError as error:
                raise StoreError(f"expected a file, found {error}: {shown(url)}") from error
        if isinstance(last, OtherError):
            raise ShardError(f"{last}: {shown(url)}") from last
        raise StoreError(f"expected a file in {self.tries} tries, found {last}: {shown(url)}") from last

    def _wait_s(self, number: int, error: Exception) -> float:
        # Many processes see a store fail at once; by chance, so that they do not all come back at once. No sample
        # depends on it.
        wait_s = self.backoff_s * 2 ** (number - 1) * random.uniform(0.5, 1.0)
        asked_s = error.wait_s if isinstance(error, TryAgainError) else None
        return min(max(wait_s, asked_s or 0.0), _LONGEST_WAIT_S)
