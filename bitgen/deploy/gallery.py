"""A folder of pictures found by words: their unit vectors, kept in a file so that only new or changed ones are encoded again.

Axes: N pictures, d width.
"""

import hashlib
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitgen.deploy.memory import fingerprint
from bitgen.deploy.runtime import PictureError, Runtime

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_NO_INDEX = (
    OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, IndexError, MemoryError, RuntimeError, NotImplementedError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading a damaged file of vectors raises: it is then made anew."""


@dataclass(frozen=True)
class Found:
    image: str
    """Path, from where the folder was named."""
    similarity: float
    """The cosine with the query, -1..1."""


def search(runtime: Runtime, folder: Path, queries: list[str], most: int, kept: Path | None) -> dict[str, list[Found]]:
    """For each query the `most` pictures of the folder that are most like it, the likest first.

    Args:
        kept: file of vectors to read and write; None: nothing is kept.

    Raises `PictureError` where the folder holds no picture that can be read, `OSError` where it cannot be listed. Where `kept`
    cannot be written, a warning says so.
    """
    names, vectors = _vectors(runtime, folder, kept)
    found = {}
    for query in queries:
        alike = vectors @ runtime.encode_text(query)
        first = np.argsort(-alike, kind="stable")[:most]
        found[query] = [Found(str(folder / names[i]), float(alike[i])) for i in first]
    return found


def kept_at(model: Path, folder: Path) -> Path:
    """Where the vectors of a folder are kept beside a model."""
    return model / f"index-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}.npz"


def pictures(folder: Path) -> Iterator[Path]:
    """By suffix, at any depth, in order of their paths."""
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())


def _vectors(runtime: Runtime, folder: Path, kept: Path | None) -> tuple[list[str], NDArray[np.float32]]:
    """Names within the folder, and [N, d]."""
    if not folder.is_dir():
        raise PictureError(f"expected a folder of pictures, found none: {folder}")
    model = fingerprint(runtime.packed)
    known = {} if kept is None else _read(kept, model, runtime.packed.facts.config.width)
    found: dict[str, NDArray[np.float32]] = {}
    for path in pictures(folder):
        stat = path.stat()
        name = f"{path.relative_to(folder)}|{stat.st_size}|{stat.st_mtime_ns}"
        try:
            found[name] = known[name] if name in known else runtime.see(path).states["embedding"][0]
        except PictureError as error:
            log.warning("left out: %s", error)
    if not found:
        raise PictureError(f"expected pictures ({', '.join(SUFFIXES)}), found none that can be read: {folder}")
    vectors = np.stack(list(found.values()))
    if kept is not None and found.keys() != known.keys():
        try:
            _write(kept, model, list(found), vectors)
        except OSError as error:
            log.warning("the pictures' vectors are not kept, and are made again next time: %s", error)
    return [name.rsplit("|", 2)[0] for name in found], vectors


def _read(path: Path, model: str, width: int) -> dict[str, NDArray[np.float32]]:
    """Vectors by what identifies a picture; none where the file is missing, damaged or another model's."""
    try:
        with zipfile.ZipFile(path) as file:  # ours are not compressed: nothing grows in memory
            if sum(each.file_size for each in file.infolist()) > path.stat().st_size:
                return {}
        with np.load(path, allow_pickle=False) as file:
            names, vectors = json.loads(bytes(file["names"])), file["vectors"]
        if names.pop(0) != model or vectors.dtype != np.float32 or vectors.shape != (len(names), width):
            return {}
        return dict(zip(names, vectors, strict=True))
    except _NO_INDEX:
        return {}


def _write(path: Path, model: str, names: list[str], vectors: NDArray[np.float32]) -> None:
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        said = np.frombuffer(json.dumps([model, *names]).encode(), np.uint8)
        np.savez(temporary, names=said, vectors=vectors)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
