"""Where datasets are: a folder of this machine, read in place, or a URL, read through a cache."""

import re
from pathlib import Path

from bitgen.remote import names_at, shown
from shards.files import DATASET, Folder, read_dataset
from shards.index import ShardIndex
from shards.remote.cache import Cache
from shards.remote.prefetch import Prefetcher
from shards.remote.store import Store, below

_HERE = re.compile(r"(?:file|local)://")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:://|::)")


def is_remote(place: str | Path) -> bool:
    """Whether it is a URL, and not of this machine's disk."""
    return _HERE.match(str(place)) is None and _URL.match(str(place)) is not None


class Root:
    """The folder or URL of datasets."""

    def __init__(self, place: str | Path, cache: Cache | None = None, *, verify: bool = False) -> None:
        """`cache` is for a URL; without one, that raises `ValueError`. With `verify`, a shard's sha256 is computed before it
        is first read."""
        self.is_remote = is_remote(place)
        self.place = shown(place) if self.is_remote else str(place)
        self._place = str(place) if self.is_remote else _HERE.sub("", str(place))
        self._verify = verify
        if cache is None and self.is_remote:
            raise ValueError(f"expected a cache for a URL, found none: {self.place}")
        self.prefetcher = Prefetcher(cache) if cache is not None and self.is_remote else None

    @property
    def folder(self) -> Path | None:
        """Where the datasets are on this machine; None for a URL."""
        return None if self.is_remote else Path(self._place)

    def open(self, name: str) -> ShardIndex:
        """A dataset. Raises `NoDatasetError` and as `ShardIndex.of` does."""
        return ShardIndex.of(self._files(name))

    def shard_sizes(self, name: str) -> tuple[int, ...]:
        """Samples of each shard of a dataset, by its `dataset.json` alone. Raises likewise."""
        return tuple(shard["samples"] for shard in read_dataset(self._files(name))["shards"])

    def names(self, folder: str) -> list[str] | None:
        """Datasets below a folder, as `eval/coco-val`, sorted; None where a store does not say. Raises `StoreError`."""
        if self.prefetcher is None:
            return sorted(f"{folder}/{p.parent.name}" for p in (Path(self._place) / folder).glob(f"*/{DATASET}"))
        url, patience = below(self._place, folder), self.prefetcher.cache.patience
        found = patience.ask(lambda: names_at(url, timeout_s=patience.timeout_s), url)
        return None if found is None else [f"{folder}/{name}" for name in found]

    def close(self) -> None:
        """Ends what comes in the background."""
        if self.prefetcher is not None:
            self.prefetcher.close()

    def _files(self, name: str) -> Folder | Store:
        if self.prefetcher is None:
            return Folder(Path(self._place) / name, self._verify)
        return Store(below(self._place, name), self.prefetcher)
