"""Lists of captioned URLs: rows of one URL become one candidate, at the place of the first."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from hashlib import blake2b
from urllib.parse import urlsplit

import numpy as np

from pipeline.annotations.boxes import RowError
from pipeline.annotations.gathering import Gathering
from pipeline.annotations.ids import ids_of_url
from pipeline.manifest import Source
from pipeline.rows import Candidate

Link = tuple[str, str, object]
"""(row label, URL, caption)."""


def link_candidates(source: Source, prefix: str, links: Callable[[], Iterator[Link]]) -> Iterator[Candidate]:
    """One candidate per URL, in file order; its key is `prefix` and the number of its first row.

    `links` is gone through three times, so that only repeated URLs are held in memory, never millions of captions.
    """
    hashes = array("q", (_hash(url) for _, url, _ in links()))
    values, counts = np.unique(np.frombuffer(hashes, dtype=np.int64), return_counts=True)
    repeated = set(values[counts > 1].tolist())
    rows: dict[str, list[Link]] = defaultdict(list)
    for hash, link in zip(hashes, links(), strict=True):
        if hash in repeated:
            rows[link[1]].append(link)
    for number, (hash, link) in enumerate(zip(hashes, links(), strict=True)):
        url = link[1]
        if hash not in repeated:
            yield _candidate(source, f"{prefix}-{number:09d}", url, [link])
        elif url in rows:
            yield _candidate(source, f"{prefix}-{number:09d}", url, rows.pop(url))


def check_url(url: str) -> None:
    """Raises `RowError` as `bad_url` for what is no http or https address."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not any(c.isspace() for c in url)
    except ValueError:
        good = False
    if not good:
        raise RowError("bad_url", f"expected an http or https address, found {url[:200]!r}")


def _candidate(source: Source, key: str, url: str, rows: list[Link]) -> Candidate:
    gathering = Gathering(source)
    for label, _, caption in rows:
        try:
            check_url(url)
            gathering.add(label, caption)
        except RowError as bad:
            gathering.refuse(label, bad)
    return gathering.candidate(key, url, ids_of_url(url), url=url)


def _hash(url: str) -> int:
    return int.from_bytes(blake2b(url.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True)
