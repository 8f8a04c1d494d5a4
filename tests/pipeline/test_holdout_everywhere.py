"""No evaluation image in any training shard of any source, whatever it is known by there: in the night of
`tests/night.py`, every training source has evaluation photographs under every id that they can have."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bitgen.record import Sample
from pipeline.annotations.ids import ids_of_url
from pipeline.holdout import SHIPPED, read_ids
from pipeline.ledger import Line
from tests.night import Night
from tests.official import E_TEST, E_VAL, F_COCO, F_SAME, F_SMALL, F_TEST, F_VAL, K_SECOND, K_TEST, K_TRAIN, K_VAL

pytest_plugins = ["tests.night"]


class Planted(NamedTuple):
    """An evaluation photograph in a source to train on."""

    dataset: str
    key: str
    way: str
    """In which it is known there."""
    detail: str
    """What the ledger says: the id that is blocked, or the evaluation image that it is."""


COCO = {
    42: ("Karpathy's test, of the shipped list", "coco:42"),
    285: ("Karpathy's val, of the shipped list", "coco:285"),
    34: ("Flickr30k's test, by COCO's flickr_url", "coco:34"),
    36: ("the bytes of one", "same bytes as eval/coco-test coco-000000000042"),
    62: ("a smaller copy of one", "looks like eval/coco-val coco-000000000285"),
}
"""By COCO's id: the way, and what is said."""
VAL2017 = {6818: ("COCO val2017, by its id", "coco:6818")}
KARPATHY = {
    49: ("Karpathy's test, of no shipped list", "coco:49"),
    359: ("Karpathy's test, of the shipped list alone", "coco:359"),
}
REFCOCO = {
    154: ("RefCOCO's val, of the shipped list", "coco:154"),
    64: ("RefCOCO's testA", "coco:64"),
    71: ("RefCOCO's testB", "coco:71"),
}
PLUS = {
    72: ("RefCOCO+'s val", "coco:72"),
    73: ("RefCOCO+'s testA", "coco:73"),
    77: ("RefCOCO+'s testB", "coco:77"),
}
COCOG = {78: ("RefCOCOg's val", "coco:78"), 81: ("RefCOCOg's test", "coco:81")}
GENOME = {
    7: ("Karpathy's test, by coco_id", "coco:42"),
    14: ("COCO val2017, by coco_id", "coco:6818"),
    15: ("RefCOCO+'s testA, by coco_id", "coco:73"),
    11: ("Flickr30k's test, by coco_id and COCO's flickr_url", "coco:34"),
    8: ("Flickr30k's test, by flickr_id", f"flickr:{F_TEST}"),
    10: ("COCO's test, by flickr_id and COCO's flickr_url", f"flickr:{F_COCO}"),
}
"""By Visual Genome's id, in its own sources."""
GENOME_BYTES = {
    12: ("the bytes of one", "same bytes as eval/coco-test coco-000000000049"),
    13: ("a smaller copy of one", "looks like eval/coco-val2017 coco-000000006818"),
}
MIXED_GENOME = {id: (way, f"vg:{id}") for id, (way, _) in GENOME.items()} | GENOME_BYTES
"""Likewise in the mixed sources, whose files know Visual Genome's id alone."""
FLICKR = {
    F_COCO: ("COCO's test, by COCO's flickr_url", f"flickr:{F_COCO}"),
    F_SAME: ("the bytes of one", f"same bytes as eval/flickr30k-entities-test flickr-{F_TEST}"),
    F_SMALL: ("a smaller copy of one", "looks like eval/refcoco-testa coco-000000000064"),
}
KARPATHYS_OWN = {id: (f"Karpathy's {split}", f"flickr:{id}") for id, split in ((K_VAL, "val"), (K_TEST, "test"))}
ENTITIES_OWN = {id: (f"Entities' {split}", f"flickr:{id}") for id, split in ((E_VAL, "val"), (E_TEST, "test"))}
LINKS = {
    8: ("Flickr30k's test, at static.flickr.com", f"flickr:{F_TEST}"),
    9: ("COCO's test, at farm4.staticflickr.com", f"flickr:{F_COCO}"),
    10: ("COCO val2017, at farm9.staticflickr.com", "flickr:7006818"),
    11: ("the bytes of one", "same bytes as eval/coco-test coco-000000000042"),
    12: ("a smaller copy of one", "looks like eval/coco-val2017 coco-000000006818"),
}
"""By row."""
CC3M = {
    13: ("COCO val2017, by its URL", "coco:6818"),
    14: ("COCO's test, by its URL", "coco:42"),
    15: ("the bytes of a validation image", "same bytes as eval/cc3m-val cc3m-000000000"),
}
SOURCES = (
    ("coarse/coco-train", "coco-{:012d}", COCO | KARPATHY | REFCOCO | PLUS | COCOG),
    ("coarse/vg-train", "vg-{}", GENOME | GENOME_BYTES),
    ("fine/vg-objects-train", "vg-{}", GENOME | GENOME_BYTES),
    ("coarse/sbu-train", "sbu-{:09d}", LINKS),
    ("coarse/cc3m-train", "cc3m-{:09d}", LINKS | CC3M),
    ("coarse/flickr30k-train", "flickr-{}", FLICKR | ENTITIES_OWN),
    ("fine/flickr30k-grounded-train", "flickr-{}", FLICKR | KARPATHYS_OWN),
    ("fine/refcoco-train", "coco-{:012d}", COCO | VAL2017 | PLUS | COCOG),
    ("fine/refcoco+-train", "coco-{:012d}", COCO | VAL2017 | REFCOCO | COCOG),
    ("fine/refcocog-train", "coco-{:012d}", COCO | VAL2017 | REFCOCO | PLUS),
    ("fine/mixed-train", "coco-{:012d}", COCO | VAL2017 | {id: (REFCOCO | PLUS)[id] for id in (154, 73)}),
    ("fine/mixed-train", "vg-{}", MIXED_GENOME),
    ("fine/mixed_no_coco-train", "vg-{}", MIXED_GENOME),
)
PLANTED = [Planted(dataset, key.format(id), *known[id]) for dataset, key, known in SOURCES for id in known]
each_planted = pytest.mark.parametrize("planted", PLANTED, ids=[f"{each.dataset}: {each.way}" for each in PLANTED])

