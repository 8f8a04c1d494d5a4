"""The files of a dataset in a folder of this machine, and shards open for reading.

Shards are read, not mapped: a file that is cut short under a map ends the process by SIGBUS, a read of it is an error;
and while a map waits for the disk, all threads of the process wait. A sample of 160 kB takes 30 us from the page cache,
24 us from a map; to decode it takes 2,500 us.
"""

import json
import os
import stat
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from bitgen.disk import file_sha256
from shards.format import FORMAT_VERSION, NoDatasetError, ShardError, Sliced, shard_name

DATASET = "dataset.json"

_OPEN_SHARDS = 64
"""Files held open: a process may have 1,024; the stream reads 8 shards of a source at a time, or some more."""


class Files(Protocol):
    """The files of a dataset, as `Folder` and `shards.remote.store.Store` have them."""

    place: str
    """The folder or URL, as people may see it."""

    def dataset(self) -> bytes:
        """`dataset.json`."""
        ...

    def index(self, name: str) -> Path:
        """Where the index can be opened. Called after `dataset`."""
        ...

    def forget(self, name: str) -> None:
        """Keeps no copy of an index that is not what it should be."""
        ...

    def check(self, shard: Mapping[str, Any]) -> None:
        """Raises `ShardError` where a shard of `dataset.json` cannot be what it says."""
        ...

    def shard(self, shard: Mapping[str, Any], start: int, stop: int) -> Sliced:
        """A shard of `dataset.json`, at least its bytes [start, stop)."""
        ...


class ShardFile:
    """An open shard, sliced as bytes are, by a start and a stop within it. Safe to use from several threads; closed when
    nobody refers to it any more."""

    def __init__(self, handle: int, size_bytes: int, where: str) -> None:
        self._handle = handle
        self._size_bytes = size_bytes
        self._where = where
        weakref.finalize(self, os.close, handle)

    def __len__(self) -> int:
        return self._size_bytes

    def __getitem__(self, part: slice) -> bytes:
        """Raises `ShardError` where the file does not hold these bytes any more, `OSError` where they cannot be read."""
        size_bytes = part.stop - part.start
        data = os.pread(self._handle, size_bytes, part.start)
        if len(data) != size_bytes:
            found = os.fstat(self._handle).st_size
            raise ShardError(f"expected a shard of {self._size_bytes} bytes, found {found}: {self._where}")
        return data


class Folder:
    """A dataset's folder on this machine. Safe to use from several threads."""

    def __init__(self, path: Path, verify: bool = False) -> None:
        """With `verify`, a shard's sha256 is computed before anything is read from it."""
        self.path = path
        self.place = str(path)
        self._verify = verify
        self._written_ns: dict[str, int] = {}
        """When each shard was last written, as of the first look at it."""
        self._open: OrderedDict[str, ShardFile] = OrderedDict()
        self._lock = Lock()

    def dataset(self) -> bytes:
        """`dataset.json`. Raises `NoDatasetError`."""
        try:
            return (self.path / DATASET).read_bytes()
        except FileNotFoundError as error:
            raise NoDatasetError(f"expected a finished dataset, found no {DATASET}: {self.place}") from error

    def index(self, name: str) -> Path:
        """Where the index called `name` can be opened."""
        return self.path / name

    def forget(self, name: str) -> None:
        """Of an index that is not what it should be there is no copy here."""

    def check(self, shard: Mapping[str, Any]) -> None:
        """Raises `ShardError` where a shard of `dataset.json` is not there, or of another size."""
        path = os.path.join(self.path, shard["file"])  # a Path takes four times as long, and there are thousands
        try:
            status = os.stat(path)
        except FileNotFoundError as error:
            raise ShardError(f"expected a shard of {shard['bytes']} bytes, found none: {path}") from error
        _check_size(status, shard, path)
        self._written_ns.setdefault(shard["file"], status.st_mtime_ns)

    def shard(self, shard: Mapping[str, Any], start: int, stop: int) -> Sliced:
        """A shard of `dataset.json`, from which bytes [start, stop) can be read. Raises as `check` does, and
        `ShardError` where it has another sha256, if it should be verified or was written since the first look at it."""
        name = shard["file"]
        with self._lock:
            found = self._open.get(name)
            if found is None:
                found = self._open[name] = self._opened(shard)
                if len(self._open) > _OPEN_SHARDS:
                    # Not closed here: another thread may be reading it. The last reader's reference closes it.
                    self._open.popitem(last=False)
            self._open.move_to_end(name)
            return found

    def _opened(self, shard: Mapping[str, Any]) -> ShardFile:
        path = self.path / shard["file"]
        self.check(shard)  # before it is opened: what is no file, as a pipe, might never open
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        file = ShardFile(handle, shard["bytes"], str(path))
        status = os.fstat(handle)
        _check_size(status, shard, str(path))
        # Other features of the same keys are of the same size, and so may be other pictures. A copy of the same is let pass.
        if self._verify or status.st_mtime_ns != self._written_ns[shard["file"]]:
            check_sha256(path, shard["sha256"], str(path))
            self._written_ns[shard["file"]] = status.st_mtime_ns
        return file


def check_sha256(path: Path, expected: str, where: str) -> None:
    """Raises `ShardError` where a file has another digest."""
    if (found := file_sha256(path)) != expected:
        raise ShardError(f"expected sha256 {expected}, found {found}: {where}")


def _check_size(status: os.stat_result, shard: Mapping[str, Any], path: str) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_size != shard["bytes"]:
        raise ShardError(f"expected a shard of {shard['bytes']} bytes, found {status.st_size}: {path}")


def read_dataset(files: Files) -> dict[str, Any]:
    """`dataset.json`, checked. Raises `ShardError`, and what `files` raise."""
    data, path = files.dataset(), f"{files.place}/{DATASET}"
    try:
        dataset = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"expected JSON, {error}: {path}") from error
    version = dataset.get("format_version") if isinstance(dataset, dict) else None
    if version != FORMAT_VERSION:
        hint = "; build it again" if version in range(FORMAT_VERSION) else ""
        raise ShardError(f"expected format_version {FORMAT_VERSION}, found {version!r}: {path}{hint}")
    shards = dataset.get("shards")
    if not isinstance(dataset.get("name"), str) or not isinstance(dataset.get("samples"), int):
        raise ShardError(f"expected a name and a number of samples, found {dataset.get('name')!r}: {path}")
    if not isinstance(shards, list) or not all(_is_shard(shard) for shard in shards):
        raise ShardError(f"expected shards with file, samples, bytes and sha256, found {str(shards)[:80]}: {path}")
    for number, shard in enumerate(shards):
        if shard["file"] != shard_name(number):
            raise ShardError(f"expected {shard_name(number)}, found {shard['file']!r}: {path}")
    if (listed := sum(shard["samples"] for shard in shards)) != dataset["samples"]:
        raise ShardError(f"expected {dataset['samples']} samples in its shards, found {listed}: {path}")
    return dataset


def _is_shard(shard: object) -> bool:
    kinds = {"file": str, "samples": int, "bytes": int, "sha256": str}
    if not isinstance(shard, dict) or any(type(shard.get(name)) is not kind for name, kind in kinds.items()):
        return False
    return 0 <= shard["samples"] < 2**63 and 0 <= shard["bytes"] < 2**63
