"""Who makes the rows of batches, and in which memory: threads of this process, or processes that are forked from it.

A thread that decodes holds Python's lock for a tenth of its time, and waits for it as long again; a process has its own.
It is forked, not started anew, so that it has what the caller has: an open stream, torch.
"""

import contextlib
import gc
import mmap
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import traceback
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgen.row import Rows

Fill = Callable[[Sequence[int], Tensor], Rows]
"""`fill(positions, memory)`: rows of positions, their images in `memory` [positions, *shape] uint8."""
Answer = Callable[[], Rows]
"""Waits for rows, and raises what their maker raised."""


class WorkerError(Exception):
    """A worker process died without an answer."""


class Memory(NamedTuple):
    """Where the pixels or features of a batch go."""

    images: Tensor
    """[images, *shape] uint8, as it happens to be; the shape is that of `bitgen.row.Seen`."""
    slot: int = 0
    """Which part of the shared memory it is."""


class Workers(Protocol):
    """`Threads` or `Forked`."""

    rows_a_task: int

    def take(self, images: int) -> Memory:
        """Memory that no tensor holds any more."""
        ...

    @property
    def is_out(self) -> bool:
        """Whether there is no more memory until a tensor is dropped."""
        ...

    def begin(self, memory: Memory, start: int, positions: tuple[int, ...]) -> Answer:
        """Has rows made of `positions`, their images from image `start` of `memory` on. Answers are taken in order."""
        ...

    def close(self) -> None:
        """Ends the workers."""
        ...


class Threads:
    """Threads of this process, which begin with the first task; none where `workers` is 0, and `begin` does it all."""

    rows_a_task = 8
    is_out = False

    def __init__(self, fill: Fill, workers: int, shape: tuple[int, ...], kept: int, *, is_pinned: bool) -> None:
        """The memory of `kept` batches is kept for later ones. Where `is_pinned` it is page-locked: torch keeps that."""
        self._fill, self._shape = fill, shape
        self._pool = ThreadPoolExecutor(workers, "bitgen-decode") if workers else None
        self._buffers = None if is_pinned else Buffers(kept)

    def take(self, images: int) -> Memory:
        if self._buffers is not None:
            return Memory(self._buffers.take(images, self._shape))
        return Memory(torch.empty((images, *self._shape), dtype=torch.uint8, pin_memory=True))

    def begin(self, memory: Memory, start: int, positions: tuple[int, ...]) -> Answer:
        task = positions, memory.images[start : start + len(positions)]
        return partial(self._fill, *task) if self._pool is None else self._pool.submit(self._fill, *task).result

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


class Buffers:
    """Images of batches, whose memory is used again when no tensor holds it any more.

    Fresh memory for each batch costs page faults: 12 to 18 an image of 224 pixels, 3 with this.
    """

    def __init__(self, kept: int) -> None:
        """At most so many are kept for later."""
        self._kept = kept
        self._free: list[NDArray[np.uint8]] = []

    def take(self, images: int, shape: tuple[int, ...]) -> Tensor:
        """[images, *shape] uint8, as it happens to be."""
        shape = (images, *shape)
        array = self._free.pop() if self._free else np.empty(shape, np.uint8)
        if array.shape != shape:
            array = np.empty(shape, np.uint8)
        return _lent(array, partial(self._give_back, array))

    def _give_back(self, array: NDArray[np.uint8]) -> None:
        if len(self._free) < self._kept:
            self._free.append(array)


def _lent(array: NDArray[np.uint8], give_back: Callable[[], object]) -> Tensor:
    """The memory of `array` as a tensor, given back when no view of that is left."""
    lent = array.view()  # the tensor and all its views hold this one
    weakref.finalize(lent, give_back).atexit = False
    return torch.from_numpy(lent)


_ROWS_A_TASK = 16
"""At most: a task and its answer cost some 60 us."""


class _Task(NamedTuple):
    number: int
    slot: int
    start: int
    """Of its rows within the slot."""
    positions: tuple[int, ...]


