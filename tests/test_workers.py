"""Rows by forked processes: as by threads, and none is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

import pytest
import torch

from bitgen.image import Transform
from bitgen.row import Rows
from bitgen.workers import Forked, WorkerError
from tests.items import Drawn, Plan, begun, broken, draw, item, loaded, same

SMALL = item(0)


def draw_small(position: int, attempt: int) -> Drawn:
    """The same photograph everywhere."""
    return SMALL._replace(position=position)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """No worker is alive after the test."""
    yield
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_processes_make_the_batches_that_threads_make(scale: float) -> None:
    plans = [Plan(tuple(range(n, n + 40))) for n in range(0, 200, 40)]
    threads, forked = loaded(plans, scale=scale), loaded(plans, scale=scale, workers=3, is_forked=True)
    assert all(map(same, threads, forked))
    assert len(threads) == len(forked) == 5


def test_a_replaced_image_is_counted() -> None:
    batch = loaded([Plan((1, 2, 3))], broken({2}), is_forked=True)[0]
    assert batch.dropped["replaced"] == 1
    assert same(batch, loaded([Plan((1, 2, 3))], broken({2}))[0])


def test_batches_that_are_held_are_left_alone() -> None:
    plans = [Plan((n,)) for n in range(40)]
    held = loaded(plans, prefetch=0, is_forked=True)
    assert all(map(same, held, loaded(plans)))


def test_memory_is_used_again() -> None:
    stream = begun(draw, [Plan((n,)) for n in range(40)], workers=2, prefetch=1, is_forked=True)
    places = {batch.images.data_ptr() for batch in stream}
    assert len(places) <= 4


def test_an_error_of_the_source_comes_through_with_its_position_and_its_trace() -> None:
    def fail(position: int, attempt: int) -> object:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        loaded([Plan((7,))], fail, is_forked=True)
    assert caught.value.__notes__ == ["while making the sample at position 7"]
    assert "in fail" in str(caught.value.__cause__)


def test_an_error_that_cannot_be_sent_is_told() -> None:
    def fail(position: int, attempt: int) -> object:
        class OwnError(Exception):
            pass

        raise OwnError("of a class that has no name here")

    with pytest.raises(WorkerError, match="of a class that has no name here"):
        loaded([Plan((7,))], fail, is_forked=True)


class TwoPartsError(Exception):
    """Pickles, and does not come back."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def test_an_error_that_cannot_be_rebuilt_is_told_with_its_trace() -> None:
    def fail(position: int, attempt: int) -> object:
        raise TwoPartsError("the disk", " is gone")

    with pytest.raises(WorkerError, match="cannot be rebuilt here") as caught:
        loaded([Plan((7,))], fail, is_forked=True)
    assert "the disk is gone" in str(caught.value.__cause__)


def test_a_small_batch_has_work_for_all_workers() -> None:
    forked = Forked(fill, workers=6, shape=(8, 8, 3), slots=5, images=16)
    assert forked.rows_a_task == 4
    forked.close()


def fill(positions: Sequence[int], memory: torch.Tensor, max_tokens: int) -> Rows:
    """Nobody asks for it."""
    raise AssertionError


def test_a_killed_worker_is_told() -> None:
    def die(position: int, attempt: int) -> object:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerError, match="found it ended with -9: out of memory"):
        loaded([Plan((7,)), Plan((8,))], die, is_forked=True)


def test_workers_end_when_the_iterator_is_closed() -> None:
    batches = begun(draw, (Plan((n,)) for n in count()), texts_per_image=1, workers=2, is_forked=True)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()


def test_a_batch_larger_than_the_first_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 1 images, as the first, found 2"):
        loaded([Plan((1,)), Plan((2, 3))], is_forked=True)


def test_more_tasks_than_the_socket_holds_are_done() -> None:
    plans = [Plan(tuple(range(n, n + 640)), 32) for n in range(0, 6400, 640)]
    batches = begun(draw_small, plans, Transform(8), texts_per_image=1, workers=2, prefetch=9, is_forked=True)
    assert [batch.positions[-1].item() for batch in batches] == list(range(639, 6400, 640))


def test_no_plan_no_process() -> None:
    assert loaded([], is_forked=True) == []


RUN = """
from itertools import count
import multiprocessing
from tests.items import *
plans = (Plan(tuple(range(n, n + 8))) for n in count())
for batch in begun(draw, plans, texts_per_image=1, workers=2, is_forked=True):
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
"""


STOPPED = """
import os, signal
from itertools import count
from tests.items import *
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
plans = (Plan(tuple(range(n, n + 8))) for n in count())
batches = begun(draw, plans, texts_per_image=1, workers=2, is_forked=True)
next(batches)
os.killpg(0, signal.SIGTERM)
print(len([next(batches) for _ in range(20)]), len(asked))
"""


def test_a_stop_that_the_whole_group_hears_leaves_the_workers_to_their_parent() -> None:
    found = subprocess.run(
        [sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=60, check=True, start_new_session=True
    )
    assert found.stdout.split() == ["20", "1"]


TWO = RUN.replace(
    "for batch in begun(",
    "others = iter(begun(draw, (Plan((n,)) for n in count()), texts_per_image=1, workers=3, is_forked=True))\n"
    "for batch in begun(",
).replace("    print(", "    next(others)\n    print(")


@pytest.fixture(scope="module")
def parents() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Processes with workers, begun at once, for their imports take the most: one for each way to end, one with two loaders."""
    scripts = {"SIGINT": RUN, "SIGKILL": RUN, "SIGTERM": RUN, "two": TWO}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    begun = {name: subprocess.Popen([sys.executable, "-c", s], text=True, **pipes) for name, s in scripts.items()}
    yield begun
    for parent in begun.values():
        parent.kill()
        parent.communicate(timeout=20)


def test_workers_of_two_loaders_end_with_their_parent(parents: dict[str, subprocess.Popen[str]]) -> None:
    parent = parents["two"]
    assert parent.stdout is not None
    assert [len(parent.stdout.readline().split()) for _ in range(3)][-1] == 5
    parent.kill()
    parent.communicate(timeout=20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent_however_that_ends(
    parents: dict[str, subprocess.Popen[str]], number: signal.Signals
) -> None:
    parent = parents[number.name]
    assert parent.stdout is not None
    assert len(parent.stdout.readline().split()) == 2
    parent.send_signal(number)
    parent.communicate(timeout=20)  # which waits until nobody can write to its pipes any more, as a living worker could
    assert parent.returncode == -number


def test_a_worker_computes_with_one_thread() -> None:
    def told(position: int, attempt: int) -> object:
        found = item(position)
        return found._replace(sample=replace(found.sample, key=f"threads-{torch.get_num_threads()}"))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    batch = loaded([Plan((5,))], told, is_forked=True)[0]
    torch.set_num_threads(before)
    assert batch.keys == ("threads-1",)
