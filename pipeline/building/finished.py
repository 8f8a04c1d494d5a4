"""What a finished dataset keeps beside its shards, and whether the files that it was made of are still the same."""

import importlib.metadata
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.building.chunks import PARTS, STAMPS_SCHEMA, ending, read_table
from pipeline.building.write import ShardDone
from pipeline.files import read_json, replacing, write_json
from pipeline.locate import Locate, Located
from pipeline.manifest import Source
from shards.format import FORMAT_VERSION
from shards.index import DATASET, write_index_tables

IMAGES = "images.parquet"
"""Key, sha256 and look of every image as it came."""
STAMPS = "stamps.parquet"
"""Every image that was looked for, and the stamp of its file; empty where there was none."""

_IMAGES_SCHEMA = pa.schema([("key", pa.string()), ("sha256", pa.string()), ("look", pa.uint64())])
_ROWS = 65536


@dataclass(frozen=True)
class SeenImage:
    """One image of a dataset, as it came."""

    key: str
    sha256: str
    look: int


def finish(
    source: Source, folder: Path, parts: Sequence[Path], written: Sequence[ShardDone], facts: dict[str, Any]
) -> dict[str, Any]:
    """Writes what stands beside the shards `written` of `parts` and, last of all, `dataset.json`; sweeps the folder.

    Returns what `dataset.json` says: `facts`, and what there is to say of the source and of its shards.
    """
    samples = write_index_tables(folder, (shard.index() for shard in written))
    _write_images(folder, (read_table(shard.table) for shard in written))
    _write_stamps(folder, (read_table(ending(part, ".stamps.arrow")) for part in parts))
    dataset = facts | {
        "format_version": FORMAT_VERSION,
        "code_version": importlib.metadata.version("bitgen"),
        "name": source.dataset,
        "source": source.name,
        "split": source.split,
        "phase": source.phase,
        "role": source.role,
        "manifest": source.manifest,
        "licence": source.licence,
        "reader": source.reader,
        "rows": sum(facts["counts"].values()),
        "samples": samples,
        **_totals(written),
        "shards": [shard.listed for shard in written],
    }
    write_json(folder / DATASET, dataset)
    sweep(folder, dataset)
    return dataset


def sweep(folder: Path, dataset: dict[str, Any]) -> None:
    """Leaves what belongs to a finished dataset: no parts, no shards of an earlier one, nothing half-written."""
    current = {shard["file"] for shard in dataset["shards"]}
    for stale in (path for pattern in ("*.tar", "*.partial", ".*.tmp") for path in folder.glob(pattern)):
        if stale.name not in current:
            stale.unlink()
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _totals(written: Sequence[ShardDone]) -> dict[str, int]:
    """Texts, phrases and boxes."""
    totals = {"texts": 0, "phrases": 0, "boxes": 0}
    for table in (read_table(shard.table) for shard in written):
        phrases = table.column("phrases").combine_chunks().flatten()
        totals["texts"] += len(phrases)
        totals["phrases"] += sum(phrases.to_pylist())
        totals["boxes"] += sum(table.column("boxes").to_pylist())
    return totals


def _write_images(folder: Path, tables: Iterable[pa.Table]) -> None:
    """Writes `images.parquet` from tables of `pipeline.building.chunks.PART_SCHEMA`, whole or not at all."""
    with replacing(folder / IMAGES) as temporary, pq.ParquetWriter(temporary, _IMAGES_SCHEMA) as writer:
        for table in tables:
            digests = b"".join(table.column("came").to_pylist()).hex().encode()
            ends = np.arange(len(digests) // 64 + 1, dtype=np.int32) * np.int32(64)
            sha256 = pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(digests))
            columns = [table.column("key"), sha256, table.column("look")]
            writer.write_table(pa.table(columns, schema=_IMAGES_SCHEMA))


def read_images(folder: Path) -> Iterator[SeenImage]:
    """The images of a finished dataset; none where there is no such dataset."""
    if not (folder / DATASET).exists() or not (folder / IMAGES).exists():
        return
    with pq.ParquetFile(folder / IMAGES) as file:
        for batch in file.iter_batches(_ROWS):
            yield from (SeenImage(*row) for row in zip(*(c.to_pylist() for c in batch.columns), strict=True))


def first_bytes(folder: Path) -> NDArray[np.uint64]:
    """[images], sorted: the first 8 bytes of the digest of every image of a finished dataset."""
    numbers = (int(image.sha256[:16], 16) for image in read_images(folder))
    return np.sort(np.fromiter(numbers, np.uint64))


def seen_before(firsts: NDArray[np.uint64], others: Sequence[NDArray[np.uint64]]) -> int:
    """How many of the images are in any of the `others`, by 8 bytes of their digests."""
    seen = np.zeros(len(firsts), bool)
    for each in others:
        seen |= np.isin(firsts, each)
    return int(seen.sum())


def evaluation_folders(shards: Path) -> list[Path]:
    """Every finished dataset under `shards/eval`, whichever manifest made it, in order of its name."""
    return sorted(path.parent for path in (shards / "eval").glob(f"*/{DATASET}"))


def compared_otherwise(shards: Path, looks_sha256: str) -> list[str]:
    """Finished datasets to train on that were compared with other evaluation images than those of `looks_sha256`."""
    found = sorted(path for phase in ("coarse", "fine") for path in (shards / phase).glob(f"*/{DATASET}"))
    said = {path.parent.relative_to(shards).as_posix(): read_json(path) or {} for path in found}
    return [name for name, dataset in said.items() if dataset.get("looks_sha256") != looks_sha256]


def _write_stamps(folder: Path, tables: Iterable[pa.Table]) -> None:
    """Notes the files that a dataset was made of, whole or not at all."""
    with replacing(folder / STAMPS) as temporary, pq.ParquetWriter(temporary, STAMPS_SCHEMA) as writer:
        for table in tables:
            writer.write_table(table)


def is_unchanged(folder: Path, locate: Locate) -> bool:
    """Whether every image is as it was when the dataset in `folder` was built: none came, went or was replaced."""
    return all(_stamp(locate(image)) == stamp for image, stamp in _stamps(folder))


def _stamps(folder: Path) -> Iterator[tuple[str, str]]:
    with pq.ParquetFile(folder / STAMPS) as file:
        for batch in file.iter_batches(_ROWS):
            yield from zip(batch.column("image").to_pylist(), batch.column("stamp").to_pylist(), strict=True)


def _stamp(found: Located | str) -> str:
    return found.stamp if isinstance(found, Located) else ""
