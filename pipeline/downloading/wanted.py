"""The files of manifests: which there are, which are there, and what the rest takes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.request import url2pathname

from pipeline.downloading.trust import read_lock
from pipeline.downloading.unpack import is_unpacked, unpacked_bytes
from pipeline.fetch import Expected, arrived, is_right
from pipeline.files import size_of
from pipeline.manifest import File, Manifest, Source


@dataclass(frozen=True)
class Wanted:
    """A file of a manifest, and whether it is there."""

    manifest: Manifest
    file: File
    target: Path
    expected: Expected
    is_there: bool
    """Whole, of the expected bytes, and unpacked where it is to be."""
    size_bytes: int = 0
    """0: not known. May come from a server, which no file is held to."""

    @property
    def name(self) -> str:
        """`coco/annotations.zip`."""
        return f"{self.manifest.name}/{self.file.path}"

    @property
    def folder(self) -> Path:
        """Where it is unpacked."""
        return self.target.parents[len(Path(self.file.path).parts) - 1] / self.file.folder

    @property
    def urls(self) -> list[str | Path]:
        """Its mirrors; a `Path` is on this machine."""
        return [_resolved(url, self.manifest.path.parent) for url in self.file.urls]

    @property
    def is_fetched(self) -> bool:
        """Whether it seems to be there, to be checked and perhaps unpacked."""
        return self.target.exists() and self.expected.size_bytes in (0, size_of(self.target))

    @property
    def arrived(self) -> int:
        """Bytes that need not be fetched any more."""
        found = size_of(self.target) if self.is_fetched else arrived(self.target)
        return min(found, self.size_bytes or found)

    @property
    def instructions(self) -> str:
        """For a person."""
        return f"{self.file.manual} (put it at {self.target})"


def wanted_files(
    manifests: Sequence[Manifest], data: Path, sources: Sequence[str], patterns: Sequence[str] = ()
) -> list[Wanted]:
    """The files that `sources` need, those of other families among `manifests` too; all where no source is named.

    Of them only those that one of `patterns` names, where there are any. Raises `TrustError`.
    """
    lock = read_lock(data)
    found: list[Wanted] = []
    reached = _reached([s for m in manifests for s in m.sources if s.name in sources])
    for manifest in manifests:
        own = tuple(source.name for source in manifest.sources)
        for file in manifest.files:
            is_own = not sources or set(sources) & set(file.sources or own)
            if not is_own and not any(family == manifest.name and file.makes(path) for family, path in reached):
                continue
            if patterns and not any(is_named(file, pattern) for pattern in patterns):
                continue
            target = data / "raw" / manifest.name / file.path
            known = lock.get(f"{manifest.name}/{file.path}", Expected())
            expected = Expected(file.bytes or known.size_bytes, file.sha256 or known.sha256)
            wanted = Wanted(manifest, file, target, expected, False, expected.size_bytes)
            found.append(replace(wanted, is_there=_is_there(wanted)))
    return found


def is_named(file: File, pattern: str) -> bool:
    """Whether `pattern` is the path of `file` or of a folder that it is in; `*` stands for any letters."""
    path = PurePosixPath(file.path)
    return any(fnmatchcase(str(each), pattern.rstrip("/")) for each in (path, *path.parents))


def contents(wanted: Sequence[Wanted]) -> list[str]:
    """One key for each file, equal where one download gives the bytes of both: by sha256, or by URL."""
    places = ["\n".join(map(str, each.urls)) or f"{each.name} by hand" for each in wanted]
    digests = {place: each.expected.sha256 for place, each in zip(places, wanted, strict=True) if each.expected.sha256}
    return [each.expected.sha256 or digests.get(place, place) for place, each in zip(places, wanted, strict=True)]


def needs(wanted: Sequence[Wanted]) -> list[tuple[Path, int]]:
    """(place, bytes) of what is fetched and unpacked for the files that are not there; of unknown sizes nothing."""
    found, keys = list[tuple[Path, int]](), contents(wanted)
    having = {key for key, each in zip(keys, wanted, strict=True) if each.is_fetched}
    for key, each in zip(keys, wanted, strict=True):
        if each.is_there:
            continue
        if key not in having:
            having.add(key)
            found.append((each.target, each.size_bytes - each.arrived if each.size_bytes else 0))
        if each.file.unpack:
            found.append((each.folder, unpacked_bytes(each.target) if each.is_fetched else each.size_bytes))
    return found


def _reached(sources: Sequence[Source]) -> list[tuple[str, str]]:
    """(family, path within it) of whatever `sources` read or need of other families."""
    named = [PurePosixPath(p) for s in sources for p in (*s.annotations, *s.needs, *s.images)]
    return sorted({(path.parts[1], str(PurePosixPath(*path.parts[2:]))) for path in named if path.parts[0] == ".."})


def _is_there(wanted: Wanted) -> bool:
    if not wanted.expected.sha256:
        return False
    if wanted.file.unpack:
        # The archive itself may have been deleted to save space.
        return is_unpacked(wanted.target, wanted.folder, wanted.expected.sha256)
    return is_right(wanted.target, wanted.expected)


def _resolved(url: str, beside: Path) -> str | Path:
    """A URL, or the local path that a `file:` URL or a relative one means."""
    if url.lower().startswith("file:"):
        return Path(url2pathname(re.sub(r"^file:(//[^/]*)?", "", url, flags=re.IGNORECASE)))
    return url if re.match(r"[a-z][a-z0-9+.-]*:", url, re.IGNORECASE) else beside / url
