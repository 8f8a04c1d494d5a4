"""Where a run's datasets are, by its configuration."""

from pathlib import Path

from bitgen.arrival import has_secrets
from bitgen.training.config import DataConfig, TrainConfig
from shards.remote.cache import Cache
from shards.remote.store import below
from shards.root import Root, is_remote
from shards.stream import Stream


def open_root(data: DataConfig, place: str | Path | None = None) -> Root:
    """The datasets below shards/ in `place`, a data folder or URL; by default in that of the configuration.

    Raises `ValueError` for a URL with a secret in it, which would stand in messages.
    """
    place = str(data.root if place is None else place)
    if has_secrets(place):
        raise ValueError("expected a URL without user, password and query, found one (not shown)")
    cache = None
    if is_remote(place):
        cache = Cache(Path(data.cache), int(data.cache_gb * 1e9), verify=data.verify_shards)
    return Root(below(place, "shards"), cache, verify=data.verify_shards)


def open_mixture(root: Root, config: TrainConfig) -> Stream:
    """The datasets of `data.mixture` below a root, in their order. Raises as `Stream.open`."""
    return Stream.open(
        root,
        config.data.mixture,
        seed=config.run.seed,
        texts_per_image=config.data.texts_per_image,
        max_tokens=config.data.max_tokens,
        size_power=config.data.size_power,
    )
