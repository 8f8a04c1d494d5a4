"""How far a long task is: a bar on a terminal, a line every ten seconds elsewhere."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tqdm import tqdm

log = logging.getLogger(__name__)

LINE_EVERY_S = 10.0
_REDRAW_EVERY_S = 0.1


class Counter(Protocol):
    """Anything that can be told of progress."""

    total: Any
    """Of the count; None: not known."""

    def update(self, n: int) -> object: ...

    def set_postfix_str(self, s: str) -> object:
        """What stands behind the count from now on, such as a loss."""


class StoppedError(Exception):
    """The board of a task was stopped: the task ends as well."""


class _Lines:
    """Logs a line at most every `LINE_EVERY_S` seconds."""

    def __init__(self, what: str, total: int | None, unit: str, done: int) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self.postfix = ""
        self.spoke_at, self.said = time.monotonic(), done

    def update(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.spoke_at >= LINE_EVERY_S:
            share = f" ({self.done / self.total:.0%})" if self.total else ""
            amount = f"{self.done:,} {self.unit}"
            if self.unit == "B":
                rate = max(0, self.done - self.said) / (now - self.spoke_at)
                amount, share = f"{self.done / 1e6:,.1f} MB", f"{share}, {rate / 1e6:,.1f} MB/s"
            self.spoke_at, self.said = now, self.done
            log.info("%s: %s%s%s", self.what, amount, share, self.postfix)

    def set_postfix_str(self, s: str) -> None:
        self.postfix = f", {s}" if s else ""


@contextmanager
def progress(what: str, total: int | None, unit: str, done: int = 0) -> Iterator[Counter]:
    """A counter of `unit` (`B` for bytes), from `done` to `total` (None: not known), shown on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(what, total, unit, done)
        return
    is_bytes = unit == "B"
    with tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=is_bytes,
        unit_divisor=1000,
        leave=False,
        delay=1,
        dynamic_ncols=True,
    ) as bar:
        yield bar


def say(line: str) -> None:
    """A line on stderr, above the bar where one is shown."""
    if sys.stderr.isatty():
        tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)


class BesideBars(logging.Handler):
    """Log lines on stderr that leave a bar whole."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


class Task:
    """What one thread is at; without a board it tells nobody."""

    def __init__(self, name: str = "", board: "Board | None" = None, total: int = 0, done: int = 0) -> None:
        self._name, self._board = name, board
        self._total, self._done = total, done
        self._step, self._step_total, self._step_done = "", 0, 0

    def at(self, done: int, total: int) -> None:
        """So many bytes are there, of `total` (0: as before)."""
        grown, more = total - self._total if total else 0, done - self._done
        self._total, self._done, self._step = self._total + grown, done, ""
        if self._board:
            self._board.move(more, grown)

    def begin(self, step: str, total: int = 0) -> None:
        """A step whose bytes are not among those of the board: `unpacking`."""
        self._step, self._step_total, self._step_done = step, total, 0
        self.update(0)

    def update(self, n: int) -> None:
        """`n` bytes more, of the step where one has begun. Raises `StoppedError`."""
        if self._step:
            self._step_done += n
        else:
            self._done += n
        if self._board:
            self._board.move(0 if self._step else n)

    def __str__(self) -> str:
        done, total = (self._step_done, self._step_total) if self._step else (self._done, self._total)
        share = f"{min(done / total, 1):.0%}" if total else f"{done / 1e6:,.1f} MB" if done else ""
        return " ".join(each for each in (self._step, self._name, share) if each)


class Board:
    """Several tasks on one counter: all their bytes, how many are done, and each one's share. Safe for threads."""

    def __init__(self, counter: Counter, tasks: int, unit: str) -> None:
        self._counter, self._tasks, self._unit = counter, tasks, unit
        self._done, self._shown = 0, list[Task]()
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._spoke_at = time.monotonic() + 1

    @contextmanager
    def task(self, name: str, total: int = 0, done: int = 0) -> Iterator[Task]:
        """Shown within the block; of its `total` bytes (0: not known) `done` are there, and counted."""
        task = Task(name, self, total, done)
        with self._lock:
            self._shown.append(task)
        try:
            yield task
        finally:
            with self._lock:
                self._shown.remove(task)

    def finish(self) -> None:
        """One task more is done."""
        with self._lock:
            self._done += 1

    def stop(self) -> None:
        """Whatever task moves next ends there with `StoppedError`, and so does `pause`."""
        self._stopped.set()

    def pause(self, wait_s: float) -> None:
        """Waits, unless the board is stopped. Raises `StoppedError` then."""
        if self._stopped.wait(wait_s):
            raise StoppedError

    def move(self, n: int, grown: int = 0) -> None:
        """`n` bytes more, and `grown` more in all. Raises `StoppedError`."""
        if self._stopped.is_set():
            raise StoppedError
        with self._lock:
            if grown:
                self._counter.total = (self._counter.total or 0) + grown
            self._counter.update(n)
            now = time.monotonic()
            if now - self._spoke_at >= _REDRAW_EVERY_S:
                self._spoke_at = now
                states = [f"{self._done} of {self._tasks} {self._unit}", ", ".join(map(str, self._shown))]
                self._counter.set_postfix_str("; ".join(each for each in states if each))