class Forked:
    """Processes that are forked with the first tasks, and the memory that they share with this one.

    All take their tasks from one socket, so whoever is free has the next one, and answer through a pipe of their own:
    nothing is locked. They end with `close`, or with this process, however that ends. Ctrl-C is left to this process.
    """

    def __init__(self, fill: Fill, workers: int, shape: tuple[int, ...], slots: int, images: int) -> None:
        """`slots` batches of at most `images` images may exist at a time. `fill` is called in the workers."""
        self._shape = (slots, images, *shape)
        self._memory = mmap.mmap(-1, int(np.prod(self._shape)))  # anonymous: /dev/shm is small in many containers
        self._free = list(range(slots))
        self._asked = 0
        self._answers: dict[int, Answer] = {}
        """By the task's number."""
        self._processes: dict[Connection, BaseProcess] = {}
        # A message is taken whole, by one of the workers that wait, and the last reader of an end sees the other closed.
        self._tasks, self._to_do = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._fill, self._workers = fill, workers
        self.rows_a_task = max(1, min(_ROWS_A_TASK, (slots - 2) * images // (2 * workers)))
        _living.add(self)
        # Before multiprocessing's own end, which sends SIGTERM to workers and waits.
        self._kill = Finalize(self, _kill, (self._processes,), exitpriority=10)

    @property
    def is_out(self) -> bool:
        return not self._free

    def take(self, images: int) -> Memory:
        if images > self._shape[1]:
            raise ValueError(f"expected batches of at most {self._shape[1]} images, as the first, found {images}")
        slot = self._free.pop()
        return Memory(_lent(self._arrays()[slot, :images], partial(self._free.append, slot)), slot)

    def begin(self, memory: Memory, start: int, positions: tuple[int, ...]) -> Answer:
        """As of `Workers`; the answer raises `WorkerError` where a worker was killed."""
        if len(self._processes) < self._workers:
            self._fork()  # those before are at work by now: it takes 10 ms where torch has its CUDA libraries
        number, self._asked = self._asked, self._asked + 1
        task = _encode(_Task(number, memory.slot, start, tuple(map(int, positions))))
        while True:
            try:
                self._tasks.send(task, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._collect()  # no room for another: a worker may wait for its answer to be taken
            else:
                break
        return partial(self._answer, number)

    def close(self) -> None:
        """Ends the workers at once: nothing that they have in hand is worth a wait."""
        self._kill()
        self.disown()

    def disown(self) -> None:
        """Closes this process's ends of all that leads to the workers."""
        self._tasks.close()
        self._to_do.close()
        for pipe in self._processes:
            pipe.close()

    def _fork(self) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=self._work, args=(theirs, [*self._processes, ours]), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process

    def _answer(self, number: int) -> Rows:
        while number not in self._answers:
            self._collect()
        return self._answers.pop(number)()

    def _collect(self) -> None:
        """Waits for an answer to any task."""
        for pipe in multiprocessing.connection.wait(list(self._processes)):
            assert isinstance(pipe, Connection)
            try:
                number, said, trace = _read_answer(pipe.recv_bytes())
                error = None if said else _received(pipe)
            except (EOFError, OSError) as lost:
                process = self._processes[pipe]
                process.join(1.0)
                found = f"found it ended with {process.exitcode}: out of memory?"
                raise WorkerError(f"expected rows of a worker process, {found}") from lost
            self._answers[number] = partial(_decode, said) if error is None else partial(_raise, error, trace)

    def _arrays(self) -> NDArray[np.uint8]:
        return np.frombuffer(self._memory, np.uint8).reshape(self._shape)

    def _work(self, pipe: Connection, others: Sequence[Connection]) -> None:
        """In the worker."""
        for other in (self._tasks, *others):
            other.close()  # else it would not see this process end
        for other in _living - {self}:
            other.disown()
        # Both may come to the whole group, as from torchrun; the parent then finishes its step, and needs batches for it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        gc.freeze()  # what was there before is not looked at, and stays shared
        gc.set_threshold(100_000)  # rows have no cycles
        torch.set_num_threads(1)  # the threads of the process that was forked are not here
        with contextlib.suppress(OSError):  # nobody reads the pipe any more
            while message := self._to_do.recv(_MESSAGE_BYTES):
                task = _read_task(message)
                memory = self._arrays()[task.slot, task.start : task.start + len(task.positions)]
                try:
                    said = _encode(self._fill(task.positions, torch.from_numpy(memory)))
                except Exception as error:  # noqa: BLE001 (it is raised in the other process)
                    _send_error(pipe, task.number, error)
                else:
                    pipe.send_bytes(_encode((task.number, said, "")))
        os._exit(0)


_MESSAGE_BYTES = 1 << 16
"""More than any task takes: 16 positions and three numbers."""
_encode = msgspec.msgpack.Encoder().encode
_decode, _read_task = msgspec.msgpack.Decoder(Rows).decode, msgspec.msgpack.Decoder(_Task).decode
_read_answer = msgspec.msgpack.Decoder(tuple[int, bytes, str]).decode
_living: "weakref.WeakSet[Forked]" = weakref.WeakSet()
"""What a worker of one inherits the ends of, and has to close, or neither's workers would see this process end."""


def _kill(processes: dict[Connection, BaseProcess]) -> None:
    for process in processes.values():
        process.kill()
    for process in processes.values():
        process.join()


def _received(pipe: Connection) -> Exception:
    """The error that follows; another in its place where it cannot be made here."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 (its own constructor may raise anything)
        return WorkerError(f"expected rows of a worker process, found an error that cannot be rebuilt here: {error!r}")


def _raise(error: Exception, trace: str) -> Rows:
    raise error from WorkerError(trace)


def _send_error(pipe: Connection, number: int, error: Exception) -> None:
    pipe.send_bytes(_encode((number, b"", "".join(traceback.format_exception(error)))))
    try:
        pipe.send(error)
    except OSError:
        raise
    except Exception:  # noqa: BLE001 (it cannot be sent as it is, for whatever reason)
        pipe.send(WorkerError(f"expected rows of a worker process, found {error!r}"))
