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

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.format import FORMAT_VERSION, shard_name
from shards.index import DATASET, SCHEMA, ShardIndex, write_index_tables

SAMPLES = 5_000_000
PER_SHARD = 3_000
_BYTES = 165_000
"""Of a sample in its shard: a photograph of COCO's mean size, its record and their headers."""


def write(folder: Path) -> None:
    """An index of `SAMPLES` samples with five texts each, over empty files of the right sizes that take no disk."""
    folder.mkdir(parents=True)
    listed = []
    for number, start in enumerate(range(0, SAMPLES, PER_SHARD)):
        samples = min(PER_SHARD, SAMPLES - start)
        size_bytes = samples * _BYTES + 10240
        with (folder / shard_name(number)).open("wb") as file:
            file.truncate(size_bytes)
        listed.append({"file": shard_name(number), "samples": samples, "bytes": size_bytes, "sha256": "0" * 64})
    write_index_tables(folder, _tables())
    dataset = {"format_version": FORMAT_VERSION, "name": "coarse/bench-train", "samples": SAMPLES, "shards": listed}
    (folder / DATASET).write_text(json.dumps(dataset))


def _tables() -> Iterator[pa.Table]:
    """The rows of one shard after another; texts have 8 to 16 tokens."""
    dice = np.random.default_rng(0)
    for shard, start in enumerate(range(0, SAMPLES, PER_SHARD)):
        count = min(PER_SHARD, SAMPLES - start)
        offsets = np.arange(count) * _BYTES + 512
        lists = pa.array(np.arange(0, 5 * count + 1, 5, dtype=np.int32))
        tokens = dice.integers(8, 17, 5 * count)
        ends = pa.array(np.concatenate([[0], tokens.reshape(-1, 5).sum(axis=1).cumsum()]).astype(np.int32))
        none = pa.array(np.zeros(count + 1, np.int32))
        columns: dict[str, object] = {
            "key": [f"bench-{start + n:012d}" for n in range(count)],
            "image_id": dice.integers(-(2**63), 2**63 - 1, count),
            "shard": [shard] * count,
            "image_offset": offsets,
            "image_size": [_BYTES - 3072] * count,
            "json_offset": offsets + _BYTES - 2048,
            "json_size": [900] * count,
            "extension": ["jpg"] * count,
            "width": [640] * count,
            "height": [480] * count,
            "tokens": _list(lists, tokens, "tokens"),
            "phrases": _list(lists, np.zeros(5 * count), "phrases"),
            "boxes": [0] * count,
            "token_ids": _list(ends, dice.integers(0, 50_000, int(ends[-1].as_py())), "token_ids"),
            **{name: _list(none, np.zeros(0), name) for name in ("spans", "phrase_boxes", "corners")},
        }
        yield pa.table([pa.array(columns[field.name]).cast(field.type) for field in SCHEMA], schema=SCHEMA)


def _list(offsets: pa.Array, values: NDArray[np.generic], name: str) -> pa.ListArray:
    kind = SCHEMA.field(name).type
    return pa.ListArray.from_arrays(offsets, pa.array(values).cast(kind.value_type), type=kind)


def measure(folder: Path, reads: bool) -> dict[str, Any]:
    """Seconds to open it, and what this process's memory grew by, in MB.

    `private_mb` is what no other process has: Private_Clean and Private_Dirty of /proc/self/smaps_rollup.
    """
    before_mb = _private_mb()
    start_s = time.perf_counter()
    index = ShardIndex.open(folder)
    open_s = time.perf_counter() - start_s
    if reads:
        dice = random.Random(1)
        for _ in range(10_000):
            index.entry(dice.randrange(SAMPLES))
    return {"open_s": open_s, "private_mb": _private_mb() - before_mb}


def _private_mb() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Private_"))


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2:] == ["read"])))
