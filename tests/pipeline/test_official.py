"""Evaluation sets from a folder of official files, wherever in it they lie."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.ledger import read_ledger
from pipeline.manifest import read_manifest
from pipeline.official import Official, OfficialError, build_official
from tests import official
from tests.official_rows import rows_of
from tests.pipeline.conftest import picture
from tests.worlds import write_json

SHIPPED = Path(__file__).parents[2] / "manifests"
MANIFESTS = tuple(SHIPPED / f"{name}.toml" for name in ("coco", "flickr30k", "refcoco"))
DOCUMENTS = official.documents("http://127.0.0.1:1")
PLACES = {
    "coco/annotations/captions_val2017.json": "COCO 2017/captions_val2017.json",
    "flickr30k/dataset_flickr30k.json": "flickr/dataset_flickr30k.json",
    "flickr30k/flickr30k_entities/test.txt": "flickr/entities/flickr30k_entities/test.txt",
    "refcoco/OpenSource/finetune_refcoco_val.json": "OpenSource/finetune_refcoco_val.json",
    "refcoco/OpenSource/finetune_refcoco+_val.json": "OpenSource/finetune_refcoco+_val.json",
}
"""A user's folder: by the path under `raw/` where a file lies."""
SETS = (
    "eval/coco-val2017",
    "eval/flickr30k-val",
    "eval/flickr30k-test",
    "eval/flickr30k-entities-test",
    "eval/refcoco-val",
    "eval/refcoco+-val",
)


