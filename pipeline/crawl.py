"""URL lists become image files, through img2dataset; what became of every URL is kept.

A crawl fills a folder round by round. A round is a list of URLs that are not settled yet (`urls.parquet`) and what
img2dataset made of it: `00012/000120034.jpg`, `00012.parquet` with a status per row, `00012_stats.json` when the
shard is finished. A stopped crawl goes on with the round's unfinished shards; failed URLs can be tried again in a
further round. Bytes are kept as they came. `Crawled` finds them, and is what `build.py` locates crawled images with.

img2dataset's parts are put together here rather than by its `download`, which would take over Ctrl-C, start a
process for Weights & Biases, decode every image, and leave no place for `pipeline/opener.py`.
"""

import contextlib
import io
import logging
import math
import os
import re
import shutil
import signal
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from pipeline.files import locked, read_json, replacing, write_json
from pipeline.opener import Manners, PoliteOpener

log = logging.getLogger(__name__)

OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex")
"""Directives of the `X-Robots-Tag` header under which an image is left alone."""
USER_AGENT_TOKEN = "bitgen"
"""The name under which `X-Robots-Tag: bitgen: noai` speaks to this crawler alone."""
KEPT = "kept"
_FINAL = ("opted_out", "private_address", "bad_url")
"""Outcomes that another try would not and should not change."""
_ROUND = "round.json"
_DISTRIBUTORS = ("multiprocessing", "pyspark", "ray")


class CrawlError(RuntimeError):
    """A crawl cannot go on: no disk, a lost worker, a folder of something else."""


@dataclass(frozen=True)
class CrawlSettings:
    """How a crawl works, apart from its manners."""

    manners: Manners = field(default_factory=Manners)
    max_pixels: int = 64 << 20
    processes: int = 2
    threads: int = 32
    """In each process."""
    per_shard: int = 5000
    """URLs of a shard, which is what a stopped crawl does again."""
    distributor: str = "multiprocessing"
    """`multiprocessing`, or img2dataset's `pyspark` or `ray` on a cluster that shares the folder."""

    def __post_init__(self) -> None:
        if self.distributor not in _DISTRIBUTORS:
            raise ValueError(f"expected a distributor of {', '.join(_DISTRIBUTORS)}, found {self.distributor!r}")
        if min(self.processes, self.threads, self.per_shard, self.max_pixels) < 1:
            raise ValueError(f"expected processes, threads, per_shard and max_pixels of 1 or more, found {self}")


def crawl(
    urls: Iterable[str], folder: Path, settings: CrawlSettings | None = None, retry_failed: bool = False
) -> Counter[str]:
    """Bring every URL to an outcome; returns how many ended in which, `kept` among them.

    Args:
        urls: each is asked for once, however often it stands there. Settled ones are not asked for again.
        folder: the source's first image root.
        retry_failed: also ask again for those that gave no image, but were not refused on principle.

    Raises `CrawlError`, `BusyError`. Stopped at any moment, the next call goes on.
    """
    settings = settings or CrawlSettings()
    wanted = list(dict.fromkeys(urls))
    with locked(folder):
        for round_ in _rounds(folder):
            _finish(round_, settings)
        settled = Crawled(folder)
        todo = [url for url in wanted if _is_open(settled.find(url), retry_failed)]
        if todo:
            round_ = folder / f"round-{len(_rounds(folder)):04d}"
            with replacing(round_ / "urls.parquet") as temporary:
                pq.write_table(pa.table({"url": pa.array(todo, pa.string())}), temporary)
            write_json(round_ / _ROUND, {"urls": len(todo), "per_shard": settings.per_shard})
            _finish(round_, settings)
            settled = Crawled(folder)
    outcomes = Counter(_outcome(settled.find(url)) for url in wanted)
    if outcomes["not_crawled"]:
        raise CrawlError(
            f"expected an outcome for each of {len(wanted):,} urls, found {outcomes['not_crawled']:,} without"
            f" (a full disk?): {folder}"
        )
    return outcomes


_PLACE = np.dtype([("hash", "i8"), ("round", "i4"), ("shard", "i4"), ("outcome", "i4"), ("key", "S12")])


class Crawled:
    """Where the image of every crawled URL lies, or why there is none; some 40 bytes a URL."""

    def __init__(self, folder: Path) -> None:
        """Reads the rounds of a crawl in `folder`; there may be none."""
        self._rounds = _rounds(folder)
        codes = {KEPT: 0}
        parts = [np.empty(0, _PLACE)]
        for number, round_ in enumerate(self._rounds):
            for shard in sorted(_finished_shards(round_)):
                table = pq.read_table(round_ / f"{shard:05d}.parquet", columns=["url", "key", "error_message"])
                rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
                found = [
                    (_hash(url), number, shard, codes.setdefault(outcome_of(error), len(codes)), key.encode())
                    for url, key, error in rows
                ]
                parts.append(np.array(found, _PLACE))
        places = np.concatenate(parts)
        # Stable, so that of a URL that was tried again the last try is the last of its equals.
        self._places = places[np.argsort(places["hash"], kind="stable")]
        self._outcomes = list(codes)

    def find(self, url: str) -> Path | str:
        """The file of a URL's image, or the outcome for its rows: `http_404`, `timeout`, ..., `not_crawled`."""
        wanted = _hash(url)
        row = int(np.searchsorted(self._places["hash"], wanted, side="right")) - 1
        if row < 0 or self._places["hash"][row] != wanted:
            return "not_crawled"
        place = self._places[row]
        outcome = self._outcomes[place["outcome"]]
        if outcome != KEPT:
            return outcome
        file = self._rounds[place["round"]] / f"{place['shard']:05d}" / f"{place['key'].decode()}.jpg"
        return file if file.is_file() else "no_image"


