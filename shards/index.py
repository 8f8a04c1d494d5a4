"""Where each sample lies: `index.arrow`, read in blocks of rows, and `dataset.json`, which is written last."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgen.record import Sample
from bitgen.tokens import VOCABULARY
from bitgen.words import CORNER, COUNT, Words, choose_texts, counts
from shards.columns import BLOCK_ROWS, FAR, INDEX, SCHEMA, Block, Columns
from shards.files import DATASET, Files, Folder, read_dataset
from shards.format import (
    Entry,
    ShardError,
    parse_sample,
    read_member,
    read_members,
    shard_name,
)
from shards.header import BLOCK
from shards.indexing import write_index, write_index_tables

__all__ = ["DATASET", "INDEX", "SCHEMA", "ShardIndex", "write_index", "write_index_tables"]

_BLOCKS = 128
"""Blocks held at once, 14 MB: the stream shows the samples of a group of shards, some 16,000 to 40,000, in a random order."""
_EXTENSIONS = ("jpg", "png", "webp", "npy")


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

    def token_ids(self, rank: int, world: int) -> Iterator[tuple[int, NDArray[np.uint16]]]:
        """Of some samples at a time how many they are, and the tokens of all their texts; of all samples, parted among ranks."""
        for number in range(rank, self._columns.blocks(), world):
            block = self._read_block(number)
            ids = self._columns.far_of_all(block, "token_ids")
            if ids.max(initial=0) >= VOCABULARY:
                raise ShardError(f"expected tokens below {VOCABULARY}, found {ids.max()}: {self._columns.path}")
            yield len(block.table), ids

    def tokens(self, i: int) -> NDArray[np.uint16]:
        """Tokens of each text of sample `i`, both end-of-texts included, at most 256."""
        block, row = self._find(i)
        return block.ragged["tokens"][row]

    def phrases(self, i: int) -> NDArray[np.uint16]:
        """Phrases of each text of sample `i`."""
        block, row = self._find(i)
        return block.ragged["phrases"][row]

    def words(self, i: int, epoch: int, count: int) -> Words:
        """The texts of sample `i` that an epoch shows, `count` of them at most; `bitgen.words.fault` says whether their
        numbers can be."""
        block, row = self._find(i)
        tokens, phrases = block.ragged["tokens"][row].tolist(), block.ragged["phrases"][row].tolist()
        texts = choose_texts(len(tokens), epoch, count)
        ids, ends = self._columns.far(block, "token_ids", row), [0, *accumulate(tokens)]
        size = COUNT.itemsize
        found = Words(
            counts((len(texts),)),
            counts([tokens[t] for t in texts]),
            counts([phrases[t] for t in texts]),
            b"".join([ids[size * ends[t] : size * ends[t + 1]] for t in texts]),
        )
        if not any(phrases):
            return found
        spans, boxes, corners = (self._columns.far(block, name, row) for name in FAR[1:])
        ends = [0, *accumulate(phrases)]
        box_ends = [0, *accumulate(np.frombuffer(boxes, COUNT).tolist())]
        if box_ends[-1] * 4 * CORNER.itemsize != len(corners):
            what = f"{box_ends[-1]} boxes of its phrases, found corners of {len(corners) // (4 * CORNER.itemsize)}"
            raise ShardError(f"expected {what}: {self._name(block, row)}")
        parts = [(ends[t], ends[t + 1]) for t in texts]
        corner_size = 4 * CORNER.itemsize
        return found._replace(
            spans=b"".join([spans[2 * size * a : 2 * size * b] for a, b in parts]),
            boxes=b"".join([boxes[size * a : size * b] for a, b in parts]),
            corners=b"".join([corners[corner_size * box_ends[a] : corner_size * box_ends[b]] for a, b in parts]),
        )

    def entry(self, i: int) -> Entry:
        """Row `i` as a value."""
        block, row = self._find(i)
        numbers = dict(zip(block.numbers, block.table[row].tolist(), strict=True))
        numbers |= {name: tuple(block.ragged[name][row].tolist()) for name in ("tokens", "phrases")}
        numbers |= {
            name: tuple(np.frombuffer(self._columns.far(block, name, row), kind).tolist())
            for name, kind in zip(FAR, (COUNT, COUNT, COUNT, CORNER), strict=True)
        }
        return Entry(key=self._text(block, "key", row), extension=self._extension(block, row), **numbers)

    def image(self, i: int) -> tuple[str, int, int, int, bytes]:
        """Key, image id, width and height of sample `i`, and its encoded image, or the features in its place.

        Raises as `read` does. Neither its record is looked at nor its texts.
        """
        block, row = self._find(i)
        key, extension = self._text(block, "key", row), self._extension(block, row)
        image_id, shard, offset, size, _, _, width, height, _ = block.table[row].tolist()
        file = self.files.shard(self.dataset["shards"][shard], offset - BLOCK, offset + size)
        return key, image_id, width, height, read_member(file, key, extension, offset, size, self._where[shard])

    def read(self, i: int) -> tuple[Sample, bytes]:
        """Sample `i` and its encoded image.

        Raises `ShardError`, naming shard and member, where the shard does not hold what the index says; `OSError`
        where it cannot be opened.
        """
        entry, record, image = self.members(i)
        return parse_sample(record, entry, self._where[entry.shard]), image

    def record(self, i: int) -> Sample:
        """Sample `i` alone: where the shard is on this machine, its image is not read. Raises as `read` does."""
        entry = self.entry(i)
        start, stop = entry.json_offset - BLOCK, entry.json_offset + entry.json_size
        shard = self.files.shard(self.dataset["shards"][entry.shard], start, stop)
        where = self._where[entry.shard]
        record = read_member(shard, entry.key, "json", entry.json_offset, entry.json_size, where)
        return parse_sample(record, entry, where)

    def members(self, i: int) -> tuple[Entry, bytes, bytes]:
        """Row `i`, its record as JSON, and its encoded image. Raises as `read` does; what the record says is not looked at."""
        entry = self.entry(i)
        start = min(entry.image_offset, entry.json_offset) - BLOCK
        stop = max(entry.image_offset + entry.image_size, entry.json_offset + entry.json_size)
        shard = self.files.shard(self.dataset["shards"][entry.shard], start, stop)
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
        phrases = block.ragged["phrases"]
        self._refuse(block, (texts < 1) | (texts != phrases.lengths()), "tokens and phrases of each text")
        starts = phrases.offsets[:-1]  # of both: none is empty
        sums = {
            "token_ids": np.add.reduceat(block.ragged["tokens"].values, starts, dtype=np.int64),
            "phrase_boxes": np.add.reduceat(phrases.values, starts, dtype=np.int64),
            "corners": 4 * numbers["boxes"].astype(np.int64),
        }
        sums["spans"] = 2 * sums["phrase_boxes"]
        for name, wanted in sums.items():
            self._refuse(block, block.far_lengths(name) != wanted, f"{name} of all texts")
        alone = (sums["phrase_boxes"] == 0) & (numbers["boxes"] > 0)
        self._refuse(block, alone, "no box without a phrase", "boxes")
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

    def _extension(self, block: Block, row: int) -> str:
        extension = self._text(block, "extension", row)
        if extension not in _EXTENSIONS:
            raise ShardError(f"expected one of {', '.join(_EXTENSIONS)}, found {extension!r}: {self._name(block, row)}")
        return extension

    def _name(self, block: Block, row: int) -> str:
        """Of a row whose columns may be anything."""
        key = block.ragged["key"][row].tobytes()[:100].decode(errors="backslashreplace")
        shard = int(np.searchsorted(self._ends, block.first + row, side="right"))
        return f"{key}, {self._where[shard]}, by {INDEX}"