def write_photo(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


def fill(folder: Path) -> Path:
    """The official files as somebody might have them, photographs of train2014 under their names of 2014."""
    for path, place in PLACES.items():
        if path.endswith(".txt"):
            (folder / place).parent.mkdir(parents=True)
            (folder / place).write_text("".join(f"{line}\n" for line in DOCUMENTS[path]))
        else:
            write_json(folder / place, DOCUMENTS[path])
    for path, body in official.photos().items():
        family, *_, name = path.split("/")
        if "val2017" in path:
            write_photo(folder / "COCO 2017/images/val2017" / name, body)
        elif family == "coco":
            write_photo(folder / "coco/train2014" / f"COCO_train2014_{name}", body)
        elif family == "flickr30k":
            write_photo(folder / "flickr/flickr30k-images" / name, body)
    return folder


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything in a folder."""
    found = {f"{path.relative_to(folder)}": path.lstat() for path in sorted(folder.rglob("*"))}
    return {path: (status.st_size, status.st_mtime_ns) for path, status in found.items()}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of official files that no test changes."""
    return fill(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def built(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Official:
    """The sets of three shipped manifests."""
    return build_official(shelf, MANIFESTS, tmp_path_factory.mktemp("cache"))


def test_every_set_whose_files_are_there_is_built(built: Official):
    assert built.datasets == SETS
    assert tuple(built.open()) == SETS
    assert {name: index.dataset["role"] for name, index in built.open().items()} == dict.fromkeys(SETS, "eval")


def test_a_set_of_which_a_file_is_missing_is_absent_and_says_which(built: Official):
    assert built.absent == {
        "eval/coco-val": "no annotations/captions_train2017.json",
        "eval/coco-test": "no annotations/captions_train2017.json",
        "eval/flickr30k-entities-val": "no flickr30k_entities/val.txt",
        "eval/refcoco-testa": "no OpenSource/finetune_refcoco_testA.json",
        "eval/refcoco-testb": "no OpenSource/finetune_refcoco_testB.json",
        "eval/refcoco+-testa": "no OpenSource/finetune_refcoco+_testA.json",
        "eval/refcoco+-testb": "no OpenSource/finetune_refcoco+_testB.json",
        "eval/refcocog-val": "no OpenSource/finetune_refcocog_val.json",
        "eval/refcocog-test": "no OpenSource/finetune_refcocog_test.json",
    }


def test_nothing_to_train_on_is_built(built: Official):
    assert sorted(path.name for path in (built.data / "shards").iterdir() if path.is_dir()) == ["eval", "holdout"]


@pytest.mark.parametrize("name", SETS)
def test_every_row_of_the_official_files_is_in_the_ledger(built: Official, name: str):
    sources = {source.dataset: source for path in MANIFESTS for source in read_manifest(path).sources}
    expected = {row: key for key, rows in rows_of(sources[name], DOCUMENTS).items() for row in rows}
    found = {line.row: line.key for line in read_ledger(built.data / "shards" / name) if line.outcome == "kept"}
    assert found == expected


def test_the_official_folder_is_only_read(tmp_path: Path):
    folder = fill(tmp_path / "mine")
    before = listing(folder)
    build_official(folder, MANIFESTS, tmp_path / "cache")
    assert listing(folder) == before


def test_what_is_built_stays_until_a_file_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = fill(tmp_path / "mine")
    first = build_official(folder, MANIFESTS[2:], tmp_path / "cache")
    before = listing(first.data / "shards/eval")
    assert build_official(folder, MANIFESTS[2:], tmp_path / "cache") == first
    assert listing(first.data / "shards/eval") == before
    (folder / "OpenSource/finetune_refcoco+_val.json").write_text(
        (folder / "OpenSource/finetune_refcoco+_val.json").read_text().replace("the dog", "the cat")
    )
    caplog.set_level(logging.INFO)
    again = build_official(folder, MANIFESTS[2:], tmp_path / "cache").open()
    assert again["eval/refcoco+-val"].record(0).texts[0].text == "the cat"
    assert "eval/refcoco-val: up to date, 1 samples" in caplog.text


def test_a_file_that_was_moved_is_found_again(tmp_path: Path):
    folder = fill(tmp_path / "mine")
    first = build_official(folder, MANIFESTS[2:], tmp_path / "cache")
    shutil.move(folder / "OpenSource", folder / "mdetr")
    assert build_official(folder, MANIFESTS[2:], tmp_path / "cache") == first


def test_another_file_of_the_same_size_and_time_is_not_taken_for_the_first(tmp_path: Path):
    # As two tables of one download may be; what a link led to before says nothing of what it leads to now.
    manifest = own(tmp_path / "here", {"a/photos.csv": "a dog"}, {"photos/dog.jpg": DOG})
    build_official(tmp_path / "here", (manifest,), tmp_path / "cache")
    (tmp_path / "here/b").mkdir()
    before = (tmp_path / "here/a/photos.csv").rename(tmp_path / "here/b/old.csv").stat()
    (tmp_path / "here/b/photos.csv").write_text("path,caption\ndog.jpg,a cat\n")
    os.utime(tmp_path / "here/b/photos.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    again = build_official(tmp_path / "here", (manifest,), tmp_path / "cache").open()
    assert again["eval/mine-test"].record(0).texts[0].text == "a cat"


def test_other_manifests_have_a_data_folder_of_their_own(shelf: Path, built: Official, tmp_path: Path):
    assert build_official(shelf, MANIFESTS[2:], built.data.parent).data != built.data


def test_too_many_missing_photographs_stop_the_build(tmp_path: Path):
    folder = fill(tmp_path / "mine")
    (folder / "coco/train2014/COCO_train2014_000000000154.jpg").unlink()
    with pytest.raises(
        OfficialError, match=r"expected at most 1.00% of the rows refused, found 100.00% of 2: no_image 2"
    ):
        build_official(folder, MANIFESTS[2:], tmp_path / "cache")


TABLE = """
name = "mine"
licence = "mine"
[[source]]
name = "mine"
phase = "coarse"
role = "eval"
split = "test"
reader = "table"
annotations = ["tables/photos.csv"]
images = ["all/photos", "all"]
"""


def own(folder: Path, tables: Mapping[str, str], photos: Mapping[str, bytes], manifest: str = TABLE) -> Path:
    """A manifest, and in `folder` tables with a caption of dog.jpg, and photographs."""
    for place, caption in tables.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(f"path,caption\ndog.jpg,{caption}\n")
    for place, body in photos.items():
        write_photo(folder / place, body)
    path = folder.with_suffix(".toml")
    path.write_text(manifest)
    return path


def sample_of(tables: Mapping[str, str], photos: Mapping[str, bytes], tmp_path: Path) -> tuple[str, bytes]:
    """Caption and image of the one sample of such a folder."""
    manifest = own(tmp_path / "here", tables, photos)
    index = build_official(tmp_path / "here", (manifest,), tmp_path / "cache").open()["eval/mine-test"]
    sample, image = index.read(0)
    return sample.texts[0].text, image


DOG, OTHER = picture(1), picture(2)


def test_the_path_that_agrees_longest_is_taken(tmp_path: Path):
    tables = {"photos.csv": "by its name", "deep/down/tables/photos.csv": "by its path"}
    photos = {"photos/dog.jpg": OTHER, "x/y/all/photos/dog.jpg": DOG}
    assert sample_of(tables, photos, tmp_path) == ("by its path", DOG)


def test_of_equal_agreement_the_one_nearest_to_the_top_is_taken(tmp_path: Path):
    tables = {"a/photos.csv": "near", "b/c/photos.csv": "far"}
    photos = {"photos/dog.jpg": DOG, "old/photos/dog.jpg": OTHER}
    assert sample_of(tables, photos, tmp_path) == ("near", DOG)


def test_two_that_are_equally_good_are_refused(tmp_path: Path):
    with pytest.raises(
        OfficialError, match=r"expected one tables/photos.csv for eval/mine-test, found .*a/.* and .*b/"
    ):
        sample_of({"a/photos.csv": "one", "b/photos.csv": "other"}, {"photos/dog.jpg": DOG}, tmp_path)


def test_two_links_to_one_folder_are_no_doubt(tmp_path: Path):
    manifest = own(tmp_path / "here", {"photos.csv": "a dog"}, {"a/photos/dog.jpg": DOG})
    (tmp_path / "here/b").mkdir()
    (tmp_path / "here/b/photos").symlink_to(tmp_path / "here/a/photos")
    for name in ("up", "again"):  # to walk both at every turn would never end
        (tmp_path / "here/b" / name).symlink_to(tmp_path / "here")
    assert len(build_official(tmp_path / "here", (manifest,), tmp_path / "cache").datasets) == 1


def test_a_root_within_another_one_that_lies_elsewhere_is_found(tmp_path: Path):
    photos = {"one/all/cat.jpg": OTHER, "two/photos/dog.jpg": DOG}
    assert sample_of({"photos.csv": "a dog"}, photos, tmp_path) == ("a dog", DOG)


def refusal(tmp_path: Path, manifest: str = TABLE, **there: Any) -> str:
    """Why nothing is built of a folder."""
    (tmp_path / "here").mkdir()
    path = own(tmp_path / "here", there.get("tables", {}), there.get("photos", {}), manifest)
    with pytest.raises(OfficialError) as error:
        build_official(tmp_path / "here", (path,), tmp_path / "cache")
    return str(error.value)


def test_a_folder_with_nothing_of_a_manifest_is_refused(tmp_path: Path):
    assert refusal(tmp_path).startswith(
        "expected the files of an evaluation set, found none (eval/mine-test: no tables/photos.csv)"
    )


def test_a_folder_without_photographs_is_refused(tmp_path: Path):
    assert "(eval/mine-test: no folder all/photos or all)" in refusal(tmp_path, tables={"photos.csv": "a dog"})


def test_a_file_is_no_folder_of_photographs(tmp_path: Path):
    found = refusal(tmp_path, tables={"photos.csv": "a dog"}, photos={"all": DOG})
    assert "(eval/mine-test: no folder all/photos or all)" in found


def test_a_folder_is_no_table(tmp_path: Path):
    found = refusal(tmp_path, photos={"photos/dog.jpg": DOG, "photos.csv/dog.jpg": DOG})
    assert "(eval/mine-test: no tables/photos.csv)" in found


def test_what_a_set_needs_for_the_hold_out_rule_has_to_be_there(tmp_path: Path):
    there = {"tables": {"photos.csv": "a dog"}, "photos": {"photos/dog.jpg": DOG}}
    assert "(eval/mine-test: no links.json)" in refusal(tmp_path, f'{TABLE}needs = ["links.json"]\n', **there)


def test_photographs_may_lie_at_the_top(tmp_path: Path):
    manifest = own(
        tmp_path / "mine", {"photos.csv": "a dog"}, {"dog.jpg": DOG}, TABLE.replace('"all/photos", "all"', '"."')
    )
    assert build_official(tmp_path / "mine", (manifest,), tmp_path / "cache").datasets == ("eval/mine-test",)


def test_a_manifest_without_evaluation_sets_is_refused(tmp_path: Path):
    assert 'expected manifests with a source of role = "eval"' in refusal(tmp_path, TABLE.replace('"eval"', '"train"'))


def test_a_set_whose_images_are_crawled_is_absent(tmp_path: Path):
    assert "its images are crawled: bitgen-download" in refusal(tmp_path, f"{TABLE}crawl = true\n")


def test_a_file_of_another_schema_is_refused(tmp_path: Path):
    manifest = own(tmp_path / "here", {}, {"photos/dog.jpg": DOG})
    (tmp_path / "here/photos.csv").write_text("picture\ndog.jpg\n")
    with pytest.raises(OfficialError, match=r"expected .*; from .*here"):
        build_official(tmp_path / "here", (manifest,), tmp_path / "cache")


def test_a_folder_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(OfficialError, match="expected a folder of official files, found none"):
        build_official(tmp_path / "nowhere", MANIFESTS, tmp_path / "cache")
