"""Bytes become a tar, and back: plain webdataset shards, an image member and then a JSON member per sample."""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from bitgen.disk import room_for, send_to_disk, sync
from bitgen.record import RecordError, Sample, image_id
from bitgen.tokens import TokenError, shared_tokenizer
from bitgen.words import Numbers, words_of
from shards.header import BLOCK, RECORD, header, padding

FORMAT_VERSION = 2

_KEY = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_-]{0,89}"
)  # no dot: webdataset cuts a member's name there; 90 + ".json" < 100
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHARD = re.compile(r"([0-9]{6})\.tar")
_SEND_BYTES = 8 << 20


class ShardError(Exception):
    """A shard, its index or its dataset.json is not what it should be."""


class NoDatasetError(ShardError):
    """There is no dataset, or it is not finished."""


class Sliced(Protocol):
    """A shard's bytes, as far as they are asked for: `bytes`, a map, or `shards.files.ShardFile`."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


class Entry(NamedTuple):
    """Where a sample lies, and what a reader wants to know of it without opening it: one row of `index.arrow`."""

    key: str
    image_id: int
    """`bitgen.record.image_id`."""
    shard: int
    image_offset: int
    """Bytes from the start of the shard to the image's first."""
    image_size: int
    json_offset: int
    json_size: int
    extension: str
    """`jpg`, `png` or `webp`, of features in place of the image `npy`."""
    width: int
    height: int
    tokens: tuple[int, ...]
    """Tokens of each text, both end-of-texts included, at most 256."""
    phrases: tuple[int, ...]
    """Phrases of each text."""
    boxes: int
    """Of the whole sample."""
    token_ids: tuple[int, ...]
    """Text by text, as are the columns that follow, `bitgen.words.Words`."""
    spans: tuple[int, ...]
    phrase_boxes: tuple[int, ...]
    corners: tuple[float, ...]


def shard_name(number: int) -> str:
    """`000012.tar`."""
    return f"{number:06d}.tar"


def shard_number(name: str) -> int:
    """The inverse of `shard_name`. Raises `ShardError` for any other name, a path among them."""
    match = _SHARD.fullmatch(name)
    if match is None:
        raise ShardError(f"expected a shard's name as 000000.tar, found {name!r}")
    return int(match.group(1))


def image_extension(image: bytes) -> str:
    """`jpg`, `png` or `webp` by the bytes' own signature, whatever the URL said. Raises `ShardError` for others."""
    if image.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    raise ShardError(f"expected the signature of a JPEG, PNG or WebP image, found {image[:12]!r}")


def _extension(seen: bytes) -> str:
    """Of an image, or of the features that stand in its place."""
    return "npy" if seen.startswith(b"\x93NUMPY") else image_extension(seen)


