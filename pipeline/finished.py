"""What a finished dataset keeps beside its shards, and whether the files that it was made of are still the same."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.decide import SeenImage
from pipeline.files import read_json, replacing
from pipeline.locate import Locate
from pipeline.survey import Fate, read_part, stamp_of
from shards.index import DATASET

IMAGES = "images.parquet"
"""Key, sha256 and look of every image as it came."""
STAMPS = "stamps.parquet"
"""Every image that was looked for, and the stamp of its file; empty where there was none."""

_IMAGES_SCHEMA = pa.schema([("key", pa.string()), ("sha256", pa.string()), ("look", pa.uint64())])
_STAMPS_SCHEMA = pa.schema([("image", pa.string()), ("stamp", pa.string())])
_ROWS = 65536


def write_images(folder: Path, images: Sequence[SeenImage]) -> None:
    """Writes `images.parquet`, whole or not at all."""
    with replacing(folder / IMAGES) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(image) for image in images], _IMAGES_SCHEMA), temporary)


def read_images(folder: Path) -> list[SeenImage]:
    """The images of a finished dataset; none where there is no such dataset."""
    if not (folder / DATASET).exists() or not (folder / IMAGES).exists():
        return []
    return [SeenImage(**row) for row in pq.read_table(folder / IMAGES).to_pylist()]


def evaluation_folders(shards: Path) -> list[Path]:
    """Every finished dataset under `shards/eval`, whichever manifest made it, in order of its name."""
    return sorted(path.parent for path in (shards / "eval").glob(f"*/{DATASET}"))


def compared_otherwise(shards: Path, looks_sha256: str) -> list[str]:
    """Finished datasets to train on that were compared with other evaluation images than those of `looks_sha256`."""
    found = sorted(path for phase in ("coarse", "fine") for path in (shards / phase).glob(f"*/{DATASET}"))
    said = {path.parent.relative_to(shards).as_posix(): read_json(path) or {} for path in found}
    return [name for name, dataset in said.items() if dataset.get("looks_sha256") != looks_sha256]


def write_stamps(folder: Path, parts: Iterable[Path]) -> None:
    """Notes the files that surveyed `parts` were made of, whole or not at all."""
    with replacing(folder / STAMPS) as temporary, pq.ParquetWriter(temporary, _STAMPS_SCHEMA) as writer:
        for part in parts:
            rows = [{"image": f.candidate.image, "stamp": f.stamp} for f in read_part(part) if _was_looked_for(f)]
            writer.write_table(pa.Table.from_pylist(rows, _STAMPS_SCHEMA))


def is_unchanged(folder: Path, locate: Locate) -> bool:
    """Whether every image is as it was when the dataset in `folder` was built: none came, went or was replaced."""
    return all(_stamp(locate(image)) == stamp for image, stamp in _stamps(folder))


def _stamps(folder: Path) -> Iterator[tuple[str, str]]:
    with pq.ParquetFile(folder / STAMPS) as file:
        for batch in file.iter_batches(_ROWS):
            yield from zip(batch.column("image").to_pylist(), batch.column("stamp").to_pylist(), strict=True)


def _stamp(found: Path | str) -> str:
    return stamp_of(found) if isinstance(found, Path) else ""


def _was_looked_for(fate: Fate) -> bool:
    return bool(fate.file) or fate.outcome not in ("no_text", "held_out")
