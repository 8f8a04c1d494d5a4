"""What every benchmark needs: commands run in turn and timed, facts of the machine, medians, a JSON file of it all."""

import contextlib
import ctypes
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
Medians = dict[str, dict[str, float | None]]
_PR_SET_CHILD_SUBREAPER = 36  # Source: prctl(2)


class BenchError(RuntimeError):
    """A contestant failed, or did other work than it was asked for."""


@dataclass(frozen=True)
class Run:
    """One repetition of one contestant."""

    wall_s: float
    """From the start of its processes to the end of the last, and of writing what they left unwritten to disk."""
    cpu_s: float
    """User and system time of its processes and of theirs."""


@dataclass(frozen=True)
class Contestant:
    """Something to be timed."""

    name: str
    commands: Sequence[Sequence[str]]
    """Run at once, one process each."""
    prepare: Callable[[], None] = lambda: None
    """Called before each repetition, outside the time."""
    check: Callable[[], None] = lambda: None
    """Called after each repetition, outside the time; raises `BenchError` where the work was not done."""
    environment: Mapping[str, str] | None = None
    """Added to this process's."""


def timed(contestant: Contestant, log: Path) -> Run:
    """One repetition; what the processes say goes to `log`. Raises `BenchError` where one of them fails.

    What is written counts when it is on disk: a `sync` is part of everyone's time, and one before it is of nobody's.
    """
    contestant.prepare()
    environment = {**os.environ, **(contestant.environment or {})}
    _adopt_orphans()
    os.sync()
    started: list[subprocess.Popen[bytes]] = []
    cpu_s, failed = 0.0, []
    with log.open("wb") as file:
        start_s = time.perf_counter()
        try:
            for command in contestant.commands:
                process = subprocess.Popen(
                    command, stdout=file, stderr=file, cwd=ROOT, env=environment, start_new_session=True
                )
                started.append(process)
            for process in started:
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                cpu_s += usage.ru_utime + usage.ru_stime
                failed += [process.returncode] if process.returncode else []
            os.sync()
            wall_s = time.perf_counter() - start_s
        except BaseException:
            for process in started:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            raise
        cpu_s += sum(_cpu_of_orphans(process.pid) for process in started)
    if failed:
        tail = log.read_text(errors="replace")[-2000:]
        raise BenchError(f"expected {contestant.name} to end with 0, found {failed[0]}: {tail}")
    contestant.check()
    return Run(round(wall_s, 3), round(cpu_s, 3))


def _adopt_orphans() -> None:
    """Processes whose parent ends become children of this one, so that their time is known (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _cpu_of_orphans(group: int) -> float:
    """Waits for all that a process left behind, as Python's forkserver, and adds up their time."""
    cpu_s = 0.0
    with contextlib.suppress(ChildProcessError):
        while True:
            usage = os.wait4(-group, 0)[2]
            cpu_s += usage.ru_utime + usage.ru_stime
    return cpu_s


def in_turn(contestants: Sequence[Contestant], repetitions: int, log: Path, uncounted: int = 0) -> dict[str, list[Run]]:
    """Every contestant once, then all of them again: what else the machine does falls on all alike.

    `uncounted` rounds go before: in a virtual machine, memory that is touched for the first time costs extra.
    """
    runs: dict[str, list[Run]] = {contestant.name: [] for contestant in contestants}
    for round_ in range(-uncounted, repetitions):
        for contestant in contestants:
            run = timed(contestant, log)
            if round_ >= 0:
                runs[contestant.name].append(run)
            said = f"{max(0, round_ + 1)}/{repetitions} {contestant.name}: {run.wall_s:.1f} s, {run.cpu_s:.1f} s of CPU"
            print(said, file=sys.stderr, flush=True)
    return runs


def median(runs: Sequence[Run]) -> Run:
    """Of wall and of CPU time, each for itself."""
    return Run(statistics.median(r.wall_s for r in runs), statistics.median(r.cpu_s for r in runs))


def medians(whole: Mapping[str, Sequence[Run]], start: Mapping[str, Sequence[Run]], count: int) -> Medians:
    """Rates of each contestant over `count` images: of the whole process, and apart from what starting it costs, which
    is not known (None) where the rest is less than half of that."""
    found: Medians = {}
    for name, runs in whole.items():
        all_, first = median(runs), median(start[name])
        wall_s, cpu_s = all_.wall_s - first.wall_s, all_.cpu_s - first.cpu_s
        found[name] = {
            "wall_s": round(all_.wall_s, 3),
            "cpu_s": round(all_.cpu_s, 3),
            "start_wall_s": round(first.wall_s, 3),
            "start_cpu_s": round(first.cpu_s, 3),
            "images_per_s": round(count / all_.wall_s, 1),
            "images_per_s_apart": round(count / wall_s, 1) if wall_s > first.wall_s / 2 else None,
            "cpu_ms_per_image": round(1e3 * all_.cpu_s / count, 4),
            "cpu_ms_per_image_apart": round(1e3 * cpu_s / count, 4) if cpu_s > first.cpu_s / 2 else None,
        }
    return found


def ratios(found: Medians, pairs: Mapping[str, tuple[str, str]], unit: str) -> dict[str, float | None]:
    """Ours over theirs, in `unit`; None where one of them is not known."""
    known = {name: (found[ours][unit], found[theirs][unit]) for name, (ours, theirs) in pairs.items()}
    return {name: round(ours / theirs, 3) if ours and theirs else None for name, (ours, theirs) in known.items()}


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system and Python of this machine; no names of hosts, users or folders."""
    cpu = platform.processor() or platform.machine()
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def load() -> float:
    """Processes that want a core, on average over the last minute: what else the machine was doing."""
    return round(os.getloadavg()[0], 2)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of installed packages."""
    return {package: importlib.metadata.version(package) for package in packages}


def commit() -> str:
    """The code that was measured; `+` where files differ from it; empty outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], check=False, capture_output=True).returncode == 1
    return found.stdout.strip() + "+" * changed


def as_lists(runs: Mapping[str, Sequence[Run]]) -> dict[str, list[dict[str, float]]]:
    """Runs as they stand in the JSON."""
    return {name: [asdict(run) for run in each] for name, each in runs.items()}


def write_results(name: str, results: Mapping[str, Any]) -> Path:
    """Writes `results/NAME.json`, whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
