"""A function over many tasks: in this process, in worker processes, or on a Ray cluster; results in the tasks' order."""

import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import forkserver
from types import FrameType
from typing import Any, Literal, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
Engine = Literal["local", "ray"]

_GC_THRESHOLD = 200_000
_AHEAD = 2  # tasks that wait beside those at work: each holds a chunk of rows in memory
_PRELOADED = ["pipeline.building.preloaded"]


class WorkerError(Exception):
    """A worker process died without an answer, or there is no cluster."""


def start_server() -> None:
    """Begins what takes time before the first task, and does not wait for it; safe to call again.

    Workers are forked from a server that has loaded what they need, and has no threads, whose locks a fork would copy.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    # The server ignores Ctrl-C, but only once it has loaded everything: until then it would say so with a traceback. What is
    # ignored here as it starts is ignored there from its first instruction. Other threads cannot set handlers.
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        forkserver.ensure_running()
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)


class LocalWorkers:
    """Up to `count` worker processes, started when first needed and ended with the block."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._context = multiprocessing.get_context("forkserver")
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "LocalWorkers":
        if self.count > 1:
            start_server()
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
            self._pool = ProcessPoolExecutor(self.count, self._context, _begin)
        waiting: deque[Future[Result]] = deque()
        try:
            for task in chain(first, tasks):
                waiting.append(self._pool.submit(function, task))
                if len(waiting) >= self.count + _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except SystemExit as stopped:
            raise KeyboardInterrupt from stopped  # `_stop` in a worker may be heard before this process's own Ctrl-C
        except BrokenProcessPool as error:
            raise WorkerError("expected an answer of a worker process, found it killed: out of memory?") from error


class RayWorkers:
    """The CPUs of a Ray cluster whose machines share the data folder; of this machine where there is no cluster.

    Which cluster is Ray's own rule: `RAY_ADDRESS`, else one that was started here, else a new one for this process.
    """

    def __init__(self) -> None:
        """Raises `WorkerError` where Ray is not installed."""
        try:
            import ray  # pyright: ignore[reportMissingImports] (an extra)
            from ray import exceptions  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise WorkerError(
                "expected the package ray for --engine ray, found none: install the extra bitgen[ray]"
            ) from error
        self._ray, self._errors = ray, exceptions

    def __enter__(self) -> "RayWorkers":
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            self._ray.init(log_to_driver=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            self._ray.shutdown()

    def each(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """As `LocalWorkers.each`, a task to a CPU."""
        remote = self._ray.remote(function)
        waiting: deque[Any] = deque()
        for task in tasks:
            waiting.append(remote.remote(task))
            if len(waiting) >= int(self._ray.cluster_resources().get("CPU", 1)) + _AHEAD:
                yield self._answer(waiting.popleft())
        while waiting:
            yield self._answer(waiting.popleft())

    def _answer(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._errors.RayTaskError as error:
            raise error.cause from error
        except self._errors.RayError as error:
            raise WorkerError(f"expected an answer of a Ray worker, found {error}") from error


def workers_of(engine: Engine, count: int) -> LocalWorkers | RayWorkers:
    """`count` local processes, or a Ray cluster. Raises `WorkerError` where Ray is not installed."""
    return RayWorkers() if engine == "ray" else LocalWorkers(count)


def _begin() -> None:
    """In a new worker: Ctrl-C ends the task, which sweeps up behind itself, without a traceback; a killed parent ends
    the worker, which would otherwise go on beside the next build."""
    signal.signal(signal.SIGINT, _stop)
    # What a chunk collects, tens of thousands of rows, has no cycles: looking for them took 9 % of a profiled build.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()


def _leave_with(parent: int) -> None:
    multiprocessing.connection.wait([parent])
    os._exit(1)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
