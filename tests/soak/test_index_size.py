"""The index of five million samples, in a process of its own: what it costs, and that it is read and checked right."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shards.format import FORMAT_VERSION, shard_name
from shards.index import DATASET, SCHEMA, ShardIndex, write_index_tables

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

SAMPLES = 5_000_000
PER_SHARD = 3_000
SAMPLE_BYTES = 165_000
MEASURE = """
import json, random, sys, time
from pathlib import Path
from shards.index import ShardIndex
def private_mb():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3
before, start = private_mb(), time.perf_counter()
index = ShardIndex.open(sys.argv[1])
open_s, opened = time.perf_counter() - start, private_mb()
dice = random.Random(1)
for _ in range(1000):
    index.entry(dice.randrange(len(index)))
print(json.dumps({"open_s": open_s, "opened_mb": opened - before, "read_mb": private_mb() - before}))
"""


def tables() -> Iterator[pa.Table]:
    """A shard's rows at a time: sample i has five texts, of i % 16 + 1 tokens each."""
    for shard, start in enumerate(range(0, SAMPLES, PER_SHARD)):
        i = np.arange(start, min(start + PER_SHARD, SAMPLES))
        ends = pa.array(np.arange(0, 5 * len(i) + 1, 5, dtype=np.int32))
        offset = (i - start) * SAMPLE_BYTES + 512
        tokens = (i % 16 + 1).astype(np.uint16)
        none = pa.array(np.zeros(len(i) + 1, np.int32))
        columns = {
            "key": [f"large-{n:012d}" for n in i],
            "image_id": i * 7919,
            "shard": np.full(len(i), shard),
            "image_offset": offset,
            "image_size": np.full(len(i), SAMPLE_BYTES - 3072),
            "json_offset": offset + SAMPLE_BYTES - 2048,
            "json_size": np.full(len(i), 900),
            "extension": ["jpg"] * len(i),
            "width": np.full(len(i), 640),
            "height": np.full(len(i), 480),
            "tokens": pa.ListArray.from_arrays(ends, pa.array(np.repeat(tokens, 5)), type=SCHEMA.field("tokens").type),
            "phrases": pa.ListArray.from_arrays(
                ends, pa.array(np.zeros(5 * len(i), np.uint16)), type=SCHEMA.field("phrases").type
            ),
            "boxes": np.zeros(len(i), np.int32),
            "token_ids": pa.ListArray.from_arrays(
                pa.array(np.concatenate([[0], 5 * np.cumsum(tokens)]).astype(np.int32)),
                pa.array(np.full(5 * int(tokens.sum()), 7, np.uint16)),
                type=SCHEMA.field("token_ids").type,
            ),
            "spans": pa.ListArray.from_arrays(none, pa.array([], pa.uint16()), type=SCHEMA.field("spans").type),
            "phrase_boxes": pa.ListArray.from_arrays(
                none, pa.array([], pa.uint16()), type=SCHEMA.field("phrase_boxes").type
            ),
            "corners": pa.ListArray.from_arrays(none, pa.array([], pa.float64()), type=SCHEMA.field("corners").type),
        }
        yield pa.table([pa.array(columns[f.name]).cast(f.type) for f in SCHEMA], schema=SCHEMA)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset's folder: the index, and shards that are as long as they should be and take no disk."""
    folder = tmp_path_factory.mktemp("large")
    write_index_tables(folder, tables())
    shards = []
    for number, start in enumerate(range(0, SAMPLES, PER_SHARD)):
        samples = min(PER_SHARD, SAMPLES - start)
        shard = {"file": shard_name(number), "samples": samples, "bytes": samples * SAMPLE_BYTES + 10240, "sha256": ""}
        with (folder / shard["file"]).open("wb") as file:
            file.truncate(shard["bytes"])
        shards.append(shard)
    dataset = {"format_version": FORMAT_VERSION, "name": "coarse/large-train", "samples": SAMPLES, "shards": shards}
    (folder / DATASET).write_text(json.dumps(dataset))
    return folder


def test_an_index_of_five_million_samples_costs_less_than_50_mb(large: Path) -> None:
    run = subprocess.run([sys.executable, "-c", MEASURE, str(large)], check=True, capture_output=True, text=True)
    print(run.stdout)
    measured = json.loads(run.stdout)
    assert max(measured["opened_mb"], measured["read_mb"]) < 50


def test_the_last_of_five_million_samples_is_found(large: Path) -> None:
    entry = ShardIndex.open(large).entry(4_999_999)
    assert (entry.key, entry.shard, entry.tokens) == ("large-000004999999", 1666, (16,) * 5)


def test_all_rows_of_five_million_samples_are_checked(large: Path) -> None:
    ShardIndex.open(large).check()
