"""Commands that are killed with SIGKILL, all their processes at once, at a moment drawn over the bytes they write.

A command's clock is how much its output folder has changed: by how many bytes it grew or shrank, summed up. So no
moment falls on imports, and those at which files are swept away are drawn as well as those at which they grow.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEADLINE_S = 300.0
"""For one run of a command."""
_TRIES = 8
_NAP_S = 0.0002
"""Between two looks at the output, so that looking does not take a core from what is looked at."""


@dataclass(frozen=True)
class Work:
    """A command that fills a folder, and goes on with what it finds there."""

    command: Sequence[str]
    output: Path
    log: Path
    """Where it says what it does."""


def finish(work: Work) -> int:
    """Runs the command to its end; how far its clock went. Raises `AssertionError` where it fails."""
    ended, clock = _run(work, None)
    assert ended == 0, f"expected {work.command} to end with 0, found {ended}: {work.log.read_text()[-2000:]}"
    return clock


def kill(work: Work, moment: int) -> bool:
    """Starts the command and kills it when its clock has reached `moment`, 1 or more; False where it ended before."""
    ended, _ = _run(work, moment)
    assert ended in (0, -signal.SIGKILL), f"found {ended}: {work.log.read_text()[-2000:]}"
    return ended != 0


def begin_anew(work: Work) -> None:
    """Forgets all that the command made."""
    shutil.rmtree(work.output, ignore_errors=True)


def kill_at(work: Work, moment: int) -> None:
    """`kill` on an empty folder; again where the machine was so busy that the moment passed unseen."""
    for _ in range(_TRIES):
        begin_anew(work)
        if kill(work, moment):
            return
    raise AssertionError(f"expected {work.command} to be killed at {moment}, found it done {_TRIES} times")


def rounds(work: Work, kills: int, seed: int = 0) -> Iterator[int]:
    """Kills the command `kills` times in all; yields, after each run that came to its end in spite of some, how many.

    The command is started on what the one before left, each time with a moment of its own, until it comes to its end;
    then anew on an empty folder.
    """
    begin_anew(work)
    whole, dice, left = finish(work), random.Random(seed), kills
    while left:
        begin_anew(work)
        killed = 0
        while left and kill(work, dice.randint(1, whole)):
            killed, left = killed + 1, left - 1
        finish(work)
        if killed:
            yield killed


def digests(folder: Path, is_left_out: Callable[[str], bool] = lambda path: False) -> Mapping[str, str]:
    """sha256 of every file under `folder` by its path within, but for those that are left out."""
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in found.items() if not is_left_out(name)}


def different(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """The files that are missing, beyond what is wanted, or of other bytes."""
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def _run(work: Work, moment: int | None) -> tuple[int, int]:
    """Exit code, and how far the clock went."""
    clock, last, deadline = 0, _size(work.output), time.monotonic() + DEADLINE_S
    with work.log.open("wb") as log:
        process = subprocess.Popen(work.command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            while process.poll() is None:
                size = _size(work.output)
                clock, last = clock + abs(size - last), size
                if moment is not None and clock >= moment:
                    break
                time.sleep(_NAP_S)
                assert time.monotonic() < deadline, f"expected an end within {DEADLINE_S:g} s: {work.command}"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, clock + abs(_size(work.output) - last)


def _size(folder: Path) -> int:
    """Bytes of all files under `folder`, each counted once under however many names, as they come and go."""
    sizes: dict[int, int] = {}
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        status = entry.stat(follow_symlinks=False)
                        sizes[status.st_ino] = status.st_size
        except (FileNotFoundError, NotADirectoryError):
            continue  # renamed or removed since it was listed
    return sum(sizes.values())
