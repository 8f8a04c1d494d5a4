"""Tiny datasets, built on the spot."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from bitgen.record import Box, Phrase, Sample, Text
from shards.format import FORMAT_VERSION, Entry, ShardWriter
from shards.index import ShardIndex, write_index

Photograph = Callable[..., bytes]
Describe = Callable[..., Sample]
Build = Callable[..., Path]


@pytest.fixture
def photograph() -> Photograph:
    """`photograph(grey, kind)`: an encoded image of 12x8 pixels."""

    def make(grey: int = 128, kind: str = "JPEG") -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (12, 8), (grey, grey, grey)).save(file, kind)
        return file.getvalue()

    return make


@pytest.fixture
def describe() -> Describe:
    """`describe(image, key, texts)`: the sample of an image of 12x8 pixels."""

    def make(
        image: bytes,
        key: str = "pets-1",
        texts: Sequence[Text] = (Text("a dog"),),
        ids: tuple[str, ...] = (),
    ) -> Sample:
        digest = hashlib.sha256(image).hexdigest()
        return Sample(key, "pets", "train", ids, 12, 8, "CC BY", "http://127.0.0.1/1.jpg", digest, tuple(texts))

    return make


@pytest.fixture
def build(tmp_path: Path, photograph: Photograph, describe: Describe) -> Build:
    """`build(name, sizes)`: a dataset's folder with shards of so many samples each.

    Sample i has texts of 1 + i % 3 times the words "a dog", the last of them with a phrase.
    """

    def make(name: str = "pets", sizes: Sequence[int] = (3, 2)) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        entries: list[Entry] = []
        shards = []
        for number, size in enumerate(sizes):
            with ShardWriter(folder / f"{number:06d}.tar") as writer:
                for _ in range(size):
                    i = len(entries)
                    image = photograph(i % 256)
                    texts = [Text("a dog " * (t + 1)) for t in range(i % 3)]
                    texts.append(Text("a cat", (Phrase(2, 5, (Box(0.0, 0.0, 0.5, 1.0),)),)))
                    entries.append(writer.add(describe(image, f"{folder.name}-{i}", texts, (f"coco:{i}",)), image))
            shard = {"file": writer.path.name, "samples": size, "bytes": writer.size_bytes, "sha256": writer.sha256}
            shards.append(shard)
        write_index(folder, entries)
        counts = {
            "texts": sum(len(e.tokens) for e in entries),
            "phrases": len(entries),
            "boxes": len(entries),
        }
        dataset = {"format_version": FORMAT_VERSION, "name": name, "samples": len(entries), **counts, "shards": shards}
        (folder / "dataset.json").write_text(json.dumps(dataset))
        return folder

    return make


@pytest.fixture
def open_built(build: Build) -> Callable[..., ShardIndex]:
    """`open_built(name, sizes)`: `build`, opened."""
    return lambda *args: ShardIndex.open(build(*args))
