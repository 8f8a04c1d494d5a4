"""What a crawl leaves on the disk: image files, and what became of every URL.

A crawl fills a folder round by round, and a round shard by shard. While a shard is at work its rows stand in a journal,
each written when the row's image is whole on the disk; when the shard is done, or when the next crawl finds what a
stopped one left, the journal becomes a table.

round-0000/00012.urls           what to ask for, an Arrow file; gone when the shard is done
round-0000/00012.jsonl          the journal, while the shard is at work
round-0000/00012.parquet        url, hash, key, status, outcome, error_message, size_bytes; in order of arrival
round-0000/00012/000120034.jpg  the bytes as they came, whatever their format
"""

import contextlib
import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.files import replacing
from pipeline.rows import url_hash

log = logging.getLogger(__name__)

KEPT = "kept"
NOT_CRAWLED = "not_crawled"
LEFT_ALONE = "left_alone"
"""Of a URL that was not asked for, because its host rests; it is still open."""
SHARD_DIGITS = 5
"""Of a shard's number, at the beginning of its files' names and of its images'."""
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("url", "key", "status", "outcome", "error_message")]
    + [(name, pa.int64()) for name in ("hash", "size_bytes")]
)
_JOURNAL = {"url": str, "key": str, "status": str, "error_message": str | None, "size_bytes": int}
"""The fields of a journal's row."""
_KEY = re.compile(r"[0-9]{1,18}")
_PLACE = np.dtype([("hash", "i8"), ("key", "i8"), ("size_bytes", "i8"), ("round", "i2"), ("outcome", "i2")])


class CrawlError(RuntimeError):
    """A crawl cannot go on, or cannot be read: a lost worker, no cluster, a damaged table."""


class Crawled:
    """Where the image of every crawled URL lies, or why there is none; 36 bytes a URL.

    Of a URL that was tried again, the last try counts. Of a shard that is still at work nothing is seen.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the rounds of a crawl in `folder`; there may be none. Raises `CrawlError` for a damaged one."""
        found = rounds(folder)
        self._folders = [str(round_) for round_ in found]
        self._digits = [0] * len(found)
        self._outcomes = [KEPT]
        parts = [np.empty(0, _PLACE)]
        for number, round_ in enumerate(found):
            parts += [self._read(path, number) for path in sorted(round_.glob("*.parquet"))]
        places = np.concatenate(parts)
        del parts
        places = places[np.argsort(places["hash"], kind="stable")]
        is_last = np.append(places["hash"][1:] != places["hash"][:-1], True)[: len(places)]
        self._places = places if is_last.all() else places[is_last]
        self._hashes = np.ascontiguousarray(self._places["hash"])

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, url: str) -> Path | str:
        """The file of a URL's image, or the outcome for its rows: `http_404`, `timeout`, ..., `not_crawled`."""
        row = self._row(url_hash(url))
        if row is None:
            return NOT_CRAWLED if is_text(url) else "bad_url"
        outcome = self._outcomes[self._places["outcome"].item(row)]
        return (self._file(row) or "no_image") if outcome == KEPT else outcome

    def outcome(self, hashed: int) -> str:
        """The outcome for a `url_hash`, whether or not its file is still there."""
        row = self._row(hashed)
        return NOT_CRAWLED if row is None else self._outcomes[self._places["outcome"].item(row)]

    def has_lost(self, hashed: int) -> bool:
        """Whether the image of a `url_hash` was kept, and its file is gone or has another size."""
        row = self._row(hashed)
        return row is not None and self.outcome(hashed) == KEPT and self._file(row) is None

    def outcomes(self, hashed: NDArray[np.int64]) -> Counter[str]:
        """How many of distinct `url_hash`es ended in which outcome."""
        rows = np.searchsorted(self._hashes, hashed)
        rows[rows == len(self._hashes)] = 0
        is_known = self._hashes[rows] == hashed if len(self._hashes) else np.zeros(len(hashed), bool)
        counts = np.bincount(self._places["outcome"][rows[is_known]], minlength=len(self._outcomes))
        named = Counter({name: int(count) for name, count in zip(self._outcomes, counts, strict=True) if count})
        return named + Counter({NOT_CRAWLED: int((~is_known).sum())})

    def _row(self, hashed: int) -> int | None:
        row = int(self._hashes.searchsorted(np.int64(hashed)))
        return row if row < len(self._hashes) and self._hashes.item(row) == hashed else None

    def _file(self, row: int) -> Path | None:
        _, key, size_bytes, number, _ = self._places.item(row)
        name = str(key).zfill(self._digits[number])
        path = f"{self._folders[number]}/{name[:SHARD_DIGITS]}/{name}.jpg"
        try:
            is_whole = os.stat(path).st_size == size_bytes
        except OSError:
            return None
        return Path(path) if is_whole else None

    def _read(self, path: Path, number: int) -> NDArray[np.void]:
        table = _table(path)
        places = np.empty(table.num_rows, _PLACE)
        if not len(places):
            return places
        self._digits[number] = len(table["key"][0].as_py())
        encoded = table["outcome"].combine_chunks().dictionary_encode()
        codes = np.array([self._code(outcome) for outcome in encoded.dictionary.to_pylist()], np.int16)
        places["hash"], places["size_bytes"] = table["hash"].to_numpy(), table["size_bytes"].to_numpy()
        places["key"], places["round"] = table["key"].cast(pa.int64()).to_numpy(), number
        places["outcome"] = codes[encoded.indices.to_numpy()]
        return places

    def _code(self, outcome: str) -> int:
        if outcome not in self._outcomes:
            self._outcomes.append(outcome)
        return self._outcomes.index(outcome)


