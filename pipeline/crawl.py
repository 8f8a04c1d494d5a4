"""URL lists become image files, through img2dataset; what became of every URL is kept.

A crawl asks for every URL that is not settled, in a round of its own; stopped at any moment, what it had is settled and
the next crawl asks for the rest. What was left alone because its host rests is asked for in a further round.
`pipeline/crawling/crawled.py` says what lies where, and finds it; `pipeline/crawling/worker.py` is what runs in the
workers; `pipeline/crawling/distributors.py` where they run.
"""

import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bitgen.disk import room_for
from bitgen.progress import progress
from pipeline.crawling.crawled import (
    KEPT,
    LEFT_ALONE,
    NOT_CRAWLED,
    SHARD_DIGITS,
    Crawled,
    CrawlError,
    is_text,
    next_round,
    settle_stopped,
)
from pipeline.crawling.distributors import DISTRIBUTORS
from pipeline.crawling.manners import Crawling, Manners
from pipeline.crawling.worker import Shard, ShardWorker
from pipeline.files import locked
from pipeline.manifest import Source
from pipeline.nearest import hint
from pipeline.rows import url_hash

__all__ = ["CrawlError", "CrawlSettings", "Crawled", "Manners", "crawl", "settings_for"]

log = logging.getLogger(__name__)

FINAL = ("opted_out", "private_address", "bad_url")
"""Outcomes that another try would not and should not change."""


@dataclass(frozen=True)
class CrawlSettings:
    """How a crawl works, apart from its manners. Raises `ValueError` for what cannot be right."""

    manners: Manners = field(default_factory=Manners)
    max_pixels: int = Crawling.max_pixels
    processes: int = 2
    threads: int = Crawling.threads
    """In each process."""
    per_shard: int = Crawling.per_shard
    distributor: str = "multiprocessing"
    """`multiprocessing`, or img2dataset's `ray` or `pyspark` on a cluster that shares the folder."""

    def __post_init__(self) -> None:
        if self.distributor not in DISTRIBUTORS:
            close = hint(self.distributor, DISTRIBUTORS)
            raise ValueError(f"expected a distributor of {', '.join(DISTRIBUTORS)}, found {self.distributor!r}{close}")
        if min(self.processes, self.threads, self.per_shard, self.max_pixels) < 1:
            raise ValueError(f"expected processes, threads, per_shard and max_pixels of 1 or more, found {self}")


