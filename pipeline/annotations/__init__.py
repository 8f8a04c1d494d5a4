"""Readers: rows in a dataset's official format become candidates, one per image."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.annotations.cc3m import read_cc3m
from pipeline.annotations.coco import read_coco
from pipeline.annotations.flickr30k import read_flickr30k
from pipeline.annotations.mdetr import read_mdetr
from pipeline.annotations.sbu import read_sbu
from pipeline.annotations.table import read_table
from pipeline.annotations.visual_genome import read_visual_genome
from pipeline.manifest import Source
from pipeline.rows import Reader

READERS: Mapping[str, Reader] = {
    "cc3m": read_cc3m,
    "coco": read_coco,
    "flickr30k": read_flickr30k,
    "mdetr": read_mdetr,
    "sbu": read_sbu,
    "table": read_table,
    "visual_genome": read_visual_genome,
}
"""By the name that a manifest's `reader` gives."""

OPTIONS: Mapping[str, Mapping[str, type[str] | type[int]]] = {
    "coco": {"karpathy_splits": str},
    "flickr30k": {"splits": str},
    "visual_genome": {"max_tokens": int},
}
"""What a reader takes in a source's `options`, and of which type; the others take none."""


def ids_of(source: Source, folder: Path) -> Iterator[tuple[str, ...]]:
    """The ids of every candidate that `source`'s reader gives, in any order. Raises `AnnotationError`."""
    yield from (candidate.sample.ids for candidate in READERS[source.reader](source, folder))
