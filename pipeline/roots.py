"""Where a run's datasets are, by its configuration."""

from pathlib import Path

from bitgen.arrival import has_secrets
from bitgen.training.config import DataConfig
from shards.remote.cache import Cache
from shards.remote.store import below
from shards.root import Root, is_remote


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
