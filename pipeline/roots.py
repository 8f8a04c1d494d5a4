"""Where a run's datasets are, by its configuration."""

from pathlib import Path

from bitgen.training.config import DataConfig
from shards.remote.cache import Cache
from shards.remote.store import below
from shards.root import Root, is_remote


def open_root(data: DataConfig, place: str | Path | None = None) -> Root:
    """The datasets below shards/ in `place`, a data folder or URL; by default in that of the configuration."""
    place = data.root if place is None else place
    cache = None
    if is_remote(place):
        cache = Cache(Path(data.cache), int(data.cache_gb * 1e9), verify=data.verify_shards)
        return Root(below(str(place), "shards"), cache)
    return Root(Path(place) / "shards", verify=data.verify_shards)
