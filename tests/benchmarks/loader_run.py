"""One contestant over all photographs, once, in a process of its own.

    python -m tests.benchmarks.loader_run NAME FOLDER COUNT WORKERS REPORT

NAME is `ours`, `bare_threads`, `bare_processes`, `decode_only`, a peer's or a peer's with `_our_decode`; FOLDER is one of
`loader_data`, with the peer's own format in it. Writes what it found to REPORT, as JSON.
"""

import importlib.metadata
import json
import os
import resource
import sys
import time
from pathlib import Path

import torch

from tests.benchmarks.loader_terms import SIDE_PX, Start

OUR_DECODE = "_our_decode"
_VERSIONS = ("torch", "torchvision", "numpy", "pillow", "simplejpeg")


def run(name: str, root: Path, count: int, workers: int) -> dict[str, object]:
    """Seconds from just before the loader is constructed to its first batch and to its last, and the CPU time of it with
    all its processes; before that, seconds that the process took so far, mostly for imports, and its memory; the mean of
    some pixels, to compare with others'.

    Raises `AssertionError` where what comes out is not what all agreed on.
    """
    start = _find(name, root, count, workers)
    imports_mb = private_mb()
    imports_s, used_s = age_s(), cpu_s()
    start_s = time.perf_counter()
    first_batch_s, epoch_s, seen, total, pixels = 0.0, 0.0, 0, 0, 0
    for images, batch in start():
        if batch is not None:
            assert batch.shape == (images, 3, SIDE_PX, SIDE_PX), batch.shape
            assert batch.dtype == torch.uint8, batch.dtype
            some = batch[:, :, ::56, ::56]
            total, pixels = total + int(some.sum()), pixels + some.numel()
        epoch_s = time.perf_counter() - start_s
        first_batch_s = first_batch_s or epoch_s
        seen += images
    assert seen == count, f"expected {count} images, found {seen}"
    return {
        "epoch_s": epoch_s,
        "first_batch_s": first_batch_s if pixels else None,
        "imports_s": imports_s,
        "cpu_s": cpu_s() - used_s,
        "imports_mb": imports_mb,
        "pixel_mean": total / pixels if pixels else None,
        "versions": {package: importlib.metadata.version(package) for package in _VERSIONS},
    }


def _find(name: str, root: Path, count: int, workers: int) -> Start:
    from tests.benchmarks.loader_peers import PEERS

    peer = name.removesuffix(OUR_DECODE)
    if peer in PEERS:
        return PEERS[peer].start(root, workers, name != peer)
    from tests.benchmarks import loader_ours

    if name == "ours":
        return loader_ours.ours(root, count, workers)
    return loader_ours.bare(root, workers, processes=name == "bare_processes", resize=name != "decode_only")


def age_s() -> float:
    """Seconds since this process began (Linux), to a hundredth."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(after_name[19]) / os.sysconf("SC_CLK_TCK")


def private_mb() -> float:
    """Of this process, mapped files apart (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))


def cpu_s() -> float:
    """Of this process and of its children that have ended, as workers have after the last batch."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    found = run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    Path(sys.argv[5]).write_text(json.dumps(found))
