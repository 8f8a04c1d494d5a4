"""Whole builds with annotations of full size, by the real command: no process takes more than 2 GB.

`make soak SCALE=0.01` for smaller files. Images are on disk where a source's are, each a PNG that is little more than
its header, since `--check header` reads no more of them; of the crawled sources a tenth has one.
"""

import json
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.annotations import READERS
from pipeline.manifest import read_manifest
from pipeline.rows import url_hash
from tests import full_size
from tests.drawn import HEIGHT, WIDTH
from tests.full_size import Written
from tests.memory import peaks

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]

SCALE = float(os.environ.get("SCALE", "1"))
MOST_BYTES = 2_000_000_000
MANIFEST = """
name = "world"
licence = "CC0"
[[source]]
name = "world"
phase = "coarse"
role = "train"
split = "train"
reader = "{reader}"
annotations = [{annotations}]
images = ["images"]
crawl = {crawl}
orientation = "ignore" # or a PNG is read to its end for its EXIF
refusal_ceiling = 1.0
"""
BROUGHT = 10
"""Of the addresses of a crawled source one in so many has an image."""


@pytest.fixture
def data() -> Iterator[Path]:
    """Not `tmp_path`, which pytest keeps: some GB."""
    with TemporaryDirectory() as path:
        yield Path(path)


def headers() -> Iterator[bytes]:
    """PNGs of `WIDTH` x `HEIGHT` pixels, all different, that end after their header and some bytes of a body."""
    header = b"IHDR" + struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    begin = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return (begin + struct.pack(">I", 65536) + b"IDAT" + struct.pack(">Q", number) for number in count())


def paint(folder: Path, names: Iterator[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, header in zip(names, headers(), strict=False):
        (folder / name).write_bytes(header)


def crawl(folder: Path, urls: Iterator[str]) -> None:
    """What a crawl of `urls` leaves: a table of 10,000 rows at a time, an image for one address in `BROUGHT`."""
    content = headers()
    for shard, some in enumerate(batched(urls, 10_000)):
        (folder / f"round-0000/{shard:05d}").mkdir(parents=True)
        rows = []
        for number, url in enumerate(some):
            key, is_there = f"{shard:05d}{number:04d}", number % BROUGHT == 0
            header = next(content) if is_there else b""
            if is_there:
                (folder / f"round-0000/{shard:05d}/{key}.jpg").write_bytes(header)
            outcome = "kept" if is_there else "http_404"
            rows.append({"url": url, "hash": url_hash(url), "key": key, "outcome": outcome, "size_bytes": len(header)})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"round-0000/{shard:05d}.parquet")


def batched(rows: Iterator[str], size: int) -> Iterator[list[str]]:
    while some := list(islice(rows, size)):
        yield some


def check(data: Path, reader: str, names: list[str], written: Written, images: Iterator[str] | None = None) -> None:
    """Builds the files `names` with the `images` that are named, or crawled ones: all rows are in the ledger, and no
    process was too large."""
    raw = data / "raw/world"
    quoted, crawls = ", ".join(f'"{name}"' for name in names), images is None
    manifest = data / "world.toml"
    manifest.write_text(MANIFEST.format(reader=reader, annotations=quoted, crawl=str(crawls).lower()))
    if images is None:
        source = read_manifest(manifest).sources[0]
        crawl(raw / "images", (each.image for each in READERS[reader](source, raw)))
    else:
        paint(raw / "images", images)
    command = [sys.executable, "-m", "cli.build_shards", str(manifest), "--data", str(data), "--workers", "2"]
    found = peaks([*command, "--check", "header"], data / "log.txt")
    said = ", ".join(f"{peak / 1e6:.0f}" for peak in sorted(found.values(), reverse=True))
    dataset = json.loads((data / "shards/coarse/world-train/dataset.json").read_bytes())
    print(f"{', '.join(names)}: {dataset['samples']:,} samples of {written.rows:,} rows, MB of each process: {said}")
    assert dataset["rows"] == written.rows
    assert max(found.values()) <= MOST_BYTES


def test_cocos_captions(data: Path) -> None:
    name = "captions_train2017.json"
    written = full_size.coco_captions(data / "raw/world" / name, SCALE)
    check(data, "coco", [name], written, (f"{id:012d}.jpg" for id in range(1, written.images + 1)))


def test_visual_genomes_regions(data: Path) -> None:
    names = ["image_data.json", "region_descriptions.json"]
    full_size.image_data(data / "raw/world" / names[0], SCALE)
    written = full_size.region_descriptions(data / "raw/world" / names[1], SCALE)
    check(data, "visual_genome", names, written, (f"{id}.jpg" for id in range(1, written.images + 1)))


def test_mdetrs_mixed_rows(data: Path) -> None:
    name = "final_mixed_train.json"
    written = full_size.mixed(data / "raw/world" / name, SCALE)
    images = (f"{id}.jpg" if id % 3 == 0 else f"COCO_train2014_{id:012d}.jpg" for id in range(1, written.images + 1))
    check(data, "mdetr", [name], written, images)


def test_sbu(data: Path) -> None:
    name = "sbu-captions-all.json"
    check(data, "sbu", [name], full_size.sbu(data / "raw/world" / name, SCALE))


def test_cc3m(data: Path) -> None:
    name = "GCC-training.tsv"
    check(data, "cc3m", [name], full_size.cc3m(data / "raw/world" / name, SCALE))
