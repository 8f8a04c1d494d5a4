"""The manifests that ship: every one is read, and says what the datasets' pages say."""

import dataclasses
import tomllib
from pathlib import Path

import pytest

from bitgen.training.phases import coarse, fine
from pipeline.annotations import READERS
from pipeline.crawling.manners import Crawling
from pipeline.downloading.download import wanted_files
from pipeline.manifest import Manifest, Source, read_manifest

FOLDER = Path(__file__).parents[2] / "manifests"
NAMES = ["cc3m", "coco", "flickr30k", "mixed", "refcoco", "sample", "sbu", "visual_genome", "weights"]


def shipped(name: str) -> Manifest:
    return read_manifest(FOLDER / f"{name}.toml")


def sources() -> list[Source]:
    return [source for name in NAMES for source in shipped(name).sources]


def test_these_manifests_ship() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.toml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_is_named_as_its_file(name: str) -> None:
    assert shipped(name).name == name


def test_every_reader_that_a_source_names_exists() -> None:
    assert {source.reader for source in sources()} <= set(READERS)


def test_no_two_sources_make_the_same_dataset() -> None:
    datasets = [source.dataset for source in sources()]
    assert len(datasets) == len(set(datasets))


def test_every_source_on_visual_genome_needs_the_ids_of_its_images() -> None:
    needing = {s.name for s in sources() if any(path.endswith("image_data.json") for path in s.needs)}
    assert needing == {"vg", "vg-objects", "mixed", "mixed_no_coco"}


def test_refcoco_has_the_eight_published_evaluation_splits() -> None:
    assert {s.dataset for s in shipped("refcoco").sources if s.role == "eval"} == {
        "eval/refcoco-val",
        "eval/refcoco-testa",
        "eval/refcoco-testb",
        "eval/refcoco+-val",
        "eval/refcoco+-testa",
        "eval/refcoco+-testb",
        "eval/refcocog-val",
        "eval/refcocog-test",
    }


def test_crawled_sources_turn_their_images_upright() -> None:
    assert {(s.name, s.orientation) for s in sources() if s.crawl} == {("sbu", "apply"), ("cc3m", "apply")}


def test_crawled_sources_state_how_they_are_crawled() -> None:
    stated = {name: tomllib.loads((FOLDER / f"{name}.toml").read_text())["crawl"] for name in ("sbu", "cc3m")}
    fields = {field.name for field in dataclasses.fields(Crawling)} - {"private"}
    assert {name: set(table) for name, table in stated.items()} == {"sbu": fields, "cc3m": fields}


def test_only_crawled_sources_may_lose_a_tenth_of_their_rows() -> None:
    assert {s.name for s in sources() if s.refusal_ceiling > 0.1} == {"sbu", "cc3m"}


def test_the_zip_of_the_training_photographs_is_the_official_one() -> None:
    train = shipped("coco").files[0]
    assert (train.bytes, train.sha256[:8]) == (19336861798, "69a8bb58")


def test_the_embedded_sample_stays_under_12_mb() -> None:
    assert sum(file.bytes for file in shipped("sample").files) < 12e6


def test_every_dataset_that_a_phase_names_comes_from_a_manifest() -> None:
    built = {source.dataset for path in sorted(FOLDER.glob("*.toml")) for source in read_manifest(path).sources}
    named = {name for phase in (coarse(), fine()) for name in [*phase.data.mixture, *phase.data.validation]}
    assert named - built == set()


def wanted_of(source: str, *names: str) -> set[str]:
    return {each.name for each in wanted_files([shipped(name) for name in names], Path("nowhere"), [source])}


def test_mixed_brings_the_archive_of_refcoco_that_holds_it() -> None:
    wanted = wanted_of("mixed", "refcoco", "mixed")
    assert wanted == {"refcoco/mdetr_annotations.tar.gz", "mixed/gqa_images.zip"}


def test_cc3m_brings_the_lists_that_it_needs_and_no_images_of_others() -> None:
    assert wanted_of("cc3m", "coco", "flickr30k", "cc3m") == {
        "cc3m/GCC-training.tsv",
        "cc3m/GCC-1.1.0-Validation.tsv",
        "coco/annotations_trainval2017.zip",
        "coco/caption_datasets.zip",
        "flickr30k/caption_datasets.zip",
        "flickr30k/flickr30k_entities/val.txt",
        "flickr30k/flickr30k_entities/test.txt",
    }
