"""Lists of captioned URLs: rows of one URL become one candidate, at the place of the first."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import numpy as np

from pipeline.annotations.boxes import RowError
from pipeline.annotations.gathering import Gathering, has_utf8
from pipeline.annotations.ids import ids_of_url
from pipeline.manifest import Source
from pipeline.rows import Candidate, url_hash

Link = tuple[str, str, object]
"""(row label, URL, caption)."""
Links = Callable[[], Iterator[Link]]
"""Goes through every row of a source, in an order that is the same at every call."""


def link_candidates(source: Source, prefix: str, links: Links) -> Iterator[Candidate]:
    """One candidate per URL, in file order; its key is `prefix` and the number of its first row.

    `links` is gone through three times, so that only repeated URLs are held in memory, never millions of captions.
    """
    hashes, repeated = _hashes(links)
    rows: dict[str, list[Link]] = defaultdict(list)
    for hash, link in zip(hashes, links(), strict=True) if repeated else ():
        if hash in repeated:
            rows[link[1]].append(link)
    for number, (hash, link) in enumerate(zip(hashes, links(), strict=True)):
        url = link[1]
        if hash not in repeated:
            yield _candidate(source, f"{prefix}-{number:09d}", url, [link])
        elif url in rows:
            yield _candidate(source, f"{prefix}-{number:09d}", url, rows.pop(url))


def link_ids(links: Links) -> Iterator[tuple[str, ...]]:
    """The ids of each of `link_candidates`' candidates."""
    hashes, repeated = _hashes(links)
    seen: set[str] = set()
    for hash, (_, url, _) in zip(hashes, links(), strict=True):
        if hash not in repeated or url not in seen:
            yield ids_of_url(url)
        if hash in repeated:
            seen.add(url)


def check_url(url: str) -> None:
    """Raises `RowError` as `bad_url` for what is no http or https address, or has no UTF-8 form."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and url.split() == [url] and has_utf8(url)
    except ValueError:
        good = False
    if not good:
        raise RowError("bad_url", f"expected an http or https address, found {url[:200]!r}")


def _hashes(links: Links) -> tuple["array[int]", set[int]]:
    """The hash of every row's URL, and those that more than one row has."""
    hashes = array("q", (url_hash(url) for _, url, _ in links()))
    found = np.sort(np.array(hashes, dtype=np.int64))
    return hashes, set(found[1:][found[1:] == found[:-1]].tolist())


def _candidate(source: Source, key: str, url: str, rows: list[Link]) -> Candidate:
    gathering = Gathering(source)
    try:
        check_url(url)
        for label, _, caption in rows:
            gathering.add(label, caption)
    except RowError as bad:
        for label, _, _ in rows:
            gathering.refuse(label, bad)
    return gathering.candidate(key, url, ids_of_url(url), url=url)