class ShardWriter:
    """Writes one shard under `<name>.partial`; leaving the block in peace syncs and renames it, an error removes it.

    The bytes depend on the samples alone: no times, users or worker counts. They are those of webdataset's TarWriter
    (`tests/shards/test_format.py`), which takes 0.3 ms a sample and imports torch. After the block, `samples`,
    `size_bytes` and `sha256` describe the file. Raises `FullDiskError` where there is no room.
    """

    def __init__(self, path: Path) -> None:
        """`path` ends in the shard's name, as `000000.tar`. Raises `ShardError` for another name."""
        self.path = path
        self.shard = shard_number(path.name)
        self.samples = 0
        self.size_bytes = 0
        self.sha256 = ""
        self._partial = path.with_name(path.name + ".partial")
        self._keys: set[str] = set()
        self._sent = 0
        """Bytes that are on their way to the disk."""

    def __enter__(self) -> "ShardWriter":
        with room_for(self.path):
            self._file = self._partial.open("wb", buffering=0)
        self._digest = hashlib.sha256()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with room_for(self.path):
            try:
                if kind is None:
                    self._write(bytes(-(-(self.size_bytes + 2 * BLOCK) // RECORD) * RECORD - self.size_bytes))
                    os.fsync(self._file.fileno())
                    self.sha256 = self._digest.hexdigest()
                    os.replace(self._partial, self.path)
                    sync(self.path.parent)
            finally:
                self._file.close()
                self._partial.unlink(missing_ok=True)

    def add(self, sample: Sample, image: bytes) -> Entry:
        """Append a sample whose `width`, `height` and `sha256` describe `image`: they are taken at their word, and
        `shards/verify.py` compares them.

        Raises `ShardError` where the key is unsafe or already in this shard, the image is neither JPEG, PNG nor WebP,
        there is no digest, size or text, or a text has no UTF-8 form. Nothing has been written then.
        """
        if _DIGEST.fullmatch(sample.sha256) is None or min(sample.width, sample.height) < 1:
            found = f"{sample.sha256!r}, {sample.width}x{sample.height}"
            raise ShardError(f"expected the image's sha256 and size in pixels, found {found}: {sample.key}")
        if not sample.texts:
            raise ShardError(f"expected a text, found none: {sample.key}")
        entry = _entry(sample, (self.shard, 0, len(image), 0, 0), _extension(image))
        return self.copy(entry, sample.to_json().encode(), image)

    def copy(self, entry: Entry, record: bytes, image: bytes) -> Entry:
        """Append a sample of another shard, with the record that it has there; returns its entry here.

        Raises `ShardError` where the key is unsafe or already in this shard.
        """
        key = entry.key
        if _KEY.fullmatch(key) is None or key in self._keys:
            reason = "a key of its own" if key in self._keys else f"a key like {_KEY.pattern}"
            raise ShardError(f"expected {reason}, found {key!r}: {self.path}")
        image_offset = self.size_bytes + BLOCK
        image_end = padding(len(image))
        json_offset = image_offset + len(image) + len(image_end) + BLOCK
        with room_for(self.path):
            record_header, record_end = header(f"{key}.json", len(record)), padding(len(record))
            image_header = header(f"{key}.{entry.extension}", len(image))
            self._write(image_header, image, b"".join((image_end, record_header, record, record_end)))
        self._keys.add(key)
        self.samples += 1
        places = {"image_offset": image_offset, "json_offset": json_offset, "json_size": len(record)}
        return entry._replace(shard=self.shard, **places)

    def _write(self, *pieces: bytes) -> None:
        size = 0
        for piece in pieces:
            self._digest.update(piece)
            size += len(piece)
        self.size_bytes += size
        # Straight to the file, without a copy: 40 us for 159 KB. What a signal or a limit cut short goes in by a second call.
        if (written := os.writev(self._file.fileno(), pieces)) < size:
            left = memoryview(b"".join(pieces))[written:]
            while left:
                left = left[self._file.write(left) :]
        if self.size_bytes - self._sent >= _SEND_BYTES:
            send_to_disk(self._file.fileno(), self._sent, self.size_bytes)
            self._sent = self.size_bytes


def _entry(sample: Sample, place: tuple[int, int, int, int, int], extension: str) -> Entry:
    try:
        photograph = image_id(sample)
        n = Numbers.of(words_of(sample.texts, shared_tokenizer()))
    except (RecordError, TokenError) as error:
        raise ShardError(f"{error}: {sample.key}") from error
    lists: dict[str, NDArray[Any]] = {"tokens": n.tokens, "phrases": n.phrases, "token_ids": n.ids}
    lists |= {"spans": n.spans, "phrase_boxes": n.boxes, "corners": n.corners}
    head = (sample.key, photograph, *place, extension, sample.width, sample.height)
    return Entry(*head, boxes=len(n.corners), **{name: tuple(part.ravel().tolist()) for name, part in lists.items()})


def read_sample(shard: Sliced, entry: Entry, where: str) -> tuple[Sample, bytes]:
    """The sample that `entry` places in `shard`, and its encoded image, both copied out.

    Raises `ShardError`, naming `where` and the member, when the key could be a path, when a member leaves the file,
    when the tar header before it bears another name, or when the record is not this sample's.
    """
    record, image = read_members(shard, entry, where)
    return parse_sample(record, entry, where), image


def parse_sample(record: bytes, entry: Entry, where: str) -> Sample:
    """The sample in the record of `entry`. Raises as `read_sample` does."""
    sample = parse_record(record, entry.key, where)
    if len(sample.texts) != len(entry.tokens):
        raise ShardError(f"expected {len(entry.tokens)} texts in {entry.key}.json, found {len(sample.texts)}: {where}")
    return sample


def read_members(shard: Sliced, entry: Entry, where: str) -> tuple[bytes, bytes]:
    """The record, as JSON, and the encoded image that `entry` places in `shard`. Raises as `read_sample` does."""
    image = read_member(shard, entry.key, entry.extension, entry.image_offset, entry.image_size, where)
    return read_member(shard, entry.key, "json", entry.json_offset, entry.json_size, where), image


def read_member(shard: Sliced, key: str, extension: str, offset: int, size: int, where: str) -> bytes:
    """The member `key`.`extension` at `offset` of a shard. Raises as `read_sample` does."""
    if _KEY.fullmatch(key) is None:
        raise ShardError(f"expected a key like {_KEY.pattern}, found {key!r}: {where}")
    name = f"{key}.{extension}"
    if offset < BLOCK or size < 0 or offset + size > len(shard):
        raise ShardError(f"expected {name} within {len(shard)} bytes, found [{offset}, {offset + size}): {where}")
    # Two reads: one for both would be copied once more to part the image from its header (6 us for 66 kB, a read 1).
    named = shard[offset - BLOCK : offset - BLOCK + 100].rstrip(b"\0")
    if named != name.encode():
        raise ShardError(f"expected member {name} at byte {offset}, found {named!r}: {where}")
    return shard[offset : offset + size]


def parse_record(data: bytes, key: str, where: str) -> Sample:
    """The sample in a member `key`.json. Raises `ShardError` where there is none, or another one."""
    try:
        sample = Sample.from_json(data)
    except RecordError as error:
        raise ShardError(f"expected a sample in {key}.json, {error}: {where}") from error
    if sample.key != key:
        raise ShardError(f"expected the sample {key}, found {sample.key!r}: {where}")
    return sample


def scan(path: Path) -> Iterator[tuple[Entry, Sample, bytes]]:
    """Every sample of a shard, by reading the tar from its start: slow, and needs no index.

    Raises `ShardError` where the tar is damaged or is not an image and a record per sample.
    """
    shard = shard_number(path.name)
    image: tuple[str, str, int, bytes] | None = None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if not member.isreg() or _KEY.fullmatch(key) is None:
                    raise ShardError(f"expected a plain file with a safe name, found {member.name!r}: {path}")
                data = _extract(tar, member, path)
                if image is None:
                    if extension != _extension(data):
                        raise ShardError(f"expected a .{_extension(data)} member, found {member.name!r}: {path}")
                    image = (key, extension, member.offset_data, data)
                    continue
                if (key, extension) != (image[0], "json"):
                    raise ShardError(f"expected {image[0]}.json, found {member.name!r}: {path}")
                sample = parse_record(data, key, str(path))
                place = (shard, image[2], len(image[3]), member.offset_data, len(data))
                yield _entry(sample, place, image[1]), sample, image[3]
                image = None
    except (tarfile.TarError, EOFError) as error:
        raise ShardError(f"expected a tar, {error}: {path}") from error
    if image is not None:
        raise ShardError(f"expected {image[0]}.json, found the end of the shard: {path}")


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    file = tar.extractfile(member)
    data = file.read() if file is not None else b""
    if len(data) != member.size:
        raise ShardError(f"expected {member.size} bytes of {member.name}, found {len(data)}: {path}")
    return data
