"""Tasks in processes: in order, errors come home, and nobody is left behind."""

import posixpath
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bitgen.disk import file_sha256
from pipeline.building.workers import LocalWorkers, WorkerError, start_server, workers_of

if TYPE_CHECKING:
    from tests.pipeline.conftest import World


def test_results_come_in_the_order_of_the_tasks() -> None:
    with LocalWorkers(2) as workers:
        assert list(workers.each(abs, [-3, 2, -1, -9, 4])) == [3, 2, 1, 9, 4]


def test_an_error_of_a_task_is_raised_here() -> None:
    with LocalWorkers(2) as workers, pytest.raises(ZeroDivisionError):
        list(workers.each(eval, ["1", "1 // 0", "3"]))


def test_a_killed_worker_is_named() -> None:
    with LocalWorkers(2) as workers, pytest.raises(WorkerError, match="found it killed: out of memory"):
        list(workers.each(eval, ["1", "__import__('os').kill(__import__('os').getpid(), 9)", "3"]))


def test_ctrl_c_is_ignored_while_the_server_of_the_workers_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[object] = []
    monkeypatch.setattr(forkserver, "ensure_running", lambda: found.append(signal.getsignal(signal.SIGINT)))
    before = signal.getsignal(signal.SIGINT)
    start_server()
    assert [*found, signal.getsignal(signal.SIGINT)] == [signal.SIG_IGN, before]


LOOPING = """
import os, sys
from pipeline.building.workers import LocalWorkers
with LocalWorkers(2) as workers:
    for _ in workers.each(eval, ["print(__import__('os').getpid(), flush=True)"] * 2 + ["__import__('time').sleep(60)"] * 4):
        pass
"""


def test_a_killed_parent_takes_its_workers_along() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", LOOPING], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    assert parent.stdout is not None
    assert int(parent.stdout.readline()) != parent.pid
    parent.kill()
    parent.wait()
    others = parent.stdout.read()  # ends when the last process that could write to it has, or never
    assert len(others.split()) <= 1  # the other worker's number


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A local Ray cluster of two CPUs."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_tasks_on_a_ray_cluster_come_back_in_order(cluster: object) -> None:
    with workers_of("ray", 1) as workers:
        assert list(workers.each(posixpath.basename, [f"a/{i}" for i in range(9)])) == [str(i) for i in range(9)]


def test_an_error_on_a_ray_cluster_is_the_error_itself(cluster: object) -> None:
    with workers_of("ray", 1) as workers, pytest.raises(FileNotFoundError, match="nothing here"):
        list(workers.each(file_sha256, [Path("/nothing here")]))


def test_a_ray_cluster_makes_the_same_bytes(cluster: object, world: "World", paint: Callable[..., bytes]) -> None:
    source = world.add("train", {i: paint(i % 6) for i in range(1, 9)})
    world.build()
    before = {path.name: path.read_bytes() for path in world.folder(source).iterdir() if path.is_file()}
    (world.folder(source) / "dataset.json").unlink()
    world.build(engine="ray")
    assert {path.name: path.read_bytes() for path in world.folder(source).iterdir() if path.is_file()} == before


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        WorkerError, match=r"expected the package ray for --engine ray, .* install the extra bitgen\[ray\]"
    ):
        workers_of("ray", 1)
