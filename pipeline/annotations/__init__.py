"""Readers: rows in a dataset's official format become candidates, one per image."""

from collections.abc import Mapping

from pipeline.annotations.coco import read_coco
from pipeline.annotations.mdetr import read_mdetr
from pipeline.rows import Reader

READERS: Mapping[str, Reader] = {
    "coco": read_coco,
    "mdetr": read_mdetr,
}
"""By the name that a manifest's `reader` gives."""
