"""The index of a large dataset: how long it takes to open, and what it costs each process that has it open.

    python -m tests.benchmarks.index_size FOLDER [open|read]

opens the index in this process and prints a JSON object; `read` also looks at 10,000 rows all over it.
"""

import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.format import FORMAT_VERSION, Entry, shard_name
from shards.index import DATASET, ShardIndex, write_index

SAMPLES = 5_000_000
PER_SHARD = 3_000
_BYTES = 165_000
"""Of a sample in its shard: a photograph of COCO's mean size, its record and their headers."""


def write(folder: Path) -> None:
    """An index of `SAMPLES` samples with five texts each, over empty files of the right sizes that take no disk."""
    folder.mkdir(parents=True)
    shards = [min(PER_SHARD, SAMPLES - start) for start in range(0, SAMPLES, PER_SHARD)]
    listed = []
    for number, samples in enumerate(shards):
        size_bytes = samples * _BYTES + 10240
        with (folder / shard_name(number)).open("wb") as file:
            file.truncate(size_bytes)
        listed.append({"file": shard_name(number), "samples": samples, "bytes": size_bytes, "sha256": "0" * 64})
    write_index(folder, _entries())
    dataset = {"format_version": FORMAT_VERSION, "name": "coarse/bench-train", "samples": SAMPLES, "shards": listed}
    (folder / DATASET).write_text(json.dumps(dataset | {"role": "train", "phase": "coarse", "source": "bench"}))


def _entries() -> Iterator[Entry]:
    dice = random.Random(0)
    lengths = [tuple(dice.randint(8, 16) for _ in range(5)) for _ in range(1000)]
    for number in range(SAMPLES):
        shard, place = divmod(number, PER_SHARD)
        offset = place * _BYTES + 512
        yield Entry(
            key=f"bench-{number:012d}",
            image_id=number * 0x9E3779B97F4A7C15 % 2**64 - 2**63,
            shard=shard,
            image_offset=offset,
            image_size=_BYTES - 3072,
            json_offset=offset + _BYTES - 2048,
            json_size=900,
            extension="jpg",
            width=640,
            height=480,
            tokens=lengths[number % 1000],
            phrases=(0, 0, 0, 0, 0),
            boxes=0,
        )


def measure(folder: Path, reads: bool) -> dict[str, Any]:
    """Seconds to open it, and what this process's memory grew by, in MB.

    `private_mb` is memory of this process's own: RssAnon of /proc, which no other process can share. `mapped_mb` is
    the page cache that it looks at, which all processes share.
    """
    before = _memory_mb()
    start_s = time.perf_counter()
    index = ShardIndex.open(folder)
    open_s = time.perf_counter() - start_s
    if reads:
        dice = random.Random(1)
        for _ in range(10_000):
            index.entry(dice.randrange(SAMPLES))
    after = _memory_mb()
    return {"open_s": open_s, "private_mb": after[0] - before[0], "mapped_mb": after[1] - before[1]}


def _memory_mb() -> tuple[float, float]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(status[name].split()[0]) * 1024 / 1e6 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2:] == ["read"])))
