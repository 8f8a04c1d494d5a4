"""How much memory a command and its processes took, each at its most."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
_NAP_S = 0.05


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


def _of_session(leader: int) -> list[int]:
    found = []
    for id in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            if os.getsid(id) == leader:
                found.append(id)
        except OSError:
            continue  # it has ended
    return found


def _peak(id: int) -> int:
    try:
        status = Path(f"/proc/{id}/status").read_text()
    except OSError:
        return 0
    peak = status.partition("VmHWM:")[2].split()
    return int(peak[0]) * 1024 if peak else 0  # none of a process that has ended but is not yet buried
