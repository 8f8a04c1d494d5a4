"""The files of a dataset in a folder of this machine, and shards open for reading.

Shards are read, not mapped: a file that is cut short under a map ends the process by SIGBUS, a read of it is an error;
and while a map waits for the disk, all threads of the process wait. A sample of 160 kB takes 30 us from the page cache,
24 us from a map; to decode it takes 2,500 us.
"""

import os
import stat
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from bitgen.disk import file_sha256
from shards.format import Entry, NoDatasetError, ShardError, Sliced

DATASET = "dataset.json"

_OPEN_SHARDS = 64
"""Files held open: a process may have 1,024; the stream reads 8 shards of a source at a time, or some more."""


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
            _check_size(os.stat(path), shard, path)
        except FileNotFoundError as error:
            raise ShardError(f"expected a shard of {shard['bytes']} bytes, found none: {path}") from error

    def shard(self, shard: Mapping[str, Any], entry: Entry) -> Sliced:
        """A shard of `dataset.json`, from which the sample at `entry` can be read. Raises as `check` does, and
        `ShardError` where it should be verified and has another sha256."""
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
        _check_size(os.fstat(handle), shard, str(path))
        if self._verify:
            check_sha256(path, shard["sha256"], str(path))
        return file


def check_sha256(path: Path, expected: str, where: str) -> None:
    """Raises `ShardError` where a file has another digest."""
    if (found := file_sha256(path)) != expected:
        raise ShardError(f"expected sha256 {expected}, found {found}: {where}")


def _check_size(status: os.stat_result, shard: Mapping[str, Any], path: str) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_size != shard["bytes"]:
        raise ShardError(f"expected a shard of {shard['bytes']} bytes, found {status.st_size}: {path}")
