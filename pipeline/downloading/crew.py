"""Daemon threads, one a job, so that a job that waits for a server keeps nobody from leaving."""

import itertools
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key")
Result = TypeVar("Result")


class Crew(Generic[Key, Result]):
    """What becomes of jobs, in the order in which they end.

    Not a `ThreadPoolExecutor`: at the end of the process that one waits for its threads, half a minute for one that
    waits for a server.
    """

    def __init__(self) -> None:
        self._ended: queue.SimpleQueue[tuple[Key, Result | None, BaseException | None]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start(self, key: Key, work: Callable[[], Result]) -> None:
        """Does `work` in a thread of its own."""
        thread = threading.Thread(target=self._do, args=(key, work), daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self) -> tuple[Key, Result]:
        """(key, result) of the job that ends next; raises what that job raised."""
        key, result, error = self._ended.get()
        if error is not None:
            raise error
        return key, result  # type: ignore[return-value] (a job that raises nothing has a result)

    def each(self, jobs: Iterable[tuple[Key, Callable[[], Result]]], at_once: int) -> Iterator[tuple[Key, Result]]:
        """(key, result) of `jobs`, `at_once` of them running."""
        coming = iter(jobs)
        running = 0
        while True:
            for key, work in itertools.islice(coming, at_once - running):
                self.start(key, work)
                running += 1
            if not running:
                return
            yield self.wait()
            running -= 1

    def leave(self, within_s: float) -> None:
        """Waits for the threads, but no longer."""
        deadline = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _do(self, key: Key, work: Callable[[], Result]) -> None:
        result = None
        try:
            result = work()
        finally:
            self._ended.put((key, result, sys.exception()))