TRAINED = {
    "coarse/coco-train": {"coco-000000000009", "coco-000000000025", "coco-000000000030"},
    "coarse/vg-train": {"vg-2", "vg-5", "vg-61"},
    "fine/vg-objects-train": {"vg-2", "vg-5", "vg-61"},
    "coarse/sbu-train": {"sbu-000000000", "sbu-000000001", "sbu-000000007"},
    "coarse/cc3m-train": {"cc3m-000000000", "cc3m-000000001", "cc3m-000000007"},
    "coarse/flickr30k-train": {f"flickr-{K_TRAIN}", f"flickr-{K_SECOND}"},
    "fine/flickr30k-grounded-train": {f"flickr-{K_TRAIN}", f"flickr-{K_SECOND}"},
    "fine/refcoco-train": {"coco-000000000009", "coco-000000000025"},
    "fine/refcoco+-train": {"coco-000000000009", "coco-000000000030"},
    "fine/refcocog-train": {"coco-000000000025", "coco-000000000030"},
    "fine/mixed-train": {"coco-000000000009", "coco-000000000025", "vg-2", "vg-5", "vg-61", "gqa-161313"},
    "fine/mixed_no_coco-train": {"vg-2", "vg-61"},
}
"""All that may be trained on."""
EVALUATED = {
    "eval/coco-val": {"coco-000000000139", "coco-000000000285"},
    "eval/coco-test": {"coco-000000000042", "coco-000000000049"},
    "eval/coco-val2017": {"coco-000000000139", "coco-000000006818"},
    "eval/flickr30k-val": {f"flickr-{F_VAL}", f"flickr-{K_VAL}"},
    "eval/flickr30k-test": {f"flickr-{F_TEST}", f"flickr-{K_TEST}"},
    "eval/flickr30k-entities-val": {f"flickr-{F_VAL}", f"flickr-{E_VAL}"},
    "eval/flickr30k-entities-test": {f"flickr-{F_TEST}", f"flickr-{E_TEST}"},
    "eval/flickr30k-grounded-val": {f"flickr-{F_VAL}", f"flickr-{E_VAL}"},
    "eval/flickr30k-grounded-test": {f"flickr-{F_TEST}", f"flickr-{E_TEST}"},
    "eval/refcoco-val": {"coco-000000000154"},
    "eval/refcoco-testa": {"coco-000000000064"},
    "eval/refcoco-testb": {"coco-000000000071"},
    "eval/refcoco+-val": {"coco-000000000072"},
    "eval/refcoco+-testa": {"coco-000000000073"},
    "eval/refcoco+-testb": {"coco-000000000077"},
    "eval/refcocog-val": {"coco-000000000078"},
    "eval/refcocog-test": {"coco-000000000081"},
    "eval/cc3m-val": {"cc3m-000000000"},
}
_COCO = (42, 49, 359, 285, 139, 6818, 154, 64, 71, 72, 73, 77, 78, 81)
LINKED = {
    *(f"coco:{id}" for id in (*_COCO, 34)),
    *(f"flickr:{7000000 + id}" for id in _COCO),
    *(f"flickr:{id}" for id in (F_VAL, F_TEST, E_VAL, E_TEST, K_VAL, K_TEST)),
    *(f"vg:{id}" for id in (7, 8, 10, 11, 14, 15)),
}
"""Every id of every evaluation photograph of the night; the shipped lists have more."""


