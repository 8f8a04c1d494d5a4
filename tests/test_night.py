"""`make download-coarse download-fine shards`, in miniature and from the manifests that ship: the day after, every row
of every official file is accounted for."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.show import main as show
from pipeline.fetch import TRIES
from pipeline.ledger import NOT_REFUSED
from pipeline.manifest import read_manifest
from tests.night import COARSE, FINE, SHIPPED, Night, Ran
from tests.servers import Cut, Status

pytest_plugins = ["tests.night"]

SOURCES = [source for name in (*COARSE, *FINE) for source in read_manifest(SHIPPED / f"{name}.toml").sources]
DATASETS = sorted(source.dataset for source in SOURCES)
_SBU, _CC3M = "sbu-captions-all.json#", "GCC-training.tsv#"
_CAPTIONS, _MIXED = "captions_train2017.json#", "final_mixed_train_no_coco.json#"
REFUSED = {
    "coarse/coco-train": {
        f"{_CAPTIONS}103": "empty_text",
        f"{_CAPTIONS}134": "no_image",
        f"{_CAPTIONS}135": "no_image",
        f"{_CAPTIONS}136": "decode_error",
        f"{_CAPTIONS}137": "decode_error",
    },
    "coarse/sbu-train": {
        f"{_SBU}3": "http_404",
        f"{_SBU}4": "unknown_format",
        f"{_SBU}5": "opted_out",
        f"{_SBU}6": "bad_url",
    },
    "coarse/cc3m-train": {
        f"{_CC3M}3": "http_404",
        f"{_CC3M}4": "unknown_format",
        f"{_CC3M}5": "opted_out",
        f"{_CC3M}6": "bad_url",
    },
    "eval/cc3m-val": {"GCC-1.1.0-Validation.tsv#1": "http_404"},
    "coarse/vg-train": {
        "region_descriptions.json#201": "bad_box",
        "region_descriptions.json#40400": "unknown_image",
        "region_descriptions.json#40401": "unknown_image",
    },
    "fine/vg-objects-train": {"objects.json#2001": "empty_text"},
    "fine/refcoco+-train": {"finetune_refcoco+_train.json#3": "bad_box"},
    "fine/mixed-train": {"final_mixed_train.json#0/1": "bad_box"},
    "fine/mixed_no_coco-train": {f"{_MIXED}1": "bad_span", f"{_MIXED}1/2": "bad_span", f"{_MIXED}1/3": "bad_span"},
}
"""By dataset: every row, or part of one (`row/annotation`), that cannot be used, and why."""

REGIONS = [
    f"/{host}/region_descriptions.json.zip"
    for host in ("visualgenome.org/static/data/dataset", "homes.cs.washington.edu/~ranjay/visualgenome/data/dataset")
]
IMAGES = "/cs.stanford.edu/people/rak248/VG_100K_2/images.zip"


@dataclass
class Nights:
    """Commands that ended, and what they asked for."""

    night: Night
    """As they left it."""
    ran: list[Ran]
    asked: list[list[tuple[str, str | None]]]
    """By download: (path, Range) of every request."""


def asked(night: Night, since: int) -> list[tuple[str, str | None]]:
    """(path, Range) of every request after the first `since`."""
    return [(path, headers.get("Range")) for path, headers in night.server.requests[since:]]


@pytest.fixture(scope="module")
def stopped(night: Night, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """A night that one server ends in the middle of a file; another's first mirror is down, and a photograph gone. The
    next one has what is coarse, and the one after it all."""
    made = Night(night.server, tmp_path_factory.mktemp("stopped"))
    made.prepare("sbu", "cc3m")
    down = [Status(503, {"Retry-After": "0"})] * TRIES
    made.server.faults |= {IMAGES: [Cut(1000), *down], REGIONS[0]: [*down], "/sbu/two.jpg": [Status(404)]}
    done = Nights(made, [], [])
    for names, more in ((COARSE, ()), (COARSE, ("--retry-failed",)), (FINE, ())):
        since = len(made.server.requests)
        done.ran.append(made.download(*names, more=more))
        done.asked.append(asked(made, since))
        made.server.faults.clear()
        if done.ran[-1].code == 0:
            done.ran.append(made.shards("--workers", "2"))
    return done


@pytest.fixture(scope="module")
def few(night: Night, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """The night of `SOURCES="coco vg"`."""
    made = Night(night.server, tmp_path_factory.mktemp("few"))
    made.prepare()
    since, sources = len(made.server.requests), ("--sources", "coco", "vg")
    ran = [made.download(*names, more=sources) for names in (COARSE, FINE)]
    return Nights(made, [*ran, made.shards("--workers", "1", *sources)], [asked(made, since)])


def test_the_night_is_the_one_of_the_makefile() -> None:
    lists = re.findall(r"(?m)^(?:COARSE|FINE) := (.*)$", (SHIPPED.parent / "Makefile").read_text())
    assert [tuple(each.split()) for each in lists] == [COARSE, FINE]


def test_every_command_succeeds(night: Night) -> None:
    assert {name: ran.code for name, ran in night.ran.items()} == {
        "download-coarse": 0,
        "download-fine": 0,
        "shards": 0,
    }


def test_every_dataset_of_every_manifest_is_built(night: Night) -> None:
    assert night.datasets == DATASETS


def test_the_night_ends_with_what_to_run_next(night: Night) -> None:
    last = night.ran["shards"].out.splitlines()[-1]
    assert last == f"next: bitgen-train --phase coarse --data.root {night.data}"


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_row_of_the_official_files_has_one_line_in_the_ledger(night: Night, dataset: str) -> None:
    rows = [row for rows in night.rows(dataset).values() for row in rows]
    parts = [row for row in REFUSED.get(dataset, {}) if "/" in row]
    assert sorted(line.row for line in night.ledger(dataset)) == sorted(rows + parts)


@pytest.mark.parametrize("dataset", DATASETS)
def test_what_cannot_be_used_is_refused_with_its_reason(night: Night, dataset: str) -> None:
    refused = {line.row: line.outcome for line in night.ledger(dataset) if line.outcome not in NOT_REFUSED}
    assert refused == REFUSED.get(dataset, {})


def test_rows_of_one_url_become_one_sample_with_both_captions(night: Night) -> None:
    texts = {sample.key: [text.text for text in sample.texts] for sample in night.samples("coarse/sbu-train")}
    assert texts["sbu-000000000"] == ["a dog", "the same photograph again"]


def test_what_is_built_is_whole_and_as_large_as_published(night: Night) -> None:
    ran = night.shards("--verify")
    assert (ran.code, ran.err.count(": whole")) == (0, len(DATASETS)), ran.err


def test_verifying_prints_the_published_counts(night: Night) -> None:
    lines = [line.split() for line in night.shards("--verify").out.splitlines()]
    assert ["eval/refcocog-test", "1", "2", "2", "2", "1", "0.0", "2", "rows"] in lines


def test_every_published_count_is_found(night: Night) -> None:
    said = {name: night.dataset(name) for name in DATASETS}
    assert [name for name in DATASETS if not said[name]["published"].items() <= said[name]["counted"].items()] == []


def test_downloading_again_asks_for_nothing(night: Night) -> None:
    before = len(night.server.requests), len(night.server.heads)
    codes = [night.download(*names).code for names in (COARSE, FINE)]
    assert (codes, len(night.server.requests), len(night.server.heads)) == ([0, 0], *before)


def test_building_again_writes_nothing(night: Night) -> None:
    before = {path: path.stat().st_mtime_ns for path in night.data.glob("shards/*/*/*")}
    ran = night.shards("--workers", "1")
    after = {path: path.stat().st_mtime_ns for path in night.data.glob("shards/*/*/*")}
    assert (ran.code, ran.err.count(": up to date, "), after) == (0, len(DATASETS), before)


def test_the_page_of_the_day_after_names_every_dataset(night: Night, tmp_path: Path) -> None:
    assert show([str(night.data), "--out", str(tmp_path / "data.html")]) == 0
    page = (tmp_path / "data.html").read_text(encoding="utf-8")
    assert [name for name in DATASETS if name not in page] == []


def test_a_server_that_dies_fails_the_download_by_the_name_of_its_file(stopped: Nights) -> None:
    failed = [line for line in stopped.ran[0].err.splitlines() if line.startswith("bitgen-download: ")]
    assert stopped.ran[0].code == 1
    assert len(failed) == 1
    assert failed[0].startswith("bitgen-download: visual_genome/images.zip: expected images.zip from one of 1 mirrors")


def test_all_other_files_are_there_all_the_same(stopped: Nights) -> None:
    said = f"15 of 16 files of {', '.join(COARSE)} are in {stopped.night.data}/raw\n"
    assert said in stopped.ran[0].out


def test_a_mirror_that_is_down_is_passed_over(stopped: Nights) -> None:
    assert [path for path, _ in stopped.asked[0] if path in REGIONS] == [REGIONS[0]] * TRIES + [REGIONS[1]]


def test_the_next_run_asks_for_the_rest_of_the_file_and_for_failed_links_alone(stopped: Nights) -> None:
    links = [f"/{name}/{each}.jpg" for name in ("sbu", "cc3m") for each in ("gone", "page")]
    expected = [(IMAGES, "bytes=1000-"), *((path, None) for path in (*links, "/sbu/two.jpg", "/cc3m/dead.jpg"))]
    assert sorted(stopped.asked[1], key=str) == sorted(expected, key=str)


def test_the_next_runs_end_well(stopped: Nights) -> None:
    assert [ran.code for ran in stopped.ran] == [1, 0, 0, 0, 0], stopped.ran


@pytest.mark.parametrize("dataset", DATASETS)
def test_after_all_of_them_the_shards_are_those_of_one_night(night: Night, stopped: Nights, dataset: str) -> None:
    found = [night.dataset(dataset), stopped.night.dataset(dataset)]
    assert found[1]["shards"] == found[0]["shards"]


@pytest.mark.parametrize("dataset", DATASETS)
def test_after_all_of_them_the_account_is_that_of_one_night(night: Night, stopped: Nights, dataset: str) -> None:
    assert stopped.night.ledger(dataset) == night.ledger(dataset)


def test_sources_bring_only_the_files_that_they_need(few: Nights) -> None:
    karpathy = "/cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
    entities = "/raw.githubusercontent.com/BryanPlummer/flickr30k_entities/master"
    assert sorted(few.asked[0]) == [
        (path, None)
        for path in sorted(
            [
                karpathy,
                IMAGES,
                "/cs.stanford.edu/people/rak248/VG_100K_2/images2.zip",
                "/images.cocodataset.org/annotations/annotations_trainval2017.zip",
                "/images.cocodataset.org/zips/train2017.zip",
                "/images.cocodataset.org/zips/val2017.zip",
                f"{entities}/test.txt",
                f"{entities}/val.txt",
                "/visualgenome.org/static/data/dataset/image_data.json.zip",
                REGIONS[0],
            ]
        )
    ]


def test_sources_build_only_their_datasets(few: Nights) -> None:
    assert [ran.code for ran in few.ran] == [0, 0, 0]
    assert few.night.datasets == [
        "coarse/coco-train",
        "coarse/vg-train",
        *(f"eval/coco-{s}" for s in ("test", "val", "val2017")),
    ]


@pytest.mark.parametrize("name", sorted({source.name for source in SOURCES}))
def test_what_one_source_brings_is_enough_to_build_it(night: Night, tmp_path: Path, name: str) -> None:
    made = Night(night.server, tmp_path)
    made.prepare(*{"sbu", "cc3m"} & {name})
    downloaded = made.download(*COARSE, *FINE, more=("--sources", name))
    built = made.shards("--workers", "1", "--sources", name)
    assert (downloaded.code, built.code) == (0, 0), built.err


def test_the_smaller_night_of_the_readme_succeeds(night: Night, tmp_path: Path) -> None:
    made = Night(night.server, tmp_path)
    made.prepare()
    coarse, fine = ("coco", "flickr30k"), ("refcoco", "refcoco+", "refcocog")
    ran = [made.download(*COARSE, more=("--sources", *coarse)), made.download(*FINE, more=("--sources", *fine))]
    ran.append(made.shards("--workers", "1", "--sources", *coarse, *fine))
    assert [each.code for each in ran] == [0, 0, 0], ran


def test_without_photographs_that_only_a_person_can_get_the_rest_is_built(night: Night, tmp_path: Path) -> None:
    made = night.without(tmp_path, "flickr30k/flickr30k-images.zip")
    shutil.rmtree(made.data / "raw/flickr30k/images")
    ran = made.shards("--workers", "1")
    assert (ran.code, made.datasets) == (0, [name for name in DATASETS if "/flickr30k" not in name]), ran.err