def outcome_of(error: str | None) -> str:
    """The outcome that img2dataset's error message stands for; `kept` for none."""
    if error is None:
        return KEPT
    named = re.match(r"([a-z][a-z0-9_]*): ", error)
    if named:
        return named[1]
    return "opted_out" if "X-Robots-Tag" in error else "crawl_error"


@dataclass(frozen=True)
class KeepBytes:
    """In the place of img2dataset's resizer: bytes as they came, when their header is an image's of a fair size."""

    max_pixels: int

    def __call__(self, img_stream: io.BytesIO, _boxes: object = None) -> tuple[Any, ...]:
        """(bytes, width, height, width, height, None), or five times None and the reason."""
        try:
            with Image.open(img_stream) as image:
                width, height = image.size
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            return (None,) * 5 + (f"unknown_format: {error}",)
        except Image.DecompressionBombError as error:
            return (None,) * 5 + (f"too_large: {error}",)
        if width * height > self.max_pixels:
            return (None,) * 5 + (f"too_large: {width}x{height} pixels, {self.max_pixels} allowed",)
        return img_stream.getvalue(), width, height, width, height, None


@dataclass(frozen=True)
class ShardWorker:
    """What runs in img2dataset's worker processes: its downloader, behind our opener."""

    downloader: Callable[[tuple[int, str]], tuple[bool, tuple[int, str]]]
    manners: Manners

    def __call__(self, row: tuple[int, str]) -> tuple[bool, tuple[int, str]]:
        """One shard; the opener is installed once per process."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
        if _installed.get("manners") != self.manners:
            urllib.request.install_opener(PoliteOpener(self.manners))
            _installed["manners"] = self.manners
        with contextlib.redirect_stdout(sys.stderr):
            return self.downloader(row)


_installed: dict[str, Manners] = {}


def _finish(round_: Path, settings: CrawlSettings) -> None:
    """Run img2dataset over the shards of a round that are not finished."""
    stated = read_json(round_ / _ROUND)
    if stated is None:
        shutil.rmtree(round_)  # stopped before its first shard
        return
    per_shard, shards = int(stated["per_shard"]), math.ceil(int(stated["urls"]) / int(stated["per_shard"]))
    done = _finished_shards(round_)
    if len(done) == shards:
        return
    log.info("crawling %s: %d of %d shards are done", round_, len(done), shards)
    for shard in set(range(shards)) - done:
        (round_ / f"{shard:05d}_stats.json").unlink(missing_ok=True)
        shutil.rmtree(round_ / f"{shard:05d}", ignore_errors=True)
    temporary = round_ / "_tmp"
    temporary.mkdir(exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):
        _run_img2dataset(round_, temporary, per_shard, done, settings)
    shutil.rmtree(temporary, ignore_errors=True)
    done = _finished_shards(round_)
    if len(done) != shards:
        missing = sorted(set(range(shards)) - done)
        raise CrawlError(f"expected {shards} shards, found {len(done)}, without {missing[:5]} (a full disk?): {round_}")


def _run_img2dataset(round_: Path, temporary: Path, per_shard: int, done: set[int], settings: CrawlSettings) -> None:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # img2dataset imports it, and it asks the network for updates
    from img2dataset import distributor
    from img2dataset.downloader import Downloader
    from img2dataset.reader import Reader
    from img2dataset.writer import FilesSampleWriter

    reader = Reader(
        url_list=str(round_ / "urls.parquet"),
        input_format="parquet",
        url_col="url",
        caption_col=None,
        verify_hash_col=None,
        verify_hash_type=None,
        save_additional_columns=None,
        number_sample_per_shard=per_shard,
        done_shards=done,
        tmp_path=str(temporary.absolute()),
    )
    downloader = Downloader(
        sample_writer_class=FilesSampleWriter,
        resizer=KeepBytes(settings.max_pixels),
        thread_count=settings.threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(round_.absolute()),
        column_list=reader.column_list,
        timeout=settings.manners.timeout_s,
        number_sample_per_shard=per_shard,
        oom_shard_count=5,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,  # the opener tries again, and only where that can help
        user_agent_token=USER_AGENT_TOKEN,
        disallowed_header_directives=OPT_OUTS,
    )
    run = getattr(distributor, f"{settings.distributor}_distributor")
    run(settings.processes, ShardWorker(downloader, settings.manners), reader, 1000, 1)


def _rounds(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("round-[0-9][0-9][0-9][0-9]"))


def _finished_shards(round_: Path) -> set[int]:
    """Numbers of the shards whose report is whole: written last, after every image and status."""
    found: set[int] = set()
    for path in round_.glob("[0-9]*_stats.json"):
        stats, shard = read_json(path), int(path.name.partition("_")[0])
        try:
            rows = pq.read_metadata(round_ / f"{shard:05d}.parquet").num_rows
        except (OSError, pa.ArrowInvalid):
            continue
        if stats is not None and stats.get("count") == rows:
            found.add(shard)
    return found


def _is_open(found: Path | str, retry_failed: bool) -> bool:
    return found == "not_crawled" or (retry_failed and isinstance(found, str) and found not in _FINAL)


def _outcome(found: Path | str) -> str:
    return found if isinstance(found, str) else KEPT


def _hash(url: str) -> int:
    return int.from_bytes(blake2b(url.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True)
