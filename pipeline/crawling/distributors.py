"""Where the shards of a crawl are worked on: in processes of this machine, or on a cluster that shares the folder."""

import importlib.util
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from pipeline.crawling.crawled import CrawlError
from pipeline.crawling.worker import QUIET, Shard, ShardWorker

_PRELOADED = ["img2dataset.downloader", "pipeline.crawling.worker"]


def in_processes(worker: ShardWorker, shards: Sequence[Shard], processes: int) -> Generator[Shard, None, None]:
    """Shards as they are done. Raises `CrawlError` where a worker is killed, and what the worker raises.

    img2dataset's own pool waits for ever when a worker is killed, and starts each anew after five shards. Whatever ends
    this ends the workers at once: what they leave is good at any moment.
    """
    # Forked from a server that has imported img2dataset, at 3 s of CPU, and has no threads, whose locks a fork would copy.
    os.environ.update(QUIET)
    # The locks of img2dataset's thread pools in workers that are ended: Python's tracker removes them, and says so.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(processes, len(shards)), context, _begin)
    try:
        for done in as_completed([pool.submit(worker, shard) for shard in shards]):
            yield done.result()[1]
    except BrokenProcessPool as error:
        raise CrawlError("expected an answer of a worker process, found it killed: out of memory?") from error
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        pool.shutdown(cancel_futures=True)


def on_ray(worker: ShardWorker, shards: Sequence[Shard], processes: int) -> Generator[Shard, None, None]:
    """Likewise on a Ray cluster (`RAY_ADDRESS`, else this machine), a shard to a CPU; all are done at the first."""
    _need("ray", "pip install 'bitgen[ray]'")
    import ray
    from ray.exceptions import RayError, RayTaskError

    ray.init(ignore_reinit_error=True, log_to_driver=False, runtime_env={"env_vars": QUIET})
    try:
        _img2datasets("ray", worker, shards, processes)
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise CrawlError(f"expected an answer of a Ray worker, found {error}") from error
    finally:
        ray.shutdown()  # with what is still at work
    yield from shards


def on_spark(worker: ShardWorker, shards: Sequence[Shard], processes: int) -> Generator[Shard, None, None]:
    """Likewise on a Spark cluster: the active session's, else a local one of so many processes."""
    _need("pyspark", "pip install pyspark")
    from py4j.protocol import Py4JError  # pyright: ignore[reportMissingImports] (comes with pyspark)

    try:
        _img2datasets("pyspark", worker, shards, processes)
    except Py4JError as error:
        raise CrawlError(f"expected an answer of a Spark worker, found {error}") from error
    yield from shards


Distributor = Callable[[ShardWorker, Sequence[Shard], int], Generator[Shard, None, None]]
DISTRIBUTORS: dict[str, Distributor] = {"multiprocessing": in_processes, "ray": on_ray, "pyspark": on_spark}


def _img2datasets(name: str, worker: ShardWorker, shards: Sequence[Shard], processes: int) -> None:
    os.environ.update(QUIET)
    from img2dataset import distributor

    run = getattr(distributor, f"{name}_distributor")
    run(processes, worker, shards, 1000, 0)  # shards of a job, and retries of a shard: its worker raises instead


def _need(package: str, command: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise CrawlError(f"expected the package {package} for the distributor {package}, found none: {command}")


def _begin() -> None:
    """In a new worker: Ctrl-C is the parent's, which ends its workers; a killed parent ends them as well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()


def _leave_with(parent: int) -> None:
    multiprocessing.connection.wait([parent])
    os._exit(1)
