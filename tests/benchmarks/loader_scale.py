"""How our loader behaves with millions of samples: their index is real, and so is every byte that is read.

    python -m tests.benchmarks.loader_scale FOLDER WORKERS

opens the datasets of FOLDER in this process and prints a JSON object.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from shards.format import shard_name
from shards.index import DATASET, INDEX, write_index_tables
from shards.stream import Stream
from tests.benchmarks.loader_data import write_dataset
from tests.benchmarks.loader_ours import batches
from tests.benchmarks.loader_run import age_s, cpu_s, private_mb
from tests.benchmarks.loader_terms import BATCH, SOURCES, TEXTS_PER_IMAGE

DRAWS = 20_480
WHOLE = 4_096
"""Samples that are drawn, and of those that become tensors."""


def repeat(root: Path, folder: Path, samples: int) -> int:
    """Fills `folder` with the datasets of `root`, their shards repeated as hard links until there are `samples` or a few
    more. Returns how many there are. Rows of the index differ in nothing but the shard."""
    written = 0
    for name in SOURCES:
        source, target = root / "shards" / name, folder / "shards" / name
        target.mkdir(parents=True)
        listed = json.loads((source / DATASET).read_bytes())["shards"]
        table = pa.ipc.open_file(source / INDEX).read_all()
        per_shard = listed[0]["samples"]
        shards = -(-samples // (len(SOURCES) * per_shard))
        repeated = [{**listed[n % len(listed)], "file": shard_name(n)} for n in range(shards)]
        for n, shard in enumerate(repeated):
            os.link(source / shard_name(n % len(listed)), target / shard["file"])
        written += write_index_tables(target, _tables(table, [each["samples"] for each in listed], shards))
        write_dataset(target, name, repeated)
    return written


def _tables(table: pa.Table, sizes: list[int], shards: int) -> Iterator[pa.Table]:
    at = table.schema.get_field_index("shard")
    parts = [table.slice(sum(sizes[:n]), size) for n, size in enumerate(sizes)]
    for n in range(shards):
        part = parts[n % len(parts)]
        numbers = pa.array([n] * part.num_rows, table.schema.field(at).type)
        yield part.set_column(at, table.schema.field(at), numbers)


def measure(root: Path, workers: int) -> dict[str, Any]:
    """Seconds to the first batch, without and with what the process took before; then CPU microseconds a sample, of
    whole batches, by all processes and from their start, and of planning and drawing alone (order, index, words, bytes)
    from the middle of the epoch on."""
    before_s = age_s()
    start_s = time.perf_counter()
    used_s = cpu_s()
    loaded = batches(root, workers, WHOLE // BATCH)
    next(loaded)
    first_s = time.perf_counter() - start_s
    for _ in loaded:
        pass
    whole_s = cpu_s() - used_s
    stream = Stream.open(root / "shards", SOURCES, seed=0, texts_per_image=TEXTS_PER_IMAGE)
    used_s = time.process_time()
    for plan in islice(stream.micro_batches(stream.mixture.size // 2, batch=BATCH), DRAWS // BATCH):
        for position in plan.positions:
            stream.draw(position)
    drawn_s = time.process_time() - used_s
    return {
        "samples": stream.mixture.size,
        "first_batch_s": first_s,
        "first_batch_with_imports_s": before_s + first_s,
        "us_per_sample": 1e6 * drawn_s / DRAWS,
        "us_per_sample_whole": 1e6 * whole_s / WHOLE,
        "private_mb": private_mb(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
