"""Readers: rows in a dataset's official format become candidates, one per image."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pipeline.annotations.cc3m import cc3m_ids, read_cc3m
from pipeline.annotations.coco import coco_ids, read_coco
from pipeline.annotations.flickr30k import flickr30k_ids, read_flickr30k
from pipeline.annotations.mdetr import mdetr_ids, read_mdetr
from pipeline.annotations.sbu import read_sbu, sbu_ids
from pipeline.annotations.table import read_table, table_ids
from pipeline.annotations.visual_genome import read_visual_genome, visual_genome_ids
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

_IDS: Mapping[str, Callable[[Source, Path], Iterator[tuple[str, ...]]]] = {
    "cc3m": cc3m_ids,
    "coco": coco_ids,
    "flickr30k": flickr30k_ids,
    "mdetr": mdetr_ids,
    "sbu": sbu_ids,
    "table": table_ids,
    "visual_genome": visual_genome_ids,
}


def ids_of(source: Source, folder: Path) -> Iterator[tuple[str, ...]]:
    """The `ids` of the sample of every candidate that `READERS[source.reader]` would yield, in any order.

    It costs a fraction of that. Of Visual Genome it gives all images of image_data.json, also those without regions or
    objects, and none that this file does not know: those have no texts. Raises `AnnotationError`, but need not find all
    that the reader finds.
    """
    return _IDS[source.reader](source, folder)
