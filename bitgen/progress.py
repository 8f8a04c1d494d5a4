"""How far a long task is: a bar on a terminal, a line every ten seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm

log = logging.getLogger(__name__)

LINE_EVERY_S = 10.0


class Counter(Protocol):
    """Anything that can be told of progress."""

    def update(self, n: int) -> object: ...

    def set_postfix_str(self, s: str) -> object:
        """What stands behind the count from now on, such as a loss."""


class _Lines:
    """Logs a line at most every `LINE_EVERY_S` seconds."""

    def __init__(self, what: str, total: int | None, unit: str, done: int) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self.postfix = ""
        self.spoke_at = time.monotonic()

    def update(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.spoke_at >= LINE_EVERY_S:
            self.spoke_at = now
            share = f" ({self.done / self.total:.0%})" if self.total else ""
            amount = f"{self.done / 1e6:,.1f} MB" if self.unit == "B" else f"{self.done:,} {self.unit}"
            log.info("%s: %s%s%s", self.what, amount, share, self.postfix)

    def set_postfix_str(self, s: str) -> None:
        self.postfix = f", {s}"


@contextmanager
def progress(what: str, total: int | None, unit: str, done: int = 0) -> Iterator[Counter]:
    """A counter of `unit` (`B` for bytes), from `done` to `total` (None: not known), shown on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(what, total, unit, done)
        return
    is_bytes = unit == "B"
    with tqdm(
        desc=what, total=total, initial=done, unit=unit, unit_scale=is_bytes, unit_divisor=1000, leave=False, delay=1
    ) as bar:
        yield bar
