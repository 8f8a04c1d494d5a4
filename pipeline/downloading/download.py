"""Several files at once: fetched, checked and unpacked, each on its own, with one account of what failed."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from bitgen.progress import Board, StoppedError, progress
from bitgen.remote import host_of, size_at
from pipeline.downloading.crew import Crew
from pipeline.downloading.room import RoomError, check_room
from pipeline.downloading.trust import TrustError, record
from pipeline.downloading.unpack import UnpackError, is_unpacked, unpack
from pipeline.downloading.wanted import Wanted, contents, needs, wanted_files
from pipeline.fetch import Expected, FetchError, fetch, forget, is_right, share, tidy
from pipeline.files import digest_of, locked, size_of, sweep

__all__ = ["PARALLEL", "DownloadError", "Wanted", "download", "wanted_files"]

log = logging.getLogger(__name__)

PARALLEL = 4
"""Files at once."""
PER_HOST = 2
"""Of them from one server."""
_UNPACKING = 2
"""Archives at once, while other files are fetched."""
_ASKING = 8
"""Servers asked at once for the size of a file."""
_LEAVE_S = 1.0
"""For threads to end by themselves when the user stops; one that waits for a server is left behind."""


class DownloadError(Exception):
    """Some files are not there, each on a line with the reason; all others are."""


@dataclass(frozen=True)
class _Job:
    """A file to bring."""

    wanted: Wanted
    host: str
    """Empty: this machine."""
    content: str
    """As `contents` has it."""
    twins: tuple[Wanted, ...]
    """Other files of the same content."""
    was_there: bool
    """At the start: put there by a person, or by an earlier run that did not get to its end."""


def download(wanted: Sequence[Wanted], data: Path, parallel: int = PARALLEL) -> Iterator[Wanted]:
    """Fetches and unpacks what is not there, `parallel` files at once, yielding each when it is.

    Raises `RoomError` before the first byte, `BusyError`, and at the end `DownloadError`: all are tried. What is
    complete is kept whatever happens, and what has arrived of the rest is where the next call goes on.
    """
    with locked(data / "raw"):
        for folder in {data, *(each.target.parent for each in wanted)}:
            sweep(folder)
        for each in wanted:
            tidy(each.target, each.is_there)
        missing = [each for each in wanted if not each.is_there]
        by_hand = [each for each in missing if not each.file.urls and not each.target.exists()]
        todo = _sized([each for each in missing if each not in by_hand])
        sized = {each.name: each for each in todo}
        check_room(needs([sized.get(each.name, each) for each in wanted if each not in by_hand]))
        failed = {each.name: f"only a person can get it: {each.instructions}" for each in by_hand}
        total, arrived = sum(each.size_bytes for each in todo), sum(each.arrived for each in todo)
        with progress("downloading", total or None, "B", arrived) as counter:
            board = Board(counter, len(todo), "files")
            for each, reason in _outcomes(_jobs(todo, wanted), data, parallel, board):
                if reason:
                    failed[each.name] = reason
                else:
                    yield each
    if failed:
        raise DownloadError("\n".join(f"{each.name}: {failed[each.name]}" for each in wanted if each.name in failed))


def _sized(wanted: Sequence[Wanted]) -> list[Wanted]:
    """The same files, with the sizes that servers state where none is known."""
    crew = Crew[str, int]()
    unknown = [each for each in wanted if not each.size_bytes]
    sizes = dict(crew.each(((each.name, partial(_size, each)) for each in unknown), _ASKING))
    return [replace(each, size_bytes=each.size_bytes or sizes[each.name]) for each in wanted]


def _size(wanted: Wanted) -> int:
    if wanted.target.exists():
        return size_of(wanted.target)
    for url in wanted.urls:
        known = (size_of(url) if url.exists() else 0) if isinstance(url, Path) else size_at(url)
        if known:
            return known
    return 0


def _jobs(todo: Sequence[Wanted], wanted: Sequence[Wanted]) -> list[_Job]:
    keys, alike = {}, defaultdict[str, list[Wanted]](list)
    for key, each in zip(contents(wanted), wanted, strict=True):
        keys[each.name] = key
        alike[key].append(each)
    found = []
    for each in todo:
        key, host = keys[each.name], next((host_of(url) for url in each.urls if isinstance(url, str)), "")
        twins = tuple(other for other in alike[key] if other.name != each.name)
        found.append(_Job(each, host, key, twins, each.target.exists()))
    return found


def _outcomes(jobs: Sequence[_Job], data: Path, parallel: int, board: Board) -> Iterator[tuple[Wanted, str]]:
    """(file, why it is not there; empty: it is), in the order in which they end."""
    crew = Crew[tuple[str, _Job], str]()
    waiting, fetching, fetched, settling = list(jobs), list[_Job](), list[_Job](), list[_Job]()
    try:
        while waiting or fetching or fetched or settling:
            while following := _next(waiting, fetching, parallel):
                waiting.remove(following)
                fetching.append(following)
                crew.start(("fetch", following), partial(_told, _bring, following, data, board))
            while fetched and len(settling) < _UNPACKING:
                settling.append(fetched.pop(0))
                crew.start(("settle", settling[-1]), partial(_told, _settle, settling[-1], data, board))
            (step, job), reason = crew.wait()
            (fetching if step == "fetch" else settling).remove(job)
            if step == "fetch" and not reason:
                fetched.append(job)
                continue
            if not reason:
                board.finish()
            yield job.wanted, reason
    finally:
        board.stop()
        crew.leave(_LEAVE_S)


def _next(waiting: Sequence[_Job], fetching: Sequence[_Job], parallel: int) -> _Job | None:
    """The first that may start: not while as many run, of its server or at all, nor while its twin is on the way."""
    if len(fetching) >= parallel:
        return None
    hosts, on_the_way = Counter(job.host for job in fetching), {job.content for job in fetching}
    for job in waiting:
        if job.content not in on_the_way and not (job.host and hosts[job.host] >= PER_HOST):
            return job
    return None


def _told(work: Callable[[_Job, Path, Board], None], job: _Job, data: Path, board: Board) -> str:
    """Why `work` failed; empty where it did not."""
    try:
        work(job, data, board)
        return ""
    except StoppedError:
        return "stopped"
    except (FetchError, RoomError, UnpackError, TrustError, OSError) as error:
        return str(error)


def _bring(job: _Job, data: Path, board: Board) -> None:
    """Leaves the expected bytes at the file's place."""
    wanted, target, expected = job.wanted, job.wanted.target, job.wanted.expected
    with board.task(_short(wanted), wanted.size_bytes, wanted.arrived) as task:
        if job.was_there:
            task.begin("checking")
            if is_right(target, expected):
                tidy(target, True)
                return
        if not wanted.file.urls:
            raise FetchError(f"expected {expected}, found other bytes: {target}; {wanted.instructions}")
        for twin in job.twins:
            if twin.target.is_file() and is_right(twin.target, expected):
                share(twin.target, target)
                task.at(size_of(target), size_of(target))
                return
        try:
            fetch(wanted.urls, target, expected, task, sleep=board.pause)
        except FetchError as error:
            if not wanted.file.manual:
                raise
            raise FetchError(f"{error}; or {wanted.instructions}") from error


def _settle(job: _Job, data: Path, board: Board) -> None:
    """Unpacks what has been fetched, and records it where no checksum was known."""
    wanted, target = job.wanted, job.wanted.target
    with board.task(_short(wanted)) as task:
        digest = digest_of(target)
        if wanted.file.unpack and not is_unpacked(target, wanted.folder, digest):
            try:
                unpack(target, wanted.folder, digest, task)
            except UnpackError as error:
                if wanted.expected.sha256:
                    raise
                if job.was_there:
                    raise UnpackError(f"{error}; delete it, and the next run gets it again") from error
                forget(target)
                raise UnpackError(f"{error}; deleted, the next run gets it again") from error
        if not wanted.expected.sha256:
            log.info(
                "no checksum is known of %s: recording sha256 %s, later downloads are held to it", wanted.name, digest
            )
            record(data, wanted.name, Expected(size_of(target), digest))


def _short(wanted: Wanted) -> str:
    return PurePosixPath(wanted.file.path).name
