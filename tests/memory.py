"""How much memory a command and its processes took, each at its most."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
_NAP_S = 0.05
_PARTS = {
    "private_mb": ("Pss_Anon", "Pss_Shmem"),
    "unshared_mb": ("Private_Clean", "Private_Dirty"),
    "proportional_mb": ("Pss",),
}
"""What `together` adds up, by the names of /proc/PID/smaps_rollup."""


def peaks(command: Sequence[str], log: Path) -> dict[int, int]:
    """Runs a command; of each of its processes that lived for a while, the most bytes it had in memory (VmHWM).

    Raises `AssertionError` where the command fails. Not `ru_maxrss`, into which Linux counts what a process was before
    it became this one: a fork of its parent.
    """
    found: dict[int, int] = {}
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
        while process.poll() is None:
            for id in _of_session(process.pid):
                found[id] = max(found.get(id, 0), _peak(id))
            time.sleep(_NAP_S)
    said = log.read_text()[-2000:]
    assert process.returncode == 0, f"expected {command} to end with 0, found {process.returncode}: {said}"
    return found


def together(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """Runs a command; the most megabytes that it and its processes had at one time, each page of memory counted once.

    `private_mb`: without files that are mapped, which are page cache; memory that its processes share among each other
    is in it. `unshared_mb`: what each has to itself, mapped files that nobody else maps among it. `proportional_mb`:
    all, mapped files too. Raises `AssertionError` where the command fails.
    """
    found = dict.fromkeys(_PARTS, 0.0)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        while process.poll() is None:
            now = [_rollup(id) for id in _of_session(process.pid)]
            for name, parts in _PARTS.items():
                found[name] = max(found[name], sum(each.get(part, 0) for each in now for part in parts) / 1e6)
            time.sleep(_NAP_S)
    said = log.read_text()[-2000:]
    assert process.returncode == 0, f"expected {command} to end with 0, found {process.returncode}: {said}"
    return {name: round(most_mb, 1) for name, most_mb in found.items()}


def _of_session(leader: int) -> list[int]:
    found = []
    for id in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            if os.getsid(id) == leader:
                found.append(id)
        except OSError:
            continue  # it has ended
    return found


def _rollup(id: int) -> dict[str, int]:
    """Bytes by the names of smaps_rollup; none of a process that has ended."""
    try:
        lines = Path(f"/proc/{id}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def _peak(id: int) -> int:
    try:
        status = Path(f"/proc/{id}/status").read_text()
    except OSError:
        return 0
    peak = status.partition("VmHWM:")[2].split()
    return int(peak[0]) * 1024 if peak else 0  # none of a process that has ended but is not yet buried
