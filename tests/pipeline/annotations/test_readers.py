"""What holds of every reader."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.annotations import READERS, ids_of
from pipeline.manifest import Source
from tests import full_size, worlds
from tests.full_size import Written

URL = "http://static.flickr.com/2723"
WORLDS: dict[str, Callable[[Path], Source]] = {
    "coco": worlds.coco,
    "karpathy": worlds.karpathy,
    "coco chosen by karpathy": lambda folder: replace(
        worlds.karpathy(folder), annotations=("dataset_coco.json", "annotations/captions_train2017.json")
    ),
    "sbu": lambda folder: worlds.sbu(folder, URL),
    "cc3m": lambda folder: worlds.cc3m(folder, URL),
    "visual_genome": worlds.visual_genome,
    "visual_genome objects": lambda folder: replace(
        worlds.visual_genome(folder), annotations=("objects.json", "image_data.json")
    ),
    "flickr30k": worlds.flickr30k,
    "flickr30k karpathy": lambda folder: replace(
        worlds.flickr30k(folder), annotations=("dataset_flickr30k.json",), options={"splits": "train"}
    ),
    "refexp": worlds.refexp,
    "mixed": worlds.mixed,
    "flickr_grounded": worlds.flickr_grounded,
    "csv": lambda folder: worlds.table(folder, ".csv"),
    "jsonl": lambda folder: worlds.table(folder, ".jsonl"),
    "parquet": lambda folder: worlds.table(folder, ".parquet"),
}
SIZES: dict[str, tuple[str, tuple[tuple[str, Callable[[Path, float], Written]], ...]]] = {
    "coco": ("coco", (("captions.json", full_size.coco_captions),)),
    "flickr30k": ("flickr30k", (("k.json", full_size.karpathy_flickr30k),)),
    "regions": (
        "visual_genome",
        (("image_data.json", full_size.image_data), ("r.json", full_size.region_descriptions)),
    ),
    "objects": ("visual_genome", (("image_data.json", full_size.image_data), ("o.json", full_size.objects))),
    "mixed": ("mdetr", (("mixed.json", full_size.mixed),)),
    "refcoco": ("mdetr", (("refcoco.json", full_size.refcoco),)),
    "sbu": ("sbu", (("sbu.json", full_size.sbu),)),
    "cc3m": ("cc3m", (("cc3m.tsv", full_size.cc3m),)),
    "csv": ("table", (("mine.csv", full_size.table),)),
    "jsonl": ("table", (("mine.jsonl", full_size.table),)),
    "parquet": ("table", (("mine.parquet", full_size.table),)),
}


@pytest.mark.parametrize("name", WORLDS)
def test_ids_are_those_of_the_candidates(tmp_path: Path, name: str) -> None:
    source = WORLDS[name](tmp_path)
    found = [candidate.sample.ids for candidate in READERS[source.reader](source, tmp_path)]
    assert sorted(ids_of(source, tmp_path)) == sorted(found)


@pytest.mark.parametrize("name", WORLDS)
def test_candidates_come_in_the_same_order_at_every_call(tmp_path: Path, name: str) -> None:
    source = WORLDS[name](tmp_path)
    assert list(READERS[source.reader](source, tmp_path)) == list(READERS[source.reader](source, tmp_path))


@pytest.mark.parametrize("name", SIZES)
def test_a_file_of_any_size_gives_every_row_once(tmp_path: Path, name: str) -> None:
    reader, files = SIZES[name]
    *_, written = [write(tmp_path / file, 0.0002) for file, write in files]
    candidates = list(READERS[reader](worlds.source(reader, [file for file, _ in files], ["."]), tmp_path))
    rows = [row for candidate in candidates for row in candidate.rows]
    assert (len(candidates), len(rows), len(set(rows))) == (written.images, written.rows, written.rows)


@pytest.mark.parametrize("name", SIZES)
def test_ids_of_a_file_of_any_size_are_those_of_the_candidates(tmp_path: Path, name: str) -> None:
    reader, files = SIZES[name]
    [write(tmp_path / file, 0.0002) for file, write in files]
    source = worlds.source(reader, [file for file, _ in files], ["."])
    assert sorted(ids_of(source, tmp_path)) == sorted(c.sample.ids for c in READERS[reader](source, tmp_path))


def test_ids_of_visual_genome_are_those_of_images_without_regions_too(tmp_path: Path) -> None:
    source = worlds.visual_genome(tmp_path)
    (tmp_path / "region_descriptions.json").write_text("[]")
    assert sorted(ids_of(source, tmp_path)) == [("coco:9", "vg:2"), ("flickr:10002456", "vg:5"), ("vg:61",)]


def test_a_table_row_that_is_no_image_has_no_ids(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"path": "../a.jpg", "caption": "a", "coco_id": 9}\n')
    assert list(ids_of(worlds.source("table", ["mine.jsonl"], ["."]), tmp_path)) == [()]
