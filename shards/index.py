"""Where each sample lies: `index.arrow`, read in blocks of rows, and `dataset.json`, which is written last."""

import json
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bitgen.record import Sample
from shards.columns import BLOCK_ROWS, INDEX, SCHEMA, Block, Columns, write_index, write_index_tables
from shards.files import DATASET, Folder
from shards.format import (
    FORMAT_VERSION,
    Entry,
    ShardError,
    Sliced,
    parse_record,
    read_members,
    read_sample,
    shard_name,
)

__all__ = ["DATASET", "INDEX", "SCHEMA", "ShardIndex", "write_index", "write_index_tables"]

_BLOCKS = 128
"""Blocks held at once, 12 MB: the stream shows the samples of a group of shards, some 16,000 to 40,000, in a random order."""
_EXTENSIONS = ("jpg", "png", "webp", "npy")


class Files(Protocol):
    """The files of a dataset, as `shards.files.Folder` and `shards.remote.store.Store` have them."""

    place: str
    """The folder or URL, as people may see it."""

    def dataset(self) -> bytes:
        """`dataset.json`."""
        ...

    def index(self, name: str) -> Path:
        """Where the index can be opened. Called after `dataset`."""
        ...

    def forget(self, name: str) -> None:
        """Keeps no copy of an index that is not what it should be."""
        ...

    def check(self, shard: Mapping[str, Any]) -> None:
        """Raises `ShardError` where a shard of `dataset.json` cannot be what it says."""
        ...

    def shard(self, shard: Mapping[str, Any], entry: Entry) -> Sliced:
        """A shard of `dataset.json`, at least as far as the members of `entry` go."""
        ...


class ShardIndex:
    """A dataset's shards, open for reading. Safe to use from several threads.

    Little of it lives in this process, however many samples there are: rows are read in blocks as they are asked for,
    and checked then; of a shard is read what is asked for.
    """

    def __init__(self, files: Files, dataset: Mapping[str, Any], columns: Columns) -> None:
        """Use `ShardIndex.open` or `ShardIndex.of`, which check what they hand over here."""
        self.files = files
        self.dataset = dataset
        self.name: str = dataset["name"]
        self.shard_sizes: tuple[int, ...] = tuple(shard["samples"] for shard in dataset["shards"])
        """Samples of each shard."""
        self._ends = np.array([*accumulate(self.shard_sizes)], dtype=np.int64)
        self._bytes = np.array([shard["bytes"] for shard in dataset["shards"]], dtype=np.int64)
        self._columns = columns
        self._block = lru_cache(maxsize=_BLOCKS)(self._read_block)
        self._where = [f"{files.place}/{shard_name(number)}" for number in range(len(self.shard_sizes))]

    @staticmethod
    def open(folder: str | Path, *, verify: bool = False) -> "ShardIndex":
        """Open a built dataset in a folder; how long it takes depends on the number of shards, not of samples.

        With `verify`, a shard's sha256 is computed before its first sample is read. Raises `ShardError` where the
        folder is unfinished, of another format version, or incomplete, and where `index.arrow` is not ours or not of as
        many samples. A row is checked when it is asked for: each method that takes one raises `ShardError` where what
        the index says of it, or of a row near by, cannot be.
        """
        return ShardIndex.of(Folder(Path(folder), verify))

    @staticmethod
    def of(files: Files) -> "ShardIndex":
        """Open a built dataset wherever its files are. Raises as `open` does, and what `files` raise."""
        dataset = read_dataset(files)
        path = files.index(INDEX)
        try:
            columns = Columns(path)
            if columns.rows != dataset["samples"]:
                raise ShardError(f"expected {dataset['samples']} samples, found {columns.rows}: {path}")
        except ShardError:
            files.forget(INDEX)
            raise
        for shard in dataset["shards"]:
            files.check(shard)
        return ShardIndex(files, dataset, columns)

    @property
    def folder(self) -> Path:
        """Raises `ShardError` for a dataset at a URL: only its dataset.json, index and shards can be read."""
        if not isinstance(self.files, Folder):
            raise ShardError(f"expected a dataset on this machine, found one elsewhere: {self.files.place}")
        return self.files.path

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

    @property
    def record_sizes(self) -> NDArray[np.int64]:
        """[samples]: bytes of each record. Read from the file each time."""
        return self._columns.column("json_size")

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
        numbers = block.table[row].tolist()
        image_id, shard, image_offset, image_size, json_offset, json_size, width, height, boxes = numbers
        return Entry(
            key=self._text(block, "key", row),
            image_id=image_id,
            shard=shard,
            image_offset=image_offset,
            image_size=image_size,
            json_offset=json_offset,
            json_size=json_size,
            extension=extension,
            width=width,
            height=height,
            tokens=tuple(block.ragged["tokens"][row].tolist()),
            phrases=tuple(block.ragged["phrases"][row].tolist()),
            boxes=boxes,
        )

    def read(self, i: int) -> tuple[Sample, bytes]:
        """Sample `i` and its encoded image.

        Raises `ShardError`, naming shard and member, where the shard does not hold what the index says; `OSError`
        where it cannot be opened.
        """
        entry = self.entry(i)
        shard = self.files.shard(self.dataset["shards"][entry.shard], entry)
        return read_sample(shard, entry, self._where[entry.shard])

    def record(self, i: int) -> Sample:
        """Sample `i` alone: where the shard is on this machine, its image is not read. Raises as `read` does."""
        entry = self.entry(i)
        shard = self.files.shard(self.dataset["shards"][entry.shard], entry)
        data = shard[entry.json_offset : entry.json_offset + entry.json_size]
        return parse_record(data, entry.key, self._where[entry.shard])

    def members(self, i: int) -> tuple[Entry, bytes, bytes]:
        """Row `i`, its record as JSON, and its encoded image. Raises as `read` does; what the record says is not looked at."""
        entry = self.entry(i)
        shard = self.files.shard(self.dataset["shards"][entry.shard], entry)
        return entry, *read_members(shard, entry, self._where[entry.shard])

    def check(self) -> None:
        """Check every row at once. Raises `ShardError` for the first that cannot be."""
        self._columns.validate()
        for number in range(self._columns.blocks()):
            self._read_block(number)

    def _find(self, i: int) -> tuple[Block, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"expected a sample within {len(self)}, found {i}: {self.files.place}")
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
        return f"{key}, {self._where[shard]}, by {INDEX}"


def read_dataset(files: Files) -> dict[str, Any]:
    """`dataset.json`, checked. Raises `ShardError`, and what `files` raise."""
    data, path = files.dataset(), f"{files.place}/{DATASET}"
    try:
        dataset = json.loads(data)
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
        if shard["file"] != shard_name(number):
            raise ShardError(f"expected {shard_name(number)}, found {shard['file']!r}: {path}")
    if (listed := sum(shard["samples"] for shard in shards)) != dataset["samples"]:
        raise ShardError(f"expected {dataset['samples']} samples in its shards, found {listed}: {path}")
    return dataset


def _is_shard(shard: object) -> bool:
    kinds = {"file": str, "samples": int, "bytes": int, "sha256": str}
    if not isinstance(shard, dict) or any(type(shard.get(name)) is not kind for name, kind in kinds.items()):
        return False
    return 0 <= shard["samples"] < 2**63 and 0 <= shard["bytes"] < 2**63
