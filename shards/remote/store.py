"""A dataset at a URL: its files come through the cache, and single samples by themselves until their shard is there."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bitgen.remote import MirrorError, TryAgainError, is_http, opened_at, read_at, shown
from shards.files import DATASET, ShardFile
from shards.format import NoDatasetError, ShardError, Sliced
from shards.remote.arriving import Wanted
from shards.remote.prefetch import Prefetcher

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DATASET_BYTES = 64 << 20
"""Of a dataset.json: 200 a shard."""
_PART_BYTES = 64 << 20
"""Of a part, at most: one sample, were its index right."""


def below(url: str, name: str) -> str:
    """The URL of `name`, a path of plain names, below another."""
    return f"{url.rstrip('/')}/{quote(name) if is_http(url) else name}"


class Part:
    """A piece of a shard, sliced as the whole one would be."""

    def __init__(self, data: bytes, start: int, shard_bytes: int) -> None:
        self._data, self._start, self._shard_bytes = data, start, shard_bytes

    def __len__(self) -> int:
        return self._shard_bytes

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._shard_bytes)
        assert self._start <= start <= stop <= self._start + len(self._data)
        return self._data[start - self._start : stop - self._start]


class Store:
    """A dataset's folder at a URL. Safe to use from several threads."""

    def __init__(self, url: str, prefetcher: Prefetcher) -> None:
        self.place = shown(url)
        self._url = url
        self._prefetcher = prefetcher
        self._cache = prefetcher.cache
        self._files: dict[str, Wanted] = {}
        self._has_parts = True
        """Whether the store sends parts of a file; found out by the first that is asked for."""
        self._digest = ""
        self._index: ShardFile | None = None
        """Referred to as long as it is read, so that it stays in the cache."""

    def dataset(self) -> bytes:
        """`dataset.json`, as it is now. Raises `NoDatasetError`, `StoreError`."""
        data = self._read_dataset()
        self._digest = self._digest_of(data)
        return data

    def index(self, name: str) -> Path:
        """The index in the cache, where it bears the digest of its `dataset.json`. Raises as `Prefetcher.wait`, and
        `ShardError` where that has changed meanwhile."""
        wanted = Wanted(below(self._url, name), f"{self._digest}.arrow")
        self._index = self._cache.opened(wanted)
        if self._index is None:
            self._index = self._prefetcher.wait(wanted)
            is_right = False
            try:
                is_right = self._digest_of(self._read_dataset()) == self._digest
            finally:
                if not is_right:
                    self.forget(name)
            if not is_right:
                raise ShardError(f"expected a finished dataset, found one that is being built: {self.place}")
        return self._cache.path(wanted)

    def forget(self, name: str) -> None:
        """The index is not what it should be: the next to open it fetches it again."""
        self._cache.path(Wanted(below(self._url, name), f"{self._digest}.arrow")).unlink(missing_ok=True)

    def check(self, shard: Mapping[str, Any]) -> None:
        """Raises `ShardError` where what `dataset.json` says of a shard cannot be; asks for nothing."""
        if _DIGEST.fullmatch(shard["sha256"]) is None or shard["bytes"] < 1:
            found = f"{shard['sha256'][:80]!r} and {shard['bytes']}"
            raise ShardError(f"expected a sha256 and a number of bytes, found {found}: {self.place}/{shard['file']}")

    def wanted(self, shard: Mapping[str, Any]) -> Wanted:
        """A shard of `dataset.json` as the cache knows it."""
        name, digest, size = shard["file"], shard["sha256"], shard["bytes"]
        if (found := self._files.get(name)) is None:
            found = self._files[name] = Wanted(below(self._url, name), f"{digest}-{size}.tar", size, digest)
        return found

    def shard(self, shard: Mapping[str, Any], start: int, stop: int) -> Sliced:
        """A shard of `dataset.json`, or the part of it that holds bytes [start, stop).

        Raises as `Prefetcher.wait` does; `StoreError` where the part does not come.
        """
        wanted = self.wanted(shard)
        if (file := self._cache.opened(wanted)) is not None:
            return file
        self._prefetcher.need(wanted)
        start, stop = max(0, start), min(wanted.size_bytes, stop)
        if self._has_parts and stop - start <= _PART_BYTES:
            data = self._cache.patience.ask(lambda: self._part(wanted.url, start, stop), wanted.url)
            if data is not None:
                return Part(data, start, wanted.size_bytes)
            self._has_parts = False
        return self._prefetcher.wait(wanted)

    def _part(self, url: str, start: int, stop: int) -> bytes | None:
        data = read_at(url, start, stop, timeout_s=self._cache.patience.timeout_s)
        if data is not None and len(data) != stop - start:
            raise TryAgainError(f"expected {stop - start} bytes at byte {start}, found {len(data)}")
        return data

    def _read_dataset(self) -> bytes:
        url = below(self._url, DATASET)
        try:
            return self._cache.patience.ask(lambda: _read(url, self._cache.patience.timeout_s), url)
        except ShardError as error:
            raise NoDatasetError(f"expected a finished dataset, found no {DATASET}: {self.place}") from error

    def _digest_of(self, dataset: bytes) -> str:
        return hashlib.sha256(self.place.encode() + b"\n" + dataset).hexdigest()


def _read(url: str, timeout_s: float) -> bytes:
    """A small file. Raises `TryAgainError`, `MirrorError`."""
    with opened_at(url, 0, "", timeout_s=timeout_s) as arrival:
        found = bytearray()
        for chunk in arrival.chunks:
            found += chunk
            if len(found) > _DATASET_BYTES:
                raise MirrorError(f"more than {_DATASET_BYTES:,} bytes")
    if arrival.total not in (None, len(found)):
        raise TryAgainError(f"expected {arrival.total} bytes, found {len(found)}")
    return bytes(found)