def _table(path: Path) -> pa.Table:
    """What `Crawled` needs of a shard's table."""
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=["hash", "key", "outcome", "size_bytes"])
    except (pa.ArrowException, KeyError) as error:
        raise CrawlError(
            f"expected a table of a crawl, found {error}: {path}; remove it to crawl its urls again"
        ) from error


def rounds(folder: Path) -> Sequence[Path]:
    """The rounds of a crawl, in order."""
    return sorted(folder.glob("round-[0-9][0-9][0-9][0-9]"))


def next_round(folder: Path) -> Path:
    """Where the next round will be; it is not made."""
    last = max((int(path.name.removeprefix("round-")) for path in rounds(folder)), default=-1)
    return folder / f"round-{last + 1:04d}"


def is_text(url: str) -> bool:
    """Whether it can be written down; escapes in a JSON file may make strings that are no Unicode text."""
    try:
        url.encode()
    except UnicodeEncodeError:
        return False
    return True


def outcome_of(error: str | None) -> str:
    """The outcome that an error message of a row stands for; `kept` for none."""
    if error is None:
        return KEPT
    if error.startswith("unknown url type"):  # urllib's, before our opener sees the address
        return "bad_url"
    named = re.match(r"([a-z][a-z0-9_]*): ", error)
    return named[1] if named else "crawl_error"


def settle(round_: Path, shard: str) -> None:
    """Make a journal a table: of its rows those whose image is whole. Other images of the shard are removed."""
    journal, images = round_ / f"{shard}.jsonl", round_ / shard
    sizes: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(images) as entries:  # deleted: all of it is asked again
        sizes = {entry.name: entry.stat().st_size for entry in entries}
    rows = [row for row in _rows(journal) if not row["size_bytes"] or sizes.get(row["file"]) == row["size_bytes"]]
    with replacing(round_ / f"{shard}.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), temporary)
    for name in sizes.keys() - {row["file"] for row in rows if row["size_bytes"]}:
        (images / name).unlink()
    journal.unlink()


def settle_stopped(folder: Path) -> None:
    """Keep what a stopped crawl had done, and remove what it had only begun."""
    for round_ in rounds(folder):
        for journal in sorted(round_.glob("*.jsonl")):
            settle(round_, journal.stem)
        for left in [*round_.glob("*.urls"), *round_.glob("*_stats.json"), *round_.glob(".*.tmp")]:
            left.unlink()
        done = {path.stem for path in round_.glob("*.parquet")}
        for images in round_.iterdir():
            if images.is_dir() and images.name not in done:
                shutil.rmtree(images)
        if not done:
            shutil.rmtree(round_)


def _rows(journal: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal, as rows of the table, and `file`: the name of the image.

    What is no row is passed over, so that its URL is asked for again: a power cut may leave zeros.
    """
    rows: list[dict[str, Any]] = []
    lines = journal.read_bytes().split(b"\n")[:-1]
    for line in lines:
        row = _row(line)
        if row is not None:
            outcome = outcome_of(row["error_message"])
            rows.append(row | {"hash": url_hash(row["url"]), "outcome": outcome, "file": f"{row['key']}.jpg"})
    if len(rows) < len(lines):
        log.warning("%d damaged lines are passed over: %s", len(lines) - len(rows), journal)
    return rows


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not all(isinstance(row.get(name), kind) for name, kind in _JOURNAL.items()):
        return None
    if not is_text(row["url"]) or not _KEY.fullmatch(row["key"]):
        return None
    error = row["error_message"]
    row["error_message"] = error and error.encode("utf-8", "replace").decode()
    return {name: row[name] for name in _JOURNAL}
