"""A function over many tasks, in worker processes or in this one; results in the order of the tasks."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from types import FrameType
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD = 2  # tasks per worker that wait: each holds a chunk of rows in memory


class WorkerError(Exception):
    """A worker process died without an answer."""


class Workers:
    """Up to `count` worker processes, started when first needed and ended with the block."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def each(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """`function(task)` for every task, in order; in this process for one worker or one task.

        `function` is a module's own, tasks and results can be pickled between processes. What `function` raises is
        raised here. Raises `WorkerError` where a worker is killed.
        """
        tasks = iter(tasks)
        first = list(islice(tasks, 2))
        if self.count <= 1 or len(first) < 2:
            yield from map(function, chain(first, tasks))
            return
        if self._pool is None:
            # Spawned, since a fork copies locks that threads of this process hold.
            self._pool = ProcessPoolExecutor(self.count, multiprocessing.get_context("spawn"), _begin)
        waiting: deque[Future[Result]] = deque()
        try:
            for task in chain(first, tasks):
                waiting.append(self._pool.submit(function, task))
                if len(waiting) >= self.count * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except SystemExit as stopped:
            raise KeyboardInterrupt from stopped  # `_stop` in a worker may be heard before this process's own Ctrl-C
        except BrokenProcessPool as error:
            raise WorkerError("expected an answer of a worker process, found it killed: out of memory?") from error


def _begin() -> None:
    """In a new worker: Ctrl-C ends the task, which sweeps up behind itself, without a traceback."""
    signal.signal(signal.SIGINT, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
