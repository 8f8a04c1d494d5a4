"""Where each sample lies: `index.arrow`, read in blocks of rows, and `dataset.json`, which is written last."""

import json
import mmap
import os
import stat
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgen.record import Sample
from shards.columns import BLOCK_ROWS, INDEX, SCHEMA, Block, Columns, write_index, write_index_tables
from shards.format import FORMAT_VERSION, Entry, ShardError, read_sample, shard_name, shard_number

__all__ = ["DATASET", "INDEX", "SCHEMA", "ShardIndex", "write_index", "write_index_tables"]

DATASET = "dataset.json"

_BLOCKS = 64
"""Blocks held at once, 4 MB: the stream shows the samples of 8 shards at a time, some 24,000, in a random order."""
_OPEN_SHARDS = 64
"""Maps held at once: each holds a file handle, and a process has 1,024 of them; the stream reads 8 shards at a time."""
_EXTENSIONS = ("jpg", "png", "webp")


class ShardIndex:
    """A dataset's folder of shards, open for reading. Safe to use from several threads.

    Little of it lives in this process, however many samples there are: rows are read in blocks as they are asked for,
    and checked then; shards are memory-mapped.
    """

    def __init__(self, folder: Path, dataset: Mapping[str, Any], columns: Columns) -> None:
        """Use `ShardIndex.open`, which checks what it hands over here."""
        self.folder = folder
        self.dataset = dataset
        self.name: str = dataset["name"]
        self.shard_sizes: tuple[int, ...] = tuple(shard["samples"] for shard in dataset["shards"])
        """Samples of each shard."""
        self._ends = np.array([*accumulate(self.shard_sizes)], dtype=np.int64)
        self._bytes = np.array([shard["bytes"] for shard in dataset["shards"]], dtype=np.int64)
        self._columns = columns
        self._block = lru_cache(maxsize=_BLOCKS)(self._read_block)
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._lock = Lock()

    @staticmethod
    def open(folder: str | Path) -> "ShardIndex":
        """Open a built dataset; how long it takes depends on the number of shards, not of samples.

        Raises `ShardError` where the folder is unfinished, of another format version, or incomplete, and where
        `index.arrow` is not ours or not of as many samples. A row is checked when it is asked for: each method that
        takes one raises `ShardError` where what the index says of it, or of a row near by, cannot be.
        """
        folder = Path(folder)
        dataset = _read_dataset(folder / DATASET)
        columns = Columns(folder / INDEX)
        if columns.rows != dataset["samples"]:
            raise ShardError(f"expected {dataset['samples']} samples, found {columns.rows}: {columns.path}")
        for shard in dataset["shards"]:
            _check_size(folder, shard)
        return ShardIndex(folder, dataset, columns)

    def __len__(self) -> int:
        return self._columns.rows

    def key(self, i: int) -> str:
        """Of sample `i`. Raises `IndexError` for a sample that is not there, as all that follow do."""
        block, row = self._find(i)
        return self._text(block, "key", row)

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """[samples]: equal where two samples show one photograph. Read from the file each time."""
        return self._columns.column("image_id")

    def tokens(self, i: int) -> NDArray[np.uint16]:
        """Tokens of each text of sample `i`, both end-of-texts included, at most 256."""
        block, row = self._find(i)
        return block.ragged["tokens"][row]

    def phrases(self, i: int) -> NDArray[np.uint16]:
        """Phrases of each text of sample `i`."""
        block, row = self._find(i)
        return block.ragged["phrases"][row]

    def entry(self, i: int) -> Entry:
        """Row `i` as a value."""
        block, row = self._find(i)
        extension = self._text(block, "extension", row)
        if extension not in _EXTENSIONS:
            raise ShardError(f"expected one of {', '.join(_EXTENSIONS)}, found {extension!r}: {self._name(block, row)}")
        return Entry(
            key=self._text(block, "key", row),
            extension=extension,
            tokens=tuple(block.ragged["tokens"][row].tolist()),
            phrases=tuple(block.ragged["phrases"][row].tolist()),
            **{name: int(column[row]) for name, column in block.numbers.items()},
        )

    def read(self, i: int) -> tuple[Sample, bytes]:
        """Sample `i` and its encoded image.

        Raises `ShardError`, naming shard and member, where the shard does not hold what the index says; `OSError`
        where it cannot be opened.
        """
        entry = self.entry(i)
        return read_sample(self._map(entry.shard), entry, str(self.folder / shard_name(entry.shard)))

    def check(self) -> None:
        """Check every row at once. Raises `ShardError` for the first that cannot be."""
        self._columns.validate()
        for number in range(self._columns.blocks()):
            self._read_block(number)

    def _find(self, i: int) -> tuple[Block, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"expected a sample within {len(self)}, found {i}: {self.folder}")
        number, row = divmod(i, BLOCK_ROWS)
        return self._block(number), row

    def _read_block(self, number: int) -> Block:
        block = self._columns.block(number)
        numbers, texts = block.numbers, block.ragged["tokens"].lengths()
        shards = np.searchsorted(self._ends, block.first + np.arange(len(texts)), side="right")
        self._refuse(block, numbers["shard"] != shards, "the shard that dataset.json has it in", "shard")
        for member in ("image", "json"):
            offset, size = numbers[f"{member}_offset"], numbers[f"{member}_size"]
            wrong = (offset < 0) | (size <= 0) | (offset > self._bytes[shards] - size)
            self._refuse(block, wrong, f"the {member} member within its shard", f"{member}_offset", f"{member}_size")
        sides = (numbers["width"] < 1) | (numbers["height"] < 1)
        self._refuse(block, sides, "a size in pixels", "width", "height")
        self._refuse(block, numbers["boxes"] < 0, "a number of boxes", "boxes")
        self._refuse(
            block, (texts < 1) | (texts != block.ragged["phrases"].lengths()), "tokens and phrases of each text"
        )
        return block

    def _refuse(self, block: Block, wrong: NDArray[np.bool_], expected: str, *columns: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            found = ", ".join(f"{name} {block.numbers[name][row]}" for name in columns) or "others"
            raise ShardError(f"expected {expected}, found {found}: {self._name(block, row)}")

    def _text(self, block: Block, column: str, row: int) -> str:
        try:
            return block.text(column, row)
        except UnicodeDecodeError as error:
            raise ShardError(f"expected {column} as UTF-8, {error}: {self._name(block, row)}") from error

    def _name(self, block: Block, row: int) -> str:
        """Of a row whose columns may be anything."""
        key = block.ragged["key"][row].tobytes()[:100].decode(errors="backslashreplace")
        shard = int(np.searchsorted(self._ends, block.first + row, side="right"))
        return f"{key}, {self.folder / shard_name(shard)}, by {INDEX}"

    def _map(self, shard: int) -> mmap.mmap:
        with self._lock:
            found = self._maps.get(shard)
            if found is None:
                with (self.folder / self.dataset["shards"][shard]["file"]).open("rb") as file:
                    _check_size(self.folder, self.dataset["shards"][shard])  # a map of a shorter file ends the process
                    found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._maps[shard] = found
                if len(self._maps) > _OPEN_SHARDS:
                    # Not closed here: another thread may be copying from it. The last reader's reference closes it.
                    self._maps.popitem(last=False)
            self._maps.move_to_end(shard)
            return found


def _check_size(folder: Path, shard: Mapping[str, Any]) -> None:
    path = os.path.join(folder, shard["file"])  # a Path takes four times as long, and there are thousands
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise ShardError(f"expected a shard of {shard['bytes']} bytes, found none: {path}") from error
    if not stat.S_ISREG(status.st_mode) or status.st_size != shard["bytes"]:
        raise ShardError(f"expected a shard of {shard['bytes']} bytes, found {status.st_size}: {path}")


def _read_dataset(path: Path) -> dict[str, Any]:
    try:
        dataset = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ShardError(f"expected a finished dataset, found no {path.name}: {path.parent}") from error
    except (ValueError, RecursionError) as error:
        raise ShardError(f"expected JSON, {error}: {path}") from error
    version = dataset.get("format_version") if isinstance(dataset, dict) else None
    if version != FORMAT_VERSION:
        raise ShardError(f"expected format_version {FORMAT_VERSION}, found {version!r}: {path}")
    shards = dataset.get("shards")
    if not isinstance(dataset.get("name"), str) or not isinstance(dataset.get("samples"), int):
        raise ShardError(f"expected a name and a number of samples, found {dataset.get('name')!r}: {path}")
    if not isinstance(shards, list) or not all(_is_shard(shard) for shard in shards):
        raise ShardError(f"expected shards with file, samples, bytes and sha256, found {str(shards)[:80]}: {path}")
    for number, shard in enumerate(shards):
        if shard_number(shard["file"]) != number:
            raise ShardError(f"expected {shard_name(number)}, found {shard['file']!r}: {path}")
    if (listed := sum(shard["samples"] for shard in shards)) != dataset["samples"]:
        raise ShardError(f"expected {dataset['samples']} samples in its shards, found {listed}: {path}")
    return dataset


def _is_shard(shard: object) -> bool:
    kinds = {"file": str, "samples": int, "bytes": int, "sha256": str}
    if not isinstance(shard, dict) or any(type(shard.get(name)) is not kind for name, kind in kinds.items()):
        return False
    return 0 <= shard["samples"] < 2**63 and 0 <= shard["bytes"] < 2**63
