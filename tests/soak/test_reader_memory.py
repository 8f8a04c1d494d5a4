"""Every reader at full size, in a process of its own: what it finds, to the row, in at most 1.2 GB of memory.

`make soak SCALE=0.01` for smaller files. What each takes is printed (`pytest -s`): seconds of one core, and their share of
a row of annotation.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests import full_size
from tests.full_size import Written

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

SCALE = float(os.environ.get("SCALE", "1"))
MOST_BYTES = 1_200_000_000
ROOT = Path(__file__).parents[2]
READ = """
import json, resource, sys
from pathlib import Path
from pipeline.annotations import READERS, ids_of
from pipeline.manifest import Source
reader, annotations, options, what, folder = json.loads(sys.argv[1])
source = Source(name="world", manifest="world", phase="coarse", role="train", split="train", licence="CC0", reader=reader,
                annotations=tuple(annotations), images=("images",), options=options)
found = {"images": 0, "rows": 0, "refused": 0}
if what == "ids":
    for ids in ids_of(source, Path(folder)):
        found["images"] += 1
else:
    for candidate in READERS[reader](source, Path(folder)):
        found["images"] += 1
        found["rows"] += len(candidate.rows)
        found["refused"] += len(candidate.refused)
used = resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss, into which Linux counts what the process had been before it became this one: a fork of pytest.
peak_kib = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
print(json.dumps([found, peak_kib * 1024, used.ru_utime + used.ru_stime]))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not `tmp_path`, which pytest keeps: up to 3 GB."""
    with TemporaryDirectory() as path:
        yield Path(path)


def check(folder: Path, reader: str, names: list[str], written: Written, options: dict[str, Any] | None = None) -> None:
    """The reader, and `ids_of`, find in the files `names` what has been written."""
    for what, rows in (("candidates", written.rows), ("ids", 0)):
        asked = json.dumps([reader, names, options or {}, what, str(folder)])
        run = subprocess.run([sys.executable, "-c", READ, asked], cwd=ROOT, check=True, capture_output=True, text=True)
        found, most_bytes, seconds = json.loads(run.stdout)
        share = f"{seconds:.1f} s, {seconds * 1e6 / written.rows:.1f} us a row"
        print(f"{', '.join(names)}: {what} in {most_bytes / 1e6:.0f} MB, {share}")
        assert found == {"images": written.images, "rows": rows, "refused": 0}
        assert most_bytes <= MOST_BYTES


def test_cocos_captions(folder: Path) -> None:
    name = "captions_train2017.json"
    check(folder, "coco", [name], full_size.coco_captions(folder / name, SCALE))


def test_karpathys_coco(folder: Path) -> None:
    name = "dataset_coco.json"
    check(folder, "coco", [name], full_size.karpathy_coco(folder / name, SCALE), {"karpathy_splits": "train restval"})


def test_cocos_captions_chosen_by_karpathys_file(folder: Path) -> None:
    names = ["captions_train2017.json", "dataset_coco.json"]
    captions = full_size.coco_captions(folder / names[0], SCALE)
    images = full_size.karpathy_coco(folder / names[1], SCALE).images
    chosen = Written(images, captions.rows - 5 * (captions.images - images))
    check(folder, "coco", names, chosen, {"karpathy_splits": "train restval"})


def test_karpathys_flickr30k(folder: Path) -> None:
    name = "dataset_flickr30k.json"
    check(folder, "flickr30k", [name], full_size.karpathy_flickr30k(folder / name, SCALE))


def test_visual_genomes_regions(folder: Path) -> None:
    names = ["image_data.json", "region_descriptions.json"]
    full_size.image_data(folder / names[0], SCALE)
    check(folder, "visual_genome", names, full_size.region_descriptions(folder / names[1], SCALE))


def test_visual_genomes_objects(folder: Path) -> None:
    names = ["image_data.json", "objects.json"]
    full_size.image_data(folder / names[0], SCALE)
    check(folder, "visual_genome", names, full_size.objects(folder / names[1], SCALE))


def test_mdetrs_mixed_rows(folder: Path) -> None:
    name = "final_mixed_train.json"
    check(folder, "mdetr", [name], full_size.mixed(folder / name, SCALE))


def test_referring_expressions(folder: Path) -> None:
    name = "finetune_refcoco_train.json"
    check(folder, "mdetr", [name], full_size.refcoco(folder / name, SCALE))


def test_sbu(folder: Path) -> None:
    name = "sbu-captions-all.json"
    check(folder, "sbu", [name], full_size.sbu(folder / name, SCALE))


def test_cc3m(folder: Path) -> None:
    name = "GCC-training.tsv"
    check(folder, "cc3m", [name], full_size.cc3m(folder / name, SCALE))


@pytest.mark.parametrize("name", ["mine.csv", "mine.jsonl", "mine.parquet"])
def test_a_table_of_a_million_rows(folder: Path, name: str) -> None:
    check(folder, "table", [name], full_size.table(folder / name, SCALE))
