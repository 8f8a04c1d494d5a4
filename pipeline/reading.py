"""A source's annotation files, read: its candidates, and the ids of its images, which the hold-out rule asks for."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.annotations import OPTIONS, READERS, ids_of
from pipeline.files import digest_of, write_text
from pipeline.holdout import Ids, ids_in
from pipeline.manifest import ManifestError, Source
from pipeline.nearest import hint
from pipeline.rows import Candidate

_VERSION = 2
"""Raised when the same files, or the same URLs in them, give other ids: with it `BUILD_VERSION`."""
_FOLDER = ".ids"


def read(source: Source, raw: Path) -> Iterator[Candidate]:
    """The candidates of `source`, in the same order at every call. Raises `ManifestError` for a reader, or an option of
    it, that there is not, and `AnnotationError`."""
    _check_reader(source)
    return READERS[source.reader](source, raw / source.manifest)


def known_ids(source: Source, raw: Path) -> Iterator[Ids]:
    """Ids of the images of `source` under `raw`: of all in an evaluation set, else of those with more than one.

    They are noted in `raw/.ids` and read from there while the annotation files are the same. Raises as `read` does.
    """
    _check_reader(source)
    digests = [digest_of(raw / source.manifest / path) for path in ids_in(source)]
    said = json.dumps([_VERSION, source.what, digests], sort_keys=True, default=dict)
    title = f"# {hashlib.sha256(said.encode()).hexdigest()} {source.dataset}"
    path = raw / _FOLDER / f"{source.dataset.replace('/', '-')}.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if lines[:1] != [title]:
        found = (ids for ids in ids_of(source, raw / source.manifest) if source.role == "eval" or len(ids) > 1)
        lines = [title, *sorted({" ".join(ids) for ids in found if ids})]
        write_text(path, "\n".join(lines) + "\n")
    return (tuple(line.split(" ")) for line in lines[1:])


def _check_reader(source: Source) -> None:
    if source.reader not in READERS:
        near = hint(source.reader, READERS)
        raise ManifestError(
            f"expected a reader of {', '.join(READERS)}, found {source.reader!r}{near}: {source.dataset}"
        )
    known = OPTIONS.get(source.reader, {})
    for name, value in source.options.items():
        if name not in known:
            expected = f"options of reader {source.reader} ({', '.join(known) or 'it takes none'})"
            raise ManifestError(f"expected {expected}, found {name!r}{hint(name, known)}: {source.dataset}")
        if type(value) is not known[name]:
            kind = known[name].__name__
            raise ManifestError(f"expected option {name} of type {kind}, found {value!r}: {source.dataset}")