@pytest.fixture(scope="module")
def ledgers(night: Night) -> dict[str, list[Line]]:
    """Of every dataset to train on."""
    return {dataset: night.ledger(dataset) for dataset in TRAINED}


@pytest.fixture(scope="module")
def records(night: Night) -> dict[str, list[Sample]]:
    """Every record of every shard, by dataset."""
    return {dataset: night.samples(dataset) for dataset in night.datasets}


@pytest.fixture(scope="module")
def trained(records: dict[str, list[Sample]]) -> list[Sample]:
    """Every record of every shard to train on."""
    return [sample for dataset in TRAINED for sample in records[dataset]]


@pytest.fixture(scope="module")
def evaluated(records: dict[str, list[Sample]]) -> list[Sample]:
    """Likewise to evaluate on."""
    return [sample for dataset in EVALUATED for sample in records[dataset]]


def shipped_ids() -> Iterator[str]:
    return (id for path in SHIPPED.glob("*.txt") for id in read_ids(path))


def test_these_are_all_datasets_of_the_night(night: Night) -> None:
    assert night.datasets == sorted([*TRAINED, *EVALUATED])


@each_planted
def test_its_rows_are_held_out_and_the_ledger_says_by_what(
    night: Night, ledgers: dict[str, list[Line]], planted: Planted
) -> None:
    rows = night.rows(planted.dataset)[planted.key]
    ends = [(line.row, line.outcome, line.detail) for line in ledgers[planted.dataset] if line.row in rows]
    assert sorted(ends) == [(row, "held_out", planted.detail) for row in sorted(rows)]


@pytest.mark.parametrize(
    ("url", "id"),
    [
        (f"http://farm3.staticflickr.com/2723/{F_TEST}_b0f291553e_z_d.jpg", f"flickr:{F_TEST}"),  # Flickr's "download"
        (f"http://photos1.flickr.com/2723/{F_TEST}_b0f291553e.jpg", f"flickr:{F_TEST}"),  # Flickr's hosts until 2006
        ("http://mscoco.org/images/42", "coco:42"),  # coco_url of the annotations of 2014
    ],
)
def test_older_addresses_give_the_id_too(url: str, id: str) -> None:
    assert ids_of_url(url) == (id,)


@pytest.mark.parametrize("dataset", TRAINED)
def test_what_may_be_trained_on_is_there_and_nothing_else(records: dict[str, list[Sample]], dataset: str) -> None:
    assert {sample.key for sample in records[dataset]} == TRAINED[dataset]


@pytest.mark.parametrize("dataset", EVALUATED)
def test_the_evaluation_photographs_are_in_their_shards(records: dict[str, list[Sample]], dataset: str) -> None:
    assert {sample.key for sample in records[dataset]} == EVALUATED[dataset]


