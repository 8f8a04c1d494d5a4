"""A function over many tasks, in worker processes or in this one; results in the order of the tasks."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD = 2  # tasks per worker that wait: each holds a chunk of rows in memory


class WorkerError(Exception):
    """A worker process died without an answer."""


def each(function: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """`function(task)` for every task, in order, `workers` at a time; in this process for one worker or one task.

    `function` is a module's own, tasks and results can be pickled between processes. What `function` raises is raised
    here, and no further task is begun. Raises `WorkerError` where a worker is killed.
    """
    tasks = iter(tasks)
    first = list(islice(tasks, 2))
    tasks = chain(first, tasks)
    if workers <= 1 or len(first) < 2:
        yield from map(function, tasks)
        return
    # Spawned, since a fork copies locks that threads of this process hold.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) >= workers * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise WorkerError("expected an answer of a worker process, found it killed: out of memory?") from error
    finally:
        pool.shutdown(cancel_futures=True)
