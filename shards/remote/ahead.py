"""What the order of samples comes to next, told to whom brings it: so a shard is there before it is needed."""

import logging
from collections.abc import Mapping

from shards.index import ShardIndex
from shards.mixture import Mixture
from shards.remote.arriving import Wanted
from shards.remote.prefetch import Prefetcher
from shards.remote.store import Store

log = logging.getLogger(__name__)


class Ahead:
    """Follows a stream through the shards of its datasets that are at a URL."""

    def __init__(self, indexes: Mapping[str, ShardIndex], mixture: Mixture, prefetcher: Prefetcher) -> None:
        self._mixture = mixture
        self._prefetcher = prefetcher
        self._stores = {
            name: (index.files, index.dataset["shards"])
            for name, index in indexes.items()
            if isinstance(index.files, Store)
        }
        self._told: list[set[str]] = []
        self._has_checked = False

    def reach(self, position: int, behind: int) -> None:
        """The stream has come to `position`, and samples from `behind` on may still be read."""
        now, coming = self._files(position)
        past, _ = self._files(behind)
        told = [set(past), set(now), set(coming)]
        if told != self._told:
            self._told = told
            if not self._has_checked:
                self._check_room(now, coming)
            self._prefetcher.cache.keep({*past, *now, *coming})
            self._prefetcher.want([*now.values(), *coming.values()])

    def _files(self, position: int) -> tuple[dict[str, Wanted], dict[str, Wanted]]:
        """What is read at a position, and what is read next, the nearest first; by name."""
        found: tuple[dict[str, Wanted], dict[str, Wanted]] = {}, {}
        for group in self._mixture.groups(position):
            store, shards = self._stores[group.source]
            files = [store.wanted(shards[number]) for number in group.shards]
            found[group.positions_away > 0].update({file.name: file for file in files})
        return found

    def _check_room(self, now: Mapping[str, Wanted], coming: Mapping[str, Wanted]) -> None:
        """Says once how much room a stream takes that has not got it."""
        self._has_checked = True
        limit = self._prefetcher.cache.limit_bytes
        least, best = (sum(file.size_bytes for file in files.values()) for files in (now, {**now, **coming}))
        if limit < best:
            what = "what is read at one time" if limit < least else "that and what is read next, to bring it in time"
            log.warning(
                "expected a cache of %.3g GB (--data.cache-gb) for %s, found %.3g GB: the rest is read in parts, slowly",
                (least if limit < least else best) / 1e9,
                what,
                limit / 1e9,
            )