def test_no_training_record_has_an_id_of_a_shipped_list(trained: list[Sample]) -> None:
    assert {id for sample in trained for id in sample.ids} & set(shipped_ids()) == set()


def test_no_training_record_has_an_id_of_an_evaluation_record(trained: list[Sample], evaluated: list[Sample]) -> None:
    evaluation = {id for sample in evaluated for id in sample.ids}
    assert {id for sample in trained for id in sample.ids} & evaluation == set()


def test_no_training_record_has_any_id_of_an_evaluation_photograph(trained: list[Sample]) -> None:
    assert {id for sample in trained for id in sample.ids} & LINKED == set()


def test_no_training_image_has_the_bytes_of_an_evaluation_image(trained: list[Sample], evaluated: list[Sample]) -> None:
    assert {sample.sha256 for sample in trained} & {sample.sha256 for sample in evaluated} == set()


def test_every_dataset_is_built_under_one_block_list_of_these_ids(night: Night) -> None:
    ids = "".join(f"{id}\n" for id in sorted({*shipped_ids(), *LINKED}))
    expected = hashlib.sha256(ids.encode()).hexdigest()
    assert {night.dataset(dataset)["holdout_sha256"] for dataset in night.datasets} == {expected}


def test_every_training_dataset_was_compared_with_the_same_images(night: Night) -> None:
    assert len({night.dataset(dataset)["looks_sha256"] for dataset in TRAINED}) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("visual_genome/image_data.json", "vg"),
        ("visual_genome/image_data.json", "vg-objects"),
        ("visual_genome/image_data.json", "mixed"),
        ("visual_genome/image_data.json", "mixed_no_coco"),
        ("flickr30k/dataset_flickr30k.json", "coco"),
        ("flickr30k/dataset_flickr30k.json", "refcocog"),
        ("flickr30k/dataset_flickr30k.json", "sbu"),
        ("flickr30k/flickr30k_entities/test.txt", "flickr30k"),
        ("coco/dataset_coco.json", "refcoco"),
        ("coco/annotations/captions_val2017.json", "cc3m"),
        ("refcoco/OpenSource/finetune_refcoco+_testA.json", "refcoco"),
    ],
)
def test_without_a_file_that_the_rule_needs_the_build_stops_and_names_it(
    night: Night, tmp_path: Path, path: str, source: str
) -> None:
    made = night.without(tmp_path, path)
    ran = made.shards("--workers", "1", "--sources", source)
    last = ran.err.splitlines()[-1]
    assert ran.code == 1
    assert last.startswith(f"bitgen-shards: expected {made.data}/raw/{path} for ")
    assert made.datasets == []


def test_what_the_rule_cannot_judge_is_not_built_with_the_rest(night: Night, tmp_path: Path) -> None:
    ran = night.without(tmp_path, "visual_genome/image_data.json").shards("--dry-run")
    skipped = [line.partition(":")[0] for line in ran.err.splitlines() if "image_data.json is not downloaded" in line]
    assert skipped == ["fine/mixed-train", "fine/mixed_no_coco-train", "coarse/vg-train", "fine/vg-objects-train"]


def by_id(night: Night, dataset: str) -> list[tuple[str, str]]:
    """(row, id) of what is held out by an id."""
    return [(line.row, line.detail) for line in night.ledger(dataset) if ":" in line.detail.partition(" ")[0]]


def test_without_regions_visual_genomes_links_still_hold(night: Night, tmp_path: Path) -> None:
    made = night.without(tmp_path, "visual_genome/region_descriptions.json")
    made.shards("--workers", "1", "--sources", "mixed_no_coco")
    held = by_id(made, "fine/mixed_no_coco-train")
    assert held == by_id(night, "fine/mixed_no_coco-train")
    assert len(held) > 3


def test_flickr30k_alone_is_not_built_without_cocos_flickr_ids(night: Night, tmp_path: Path) -> None:
    ran = night.without(tmp_path, "coco/annotations/captions_train2017.json").shards("--dry-run")
    said = [
        line.partition(":")[0] for line in ran.err.splitlines() if "captions_train2017.json is not downloaded" in line
    ]
    assert "coarse/flickr30k-train" in said