def settings_for(
    source: Source,
    *,
    processes: int,
    threads: int | None = None,
    distributor: str = "multiprocessing",
    private: Sequence[str] = (),
) -> CrawlSettings:
    """The settings of a source's manifest, with what is known of the machine.

    Args:
        processes: which share the manifest's `per_host` between them.
        threads: in each; None: as the manifest says.
        private: `host:port` that may be asked although they are not public.
    """
    asked = source.crawling
    manners = {each.name: getattr(asked, each.name) for each in fields(Manners)}
    return CrawlSettings(
        replace(Manners(**manners), per_host=max(1, asked.per_host // processes), private=tuple(private)),
        asked.max_pixels,
        processes,
        threads or asked.threads,
        asked.per_shard,
        distributor,
    )


def crawl(
    urls: Iterable[str], folder: Path, settings: CrawlSettings | None = None, retry_failed: bool = False
) -> Counter[str]:
    """Bring every URL to an outcome; returns how many ended in which, `kept` among them.

    Where hosts rest, it waits for the last of them and asks again for what was left alone, for as long as that brings
    images; what is `left_alone` then, the next call asks for.

    Args:
        urls: each is asked for once, however often it stands there. Settled ones are not asked for again. What is no
            text (lone surrogates) is passed over.
        folder: the source's first image root.
        retry_failed: also ask again for those that gave no image, but were not refused on principle, and for those
            whose file is lost.

    Raises `CrawlError`, `BusyError`, `OSError`. Stopped at any moment, the next call goes on with what is left.
    """
    settings = settings or CrawlSettings()
    with locked(folder):
        settle_stopped(folder)
        wanted: set[int] = set()
        round_ = next_round(folder).absolute()
        shards = _listed(_open_ones(urls, Crawled(folder), wanted, retry_failed), round_, settings.per_shard)
        hashes = np.fromiter(wanted, np.int64, len(wanted))
        wanted.clear()  # 80 bytes a URL, through all of the crawl
        while shards and _work(round_, shards, settings) and (left := list(_left_alone(round_))):
            _wait_for_hosts(left)
            round_ = next_round(folder).absolute()
            shards = _listed((url for url, _ in left), round_, settings.per_shard)
        outcomes = Crawled(folder).outcomes(hashes)
    if outcomes[NOT_CRAWLED]:
        raise CrawlError(
            f"expected an outcome for each of {len(hashes):,} urls, found {outcomes[NOT_CRAWLED]:,} without: {folder}"
        )
    return outcomes


def _open_ones(urls: Iterable[str], crawled: Crawled, wanted: set[int], retry_failed: bool) -> Iterator[str]:
    """Those to ask for; the `url_hash` of every one, open or not, goes into `wanted`."""
    for url in urls:
        hashed = url_hash(url)
        if hashed in wanted or not is_text(url):
            continue
        wanted.add(hashed)
        outcome = crawled.outcome(hashed)
        has_failed = outcome not in (KEPT, *FINAL) or (retry_failed and crawled.has_lost(hashed))
        if outcome in (NOT_CRAWLED, LEFT_ALONE) or (retry_failed and has_failed):
            yield url


def _listed(urls: Iterator[str], round_: Path, per_shard: int) -> list[Shard]:
    """The round's shards, each with its list on the disk; none where there is nothing to ask for."""
    shards: list[Shard] = []
    while batch := list(itertools.islice(urls, per_shard)):
        round_.mkdir(exist_ok=True)
        path = round_ / f"{len(shards):0{SHARD_DIGITS}d}.urls"
        table = pa.table({"url": pa.array(batch, pa.string())})
        with room_for(path), pa.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table)
        shards.append((len(shards), str(path)))
    return shards


def _left_alone(round_: Path) -> Iterator[tuple[str, datetime]]:
    """The URLs of a round whose hosts rest, and until when."""
    for path in sorted(round_.glob("*.parquet")):
        is_left = pc.field("outcome") == LEFT_ALONE
        table = pq.read_table(path, columns=["url", "error_message"], filters=is_left)
        for url, error in zip(table["url"].to_pylist(), table["error_message"].to_pylist(), strict=True):
            yield url, datetime.fromisoformat(error.split()[2])  # left_alone: until TIME for HOST


def _wait_for_hosts(left: Sequence[tuple[str, datetime]]) -> None:
    until = max(until for _, until in left)
    wait_s = max(0.0, (until - datetime.now(UTC)).total_seconds()) + 1.0  # the end is stated in whole seconds
    log.info("%s urls wait for hosts that rest: asked again in %.0f s, at %s", f"{len(left):,}", wait_s, until)
    time.sleep(wait_s)


def _work(round_: Path, shards: Sequence[Shard], settings: CrawlSettings) -> int:
    """Bring every URL of a round's shards to an outcome; returns how many are kept. Raises `CrawlError`, `OSError`."""
    manners, last = settings.manners, pa.ipc.open_file(shards[-1][1]).read_all()
    total = (len(shards) - 1) * settings.per_shard + len(last)
    log.info("asking for %s urls as %r", f"{total:,}", manners.user_agent)
    if not manners.names_contact:
        log.warning("the user_agent names no place where you can be reached: add one under [crawl] in the manifest")
    worker = ShardWorker(round_, manners, settings.max_pixels, settings.threads, settings.per_shard)
    done = DISTRIBUTORS[settings.distributor](worker, shards, settings.processes)
    asked = kept = 0
    with contextlib.closing(done), progress("crawling", total, "urls") as counter:
        for number, _ in done:
            outcomes = pq.read_table(round_ / f"{number:0{SHARD_DIGITS}d}.parquet", columns=["outcome"])["outcome"]
            asked, kept = asked + len(outcomes), kept + outcomes.to_pylist().count(KEPT)
            counter.set_postfix_str(f"{kept:,} kept")
            counter.update(len(outcomes))
    log.info("%s urls are settled, %s images kept: %s", f"{asked:,}", f"{kept:,}", round_)
    return kept
