"""Which sample, for which rank: draws from any position of the global order, at any world size."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitgen.batch import Item, bucket
from bitgen.tokens import MAX_TOKENS
from bitgen.words import Numbers, Words, choose_texts, fault, join
from shards.format import ShardError
from shards.index import INDEX, ShardIndex
from shards.mixture import Mixture, Place
from shards.remote.ahead import Ahead
from shards.root import Root

_BEHIND = 4
"""Micro-batches behind the newest plan from which samples may still be read: one more than `bitgen.batch.load` has in the
making."""


@dataclass(frozen=True)
class Plan:
    """One rank's part of a global micro-batch."""

    positions: tuple[int, ...]
    """Consecutive ones, so that ranks in order give the global micro-batch in order."""
    text_bucket: int
    """Token positions of every text row: fits the longest text of the whole global micro-batch, so all ranks agree."""
    words: Words
    """The texts that the samples at `positions` show."""


class Stream:
    """Samples of several datasets in the order of a `Mixture`. Safe to use from several threads."""

    def __init__(
        self,
        indexes: Mapping[str, ShardIndex],
        mixture: Mixture,
        *,
        texts_per_image: int,
        max_tokens: int = MAX_TOKENS,
        ahead: Ahead | None = None,
    ) -> None:
        """`indexes` by the names that `mixture` uses; `ahead` brings their shards where they are at a URL. Raises
        `ShardError` where an index is missing."""
        missing = [name for name in mixture.sources if name not in indexes]
        if missing:
            raise ShardError(f"expected an index of {missing}, found {sorted(indexes)}")
        self.indexes = indexes
        self.mixture = mixture
        self.texts_per_image = texts_per_image
        self.max_tokens = max_tokens
        self.ahead = ahead

    @staticmethod
    def open(
        root: Root | str | Path,
        weights: Mapping[str, float],
        *,
        seed: int,
        texts_per_image: int,
        max_tokens: int = MAX_TOKENS,
        size_power: float = 1.0,
    ) -> "Stream":
        """Open the datasets that `weights` names, as `{"coarse/coco-train": 1.0}`, below the folder or URL of all shards.

        Raises `ShardError` where one cannot be opened or has no sample, `OSError` where it cannot be read, `ValueError`
        where the weights are no mixture of them.
        """
        root = root if isinstance(root, Root) else Root(root)
        indexes = {name: root.open(name) for name, weight in weights.items() if weight != 0}
        for index in indexes.values():
            if not len(index):
                raise ShardError(f"expected a dataset with samples, found none: {index.files.place}")
        sizes = {name: index.shard_sizes for name, index in indexes.items()}
        mixture = Mixture({name: weights[name] for name in indexes}, sizes, seed, size_power)
        ahead = Ahead(indexes, mixture, root.prefetcher) if root.prefetcher is not None else None
        return Stream(indexes, mixture, texts_per_image=texts_per_image, max_tokens=max_tokens, ahead=ahead)

    def draw(self, position: int, attempt: int = 0) -> Item:
        """The sample at `position`, whose words its plan has; with `attempt` above 0, the one that stands in for it
        after so many failures, and its words.

        Raises `ShardError` where the shard does not hold what its index says, `OSError` where it cannot be read.
        """
        place = self.mixture.replacement(position, attempt) if attempt else self.mixture.at(position)
        words = self._checked([place], self._words(place)) if attempt else None
        return Item(position, *self.indexes[place.source].image(place.sample), words)

    def micro_batches(self, start_position: int, *, batch: int, rank: int = 0, world: int = 1) -> Iterator[Plan]:
        """Without end: this rank's part of the global micro-batches of `batch` samples from `start_position` on.

        Rank r of W gets positions [s + r batch / W, s + (r + 1) batch / W). Raises `ValueError` where the world does
        not divide the batch or the rank is not in the world.
        """
        if batch < 1 or world < 1 or batch % world != 0:
            raise ValueError(f"expected a global micro-batch that {world} ranks divide, found {batch}")
        if not 0 <= rank < world or start_position < 0:
            raise ValueError(f"expected a rank of {world} and a position from 0, found {rank} and {start_position}")
        return self._micro_batches(start_position, batch, rank, batch // world)

    def _micro_batches(self, start: int, batch: int, rank: int, share: int) -> Iterator[Plan]:
        while True:
            if self.ahead is not None:
                self.ahead.reach(start, max(0, start - _BEHIND * batch))
            places = [self.mixture.at(position) for position in range(start, start + batch)]
            mine = slice(rank * share, (rank + 1) * share)
            own = places[mine]
            words = self._checked(own, join(self._words(place) for place in own))
            longest = [int(Numbers.of(words).tokens.max()), *map(self._longest_text, places[: mine.start])]
            longest += map(self._longest_text, places[mine.stop :])
            first = start + mine.start
            yield Plan(tuple(range(first, first + share)), bucket(min(self.max_tokens, max(longest))), words)
            start += batch

    def _words(self, place: Place) -> Words:
        """Of the texts that the sample shows."""
        return self.indexes[place.source].words(place.sample, place.epoch, self.texts_per_image)

    def _longest_text(self, place: Place) -> int:
        """Tokens of the longest text that the sample shows."""
        tokens = self.indexes[place.source].tokens(place.sample).tolist()
        return max(tokens[t] for t in choose_texts(len(tokens), place.epoch, self.texts_per_image))

    def _checked(self, places: Sequence[Place], words: Words) -> Words:
        """`words` of samples. Raises `ShardError` where they cannot be."""
        if (found := fault(words)) is not None:
            place = places[found[0]]
            index = self.indexes[place.source]
            raise ShardError(
                f"expected {found[1]}, found others: {index.key(place.sample)}, {index.files.place}/{INDEX}"
            )
        return words
