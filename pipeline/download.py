"""The files of manifests: which are there, which are to be fetched, and those that only a person can get."""

import json
import logging
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.request import url2pathname

from pipeline.fetch import Expected, FetchError, digest_of, fetch, is_right
from pipeline.files import locked, size_of, write_text
from pipeline.manifest import File, Manifest, Source
from pipeline.unpack import is_unpacked, unpack

log = logging.getLogger(__name__)

LOCK = "downloads.lock.toml"


@dataclass(frozen=True)
class Wanted:
    """A file of a manifest, and whether it is there."""

    manifest: Manifest
    file: File
    target: Path
    expected: Expected
    is_there: bool

    @property
    def name(self) -> str:
        """`coco/annotations.zip`."""
        return f"{self.manifest.name}/{self.file.path}"

    @property
    def folder(self) -> Path:
        """Where it is unpacked."""
        return self.target.parents[len(Path(self.file.path).parts) - 1] / self.file.folder


def wanted_files(manifests: Sequence[Manifest], data: Path, sources: Sequence[str]) -> list[Wanted]:
    """The files that `sources` need, those of other families among `manifests` too; all where no source is named."""
    lock = _read_lock(data)
    found: list[Wanted] = []
    reached = _reached([s for m in manifests for s in m.sources if s.name in sources])
    for manifest in manifests:
        own = tuple(source.name for source in manifest.sources)
        for file in manifest.files:
            is_own = not sources or set(sources) & set(file.sources or own)
            if not is_own and not any(family == manifest.name and file.makes(path) for family, path in reached):
                continue
            target = data / "raw" / manifest.name / file.path
            known = lock.get(f"{manifest.name}/{file.path}", Expected())
            expected = Expected(file.bytes or known.size_bytes, file.sha256 or known.sha256)
            wanted = Wanted(manifest, file, target, expected, is_there=False)
            found.append(Wanted(manifest, file, target, expected, _is_there(wanted)))
    return found


def _reached(sources: Sequence[Source]) -> list[tuple[str, str]]:
    """(family, path within it) of whatever `sources` read or need of other families."""
    named = [PurePosixPath(p) for s in sources for p in (*s.annotations, *s.needs, *s.images)]
    return sorted({(path.parts[1], str(PurePosixPath(*path.parts[2:]))) for path in named if path.parts[0] == ".."})


def download(wanted: Sequence[Wanted], data: Path) -> Iterator[Wanted]:
    """Fetches and unpacks what is not there, yielding each when it is; files for a person to get come last.

    Raises `FetchError`, `UnpackError`, `BusyError` and `OSError`. What is complete is kept whatever happens.
    """
    with locked(data / "raw"):
        manual = []
        for each in wanted:
            if each.is_there:
                continue
            if not each.file.urls and not each.target.exists():
                manual.append(each)
                continue
            _download(each, data)
            yield each
    if manual:
        steps = "; ".join(f"{each.name}: {each.file.manual} (put it at {each.target})" for each in manual)
        raise FetchError(f"expected {len(manual)} files that only a person can get, found none: {steps}")


def _is_there(wanted: Wanted) -> bool:
    if wanted.file.unpack:
        # The archive itself may have been deleted to save space.
        return bool(wanted.expected.sha256) and is_unpacked(wanted.target, wanted.folder, wanted.expected.sha256)
    return bool(wanted.expected.sha256) and is_right(wanted.target, wanted.expected)


def _download(wanted: Wanted, data: Path) -> None:
    if not is_right(wanted.target, wanted.expected):
        if not wanted.file.urls:
            raise FetchError(f"expected {wanted.expected}, found other bytes: {wanted.target}")
        urls = [_resolved(url, wanted.manifest.path.parent) for url in wanted.file.urls]
        fetch(urls, wanted.target, wanted.expected)
    digest = digest_of(wanted.target)
    if not wanted.expected.sha256:
        log.info("no checksum is known of %s: recording sha256 %s, later downloads are held to it", wanted.name, digest)
        _record(data, wanted.name, Expected(size_of(wanted.target), digest))
    if wanted.file.unpack:
        unpack(wanted.target, wanted.folder, digest)


def _resolved(url: str, beside: Path) -> str | Path:
    """A URL for requests, or the local path that a `file:` URL or a relative one means."""
    if re.match(r"https?:", url, re.IGNORECASE):
        return url
    if url.lower().startswith("file:"):
        return Path(url2pathname(re.sub(r"^file:(//[^/]*)?", "", url, flags=re.IGNORECASE)))
    return beside / url


def _read_lock(data: Path) -> dict[str, Expected]:
    """What was found on the first complete download of files whose manifest states no checksum."""
    path = data / LOCK
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: Expected(int(each["bytes"]), str(each["sha256"])) for name, each in table.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FetchError(f"expected a lock file, found {error!r}: {path}") from error


def _record(data: Path, name: str, found: Expected) -> None:
    lock = _read_lock(data) | {name: found}
    tables = (f'[{json.dumps(n)}]\nbytes = {e.size_bytes}\nsha256 = "{e.sha256}"\n' for n, e in sorted(lock.items()))
    header = "# Written by bitgen-download: sha256 of files whose manifest states none. Delete a table to trust anew.\n"
    write_text(data / LOCK, "\n".join((header, *tables)))
