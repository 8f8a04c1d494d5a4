"""THE LOOP: what goes into the shards, what stays out, and that nothing else changes either."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from bitgen.disk import FullDiskError
from pipeline.build import BuildError
from pipeline.building.examine import MIN_SIDE_PX
from pipeline.crawl import CrawlSettings, crawl
from pipeline.crawling.opener import Manners
from pipeline.holdout import HoldoutError
from pipeline.manifest import ManifestError
from pipeline.reading import read
from shards.index import ShardIndex
from tests import worlds
from tests.servers import Page, Server

if TYPE_CHECKING:
    from tests.pipeline.conftest import World

Paint = Callable[..., bytes]


def files(folder: Path) -> dict[str, str]:
    """Digest of every file of a dataset."""
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def test_a_built_sample_is_what_the_files_say(world: "World", paint: Paint) -> None:
    source = world.add("train", {9: paint(9)}, {9: ["a dog", "a ball"]}, flickr={9: 77})
    world.build()
    sample, image = ShardIndex.open(world.folder(source)).read(0)
    assert image == paint(9)
    assert (sample.key, sample.ids, sample.licence) == ("coco-000000000009", ("coco:9", "flickr:77"), "CC0")
    assert (sample.width, sample.height, sample.sha256) == (48, 40, hashlib.sha256(paint(9)).hexdigest())
    assert [text.text for text in sample.texts] == ["a dog", "a ball"]


def test_the_dataset_says_what_it_is(world: "World", paint: Paint) -> None:
    world.add("train", {i: paint(i) for i in range(1, 6)})
    dataset = world.build()[0].dataset
    told = {key: dataset[key] for key in ("name", "source", "split", "phase", "role", "samples", "texts", "rows")}
    assert told == {
        "name": "coarse/world-train",
        "source": "world",
        "split": "train",
        "phase": "coarse",
        "role": "train",
        "samples": 5,
        "texts": 10,
        "rows": 10,
    }
    assert [shard["samples"] for shard in dataset["shards"]] == [3, 2]


def test_samples_come_in_the_order_of_their_ids(world: "World", paint: Paint) -> None:
    source = world.add("train", {i: paint(i) for i in (30, 2, 100, 7)})
    world.build()
    index = ShardIndex.open(world.folder(source))
    assert [int(index.key(i)[5:]) for i in range(4)] == [2, 7, 30, 100]


def test_every_row_has_one_outcome(world: "World", paint: Paint) -> None:
    broken, other_size = paint(3)[:-200], paint(5, (50, 40))
    images = {1: paint(1), 2: None, 3: broken, 4: b"<html>", 5: other_size, 6: paint(6), 7: paint(7, (48, 12))}
    captions = {i: ["good"] for i in images} | {6: ["good", " ", "more"]}
    source = world.add("train", images, captions, {7: (48, 12)})
    world.build()
    assert world.outcomes(source) == {
        "train.json#0": "kept",
        "train.json#1": "no_image",
        "train.json#2": "decode_error",
        "train.json#3": "unknown_format",
        "train.json#4": "size_mismatch",
        "train.json#5": "kept",
        "train.json#6": "empty_text",
        "train.json#7": "kept",
        "train.json#8": "too_small",
    }


def test_the_counts_of_a_dataset_are_those_of_its_ledger(world: "World", paint: Paint) -> None:
    world.add("train", {1: paint(1), 2: None, 3: paint(3)})
    assert world.build()[0].dataset["counts"] == {"kept": 4, "no_image": 2}


def test_a_kept_row_names_the_sample_that_holds_it(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1)})
    world.build()
    assert {line.key for line in world.ledger(source)} == {"coco-000000000001"}


def test_equal_bytes_within_a_source_become_one_sample_with_all_texts(world: "World", paint: Paint) -> None:
    images = {1: paint(1), 2: paint(2), 3: paint(3), 4: paint(1)}
    source = world.add("train", images, {1: ["one", "same"], 2: ["two"], 3: ["three"], 4: ["same", "four"]})
    world.build()
    index = ShardIndex.open(world.folder(source))
    sample = index.read(0)[0]
    assert len(index) == 3
    assert [text.text for text in sample.texts] == ["one", "same", "four"]
    assert sample.ids == ("coco:1", "coco:4")


def test_a_duplicate_row_names_the_sample_it_went_to(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(1)}, {1: ["one"], 2: ["two"]})
    world.build()
    assert [(line.key, line.outcome) for line in world.ledger(source)] == [
        ("coco-000000000001", "kept"),
        ("coco-000000000001", "duplicate"),
    ]


def test_equal_bytes_in_two_sources_are_counted_and_kept(world: "World", paint: Paint) -> None:
    world.add("train", {1: paint(1), 2: paint(2)})
    world.add("more", {3: paint(1)})
    built = world.build()
    assert [each.dataset["duplicates_across_sources"] for each in built] == [0, 1]
    assert [each.dataset["samples"] for each in built] == [2, 1]


def test_an_evaluation_image_is_not_trained_on(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    world.add("val", {2: paint(20)}, role="eval")
    world.build()
    assert world.outcomes(source) == {
        "train.json#0": "kept",
        "train.json#1": "kept",
        "train.json#2": "held_out",
        "train.json#3": "held_out",
    }


def test_a_shipped_evaluation_id_is_not_trained_on(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 391895: paint(2)})
    world.build()
    assert set(world.outcomes(source).values()) == {"kept", "held_out"}


def test_a_listed_evaluation_id_is_not_trained_on(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    world.lists = (world.data / "mine.txt",)
    world.lists[0].write_text("# mine\ncoco:2\n")
    world.build()
    assert set(world.outcomes(source).values()) == {"kept", "held_out"}


def test_evaluation_images_go_to_the_evaluation_shards(world: "World", paint: Paint) -> None:
    source = world.add("val", {1: paint(1), 391895: paint(2)}, role="eval")
    assert world.build()[0].dataset["samples"] == 2
    assert world.folder(source) == world.data / "shards/eval/world-val"


def test_the_same_bytes_under_another_id_are_not_trained_on(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    world.add("val", {3: paint(2)}, role="eval")
    world.build()
    held = [line for line in world.ledger(source) if line.outcome == "held_out"]
    assert {line.detail for line in held} == {"same bytes as eval/world-val coco-000000000003"}
    assert len(held) == 2


def test_the_same_picture_at_another_quality_is_not_trained_on(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(4, (96, 80), quality=40)}, sizes={2: (96, 80)})
    world.add("val", {3: paint(4)}, role="eval")
    world.build()
    held = [line for line in world.ledger(source) if line.outcome == "held_out"]
    assert {line.detail for line in held} == {"looks like eval/world-val coco-000000000003"}


def test_an_evaluation_set_that_was_built_before_still_counts(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    val = world.add("val", {3: paint(2)}, role="eval")
    world.build([val])
    world.build([source])
    assert set(world.outcomes(source).values()) == {"kept", "held_out"}


def test_the_hold_out_hash_does_not_depend_on_what_is_built(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)}, flickr={2: 55})
    other = world.add("more", {4: paint(4)})
    world.add("val", {2: paint(2)}, role="eval")
    alone = world.build([other])[0].dataset["holdout_sha256"]
    assert [each.dataset["holdout_sha256"] for each in world.build([source])] == [alone]


def test_the_number_of_workers_does_not_change_a_byte(world: "World", paint: Paint) -> None:
    source = world.add("train", {i: paint(i) for i in range(1, 8)} | {8: None, 9: paint(1)})
    world.build(workers=1)
    one = files(world.folder(source))
    (world.folder(source) / "dataset.json").unlink()
    world.build(workers=2)
    assert files(world.folder(source)) == one


def test_a_second_build_gives_the_same_bytes(world: "World", paint: Paint, tmp_path: Path) -> None:
    source = world.add("train", {i: paint(i) for i in range(1, 6)})
    world.build()
    first = files(world.folder(source))
    world.data.rename(tmp_path / "elsewhere")
    world.data = tmp_path / "elsewhere"
    (world.folder(source) / "dataset.json").unlink()
    world.build()
    assert files(world.folder(source)) == first


def test_an_up_to_date_dataset_is_left_alone(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1)})
    world.build()
    before = {p: p.stat().st_mtime_ns for p in world.folder(source).iterdir()}
    assert [each.is_new for each in world.build()] == [False]
    assert {p: p.stat().st_mtime_ns for p in world.folder(source).iterdir()} == before


def test_a_dataset_whose_ledger_was_deleted_is_built_anew(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1)})
    world.build()
    (world.folder(source) / "ledger.parquet").unlink()
    assert [each.is_new for each in world.build()] == [True]


def test_a_changed_annotation_file_is_built_anew(world: "World", paint: Paint) -> None:
    world.add("train", {1: paint(1)})
    world.build()
    world.add("train", {1: paint(1)}, {1: ["another text"]})
    assert [each.is_new for each in world.build()] == [True]


def test_an_image_that_came_later_is_built_in(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: None})
    world.build()
    (world.data / "raw/world/train/2.jpg").write_bytes(paint(2))
    world.build()
    assert len(ShardIndex.open(world.folder(source))) == 2


def test_a_new_evaluation_set_takes_its_images_out_of_what_was_built(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2)})
    world.build()
    world.add("val", {2: paint(2)}, role="eval")
    world.build()
    assert len(ShardIndex.open(world.folder(source))) == 1


def test_fewer_shards_than_before_leave_no_old_one(world: "World", paint: Paint) -> None:
    source = world.add("train", {i: paint(i) for i in range(1, 8)})
    world.build()
    world.build(limit=2)
    assert [p.name for p in world.folder(source).glob("*.tar")] == ["000000.tar"]


def test_a_chunk_without_a_sample_leaves_no_gap(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: None, 3: None, 4: None, 5: None, 6: None, 7: paint(7)})
    world.build()
    assert sorted(p.name for p in world.folder(source).glob("*.tar")) == ["000000.tar", "000001.tar"]


def test_a_limit_takes_the_first_images(world: "World", paint: Paint) -> None:
    source = world.add("train", {i: paint(i) for i in range(1, 6)})
    world.build(limit=2)
    index = ShardIndex.open(world.folder(source))
    assert [index.key(i) for i in range(len(index))] == ["coco-000000000001", "coco-000000000002"]


def test_a_limit_does_not_shorten_the_hold_out(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 9: paint(9)})
    world.add("val", {2: paint(2), 9: paint(90)}, role="eval")
    world.build(limit=2)
    assert set(world.outcomes(source).values()) == {"kept", "held_out"}
    world.build(limit=1)
    assert set(world.outcomes(source).values()) == {"kept"}


def test_above_the_ceiling_the_build_stops_and_says_which_reason_grew(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: None, 3: None, 4: b"no image"}, refusal_ceiling=0.5)
    with pytest.raises(BuildError, match=r"expected at most 50.00% .* found 75.00% of 8: no_image 4, unknown_format 2"):
        world.build()
    assert not (world.folder(source) / "dataset.json").exists()
    assert list(world.folder(source).glob("*.tar")) == []


def test_a_source_that_cannot_be_built_does_not_keep_the_others_from_being(world: "World", paint: Paint) -> None:
    world.add("bad", {1: paint(1), 2: None}, refusal_ceiling=0.1)
    good, worse = world.add("good", {3: paint(3)}), world.add("worse", {4: None}, refusal_ceiling=0.1)
    with pytest.raises(BuildError, match=r"50.00% of 4: .*bad-?.*; .*found 100.00% of 2: no_image 2"):
        world.build()
    assert [(world.folder(s) / "dataset.json").exists() for s in (good, worse)] == [True, False]


def test_an_evaluation_set_that_cannot_be_built_stops_the_build(world: "World", paint: Paint) -> None:
    source = world.add("good", {3: paint(3)})
    world.add("val", {4: None}, role="eval", refusal_ceiling=0.1)
    with pytest.raises(BuildError, match=r"found 100.00% of 2: no_image 2"):
        world.build()
    assert not world.folder(source).exists()


def test_held_out_rows_do_not_count_against_the_ceiling(world: "World", paint: Paint) -> None:
    world.add("train", {1: paint(1), 391895: paint(2)}, refusal_ceiling=0.0)
    assert world.build()[0].dataset["counts"] == {"held_out": 2, "kept": 2}


def test_a_source_without_a_sample_is_an_error(world: "World", paint: Paint) -> None:
    world.add("train", {391895: paint(1)})
    with pytest.raises(BuildError, match=r"expected one or more samples, found none, rows \{'held_out': 2\}"):
        world.build()


def test_a_missing_annotation_file_stops_the_build(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1)})
    world.add("val", {2: paint(2)}, role="eval")
    (world.data / "raw/world/val.json").unlink()
    with pytest.raises(HoldoutError, match=r"expected .*val.json for eval/world-val, found none$"):
        world.build([source])


def test_an_unknown_reader_is_refused_with_the_nearest_name(world: "World", paint: Paint) -> None:
    world.add("train", {1: paint(1)}, reader="cocoa")
    with pytest.raises(ManifestError, match=r"found 'cocoa' \(did you mean 'coco'\?\): coarse/world-train"):
        world.build()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"karpathy_split": "train"},
            r"found 'karpathy_split' \(did you mean 'karpathy_splits'\?\): coarse/world-train",
        ),
        ({"karpathy_splits": 3}, "expected option karpathy_splits of type str, found 3: coarse/world-train"),
    ],
)
def test_an_option_that_the_reader_does_not_take_is_refused(
    world: "World", paint: Paint, options: dict[str, object], message: str
) -> None:
    world.add("train", {1: paint(1)}, options=options)
    with pytest.raises(ManifestError, match=message):
        world.build()


def test_a_larger_image_is_shrunk_when_asked(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: paint(2, (120, 60))}, sizes={2: (120, 60)})
    world.build(shorter_side_px=40)
    samples = [ShardIndex.open(world.folder(source)).read(i) for i in range(2)]
    assert samples[0][1] == paint(1)
    assert Image.open(io.BytesIO(samples[1][1])).size == (80, 40)
    assert (samples[1][0].width, samples[1][0].height) == (80, 40)
    assert samples[1][0].sha256 == hashlib.sha256(samples[1][1]).hexdigest()


def turned(paint: Paint) -> bytes:
    """48 x 40 stored pixels that are to be shown turned by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return paint(1, exif=exif.tobytes())


def test_annotated_images_ignore_their_exif_orientation(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: turned(paint)})
    world.build()
    sample, image = ShardIndex.open(world.folder(source)).read(0)
    assert (sample.width, sample.height, image) == (48, 40, turned(paint))


def test_crawled_images_are_turned_upright(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: turned(paint)}, sizes={1: (40, 48)}, orientation="apply")
    world.build()
    sample, image = ShardIndex.open(world.folder(source)).read(0)
    stored = Image.open(io.BytesIO(image))
    assert (sample.width, sample.height) == stored.size == (40, 48)
    assert stored.getexif().get(0x0112, 1) == 1


def test_an_image_outside_its_root_is_not_read(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1), 2: None})
    (world.data / "raw/world/secret.jpg").write_bytes(paint(2))
    path = world.data / "raw/world/train.json"
    path.write_text(path.read_text().replace('"2.jpg"', '"../secret.jpg"'))
    world.build()
    assert "kept" not in [line.outcome for line in world.ledger(source) if line.row in ("train.json#2", "train.json#3")]


def test_the_smallest_side_is_a_small_icon() -> None:
    assert MIN_SIDE_PX == 16


KILLED = """
import os, sys
from pathlib import Path
import pipeline.build as b
from pipeline.manifest import read_manifest
stop = sys.argv[2]
done = []
def counted(function):
    def wrapped(task):
        result = function(task)
        done.append(1)
        if len(done) == int(sys.argv[3]):
            os.kill(os.getpid(), 9)
        return result
    return wrapped
setattr(b, stop, counted(getattr(b, stop)))
manifest = read_manifest(Path(sys.argv[1]))
list(b.build([manifest], Path(sys.argv[1]).parent, manifest.sources, b.Options()))
"""

TOML = """
name = "world"
licence = "CC0"
[[source]]
name = "world"
phase = "coarse"
role = "train"
split = "train"
reader = "coco"
annotations = ["train.json"]
images = ["train"]
samples_per_shard = 3
refusal_ceiling = 1.0
"""


@pytest.mark.parametrize(("stage", "tasks"), [("fill", 1), ("fill", 3), ("write_shard", 1), ("write_shard", 3)])
def test_a_killed_build_goes_on_to_the_same_bytes(world: "World", paint: Paint, stage: str, tasks: int) -> None:
    source = world.add("train", {i: paint(i) for i in range(1, 9)})
    world.build()
    whole = files(world.folder(source))
    (world.folder(source) / "dataset.json").unlink()
    (world.data / "world.toml").write_text(TOML)
    command = [sys.executable, "-c", KILLED, str(world.data / "world.toml"), stage, str(tasks)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    parts = {p: p.stat().st_mtime_ns for p in (world.folder(source) / ".parts").iterdir()}
    assert not (world.folder(source) / "dataset.json").exists()
    assert len(parts) >= tasks
    world.build()
    assert files(world.folder(source)) == whole


def test_finished_chunks_are_not_made_again(world: "World", paint: Paint, monkeypatch: pytest.MonkeyPatch) -> None:
    source = world.add("train", {i: paint(i) for i in range(1, 9)})
    (world.data / "world.toml").write_text(TOML)
    command = [sys.executable, "-c", KILLED, str(world.data / "world.toml"), "write_shard", "2"]
    subprocess.run(command, check=False)
    before = (world.folder(source) / "000001.tar").stat().st_mtime_ns
    world.build()
    assert (world.folder(source) / "000001.tar").stat().st_mtime_ns == before


def test_a_full_disk_leaves_no_dataset(world: "World", paint: Paint, monkeypatch: pytest.MonkeyPatch) -> None:
    source = world.add("train", {1: paint(1)})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FullDiskError, match="found it full"):
        world.build()
    monkeypatch.undo()
    left = [p.name for p in world.folder(source).rglob("*") if p.is_file()]
    assert left == []


def test_dataset_json_is_the_same_for_equal_input(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1)})
    world.build()
    text = (world.folder(source) / "dataset.json").read_text()
    assert text == json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False, indent=1) + "\n"


def test_a_crawled_source_is_built_from_its_urls(world: "World", server: Server, tmp_path: Path) -> None:
    source = replace(worlds.sbu(world.data / "raw/world", server.url("")), refusal_ceiling=1.0, samples_per_shard=2)
    for seed, id in enumerate(worlds.FLICKR_IDS[:2]):
        photo = worlds.write_photo(tmp_path / f"{seed}.jpg", seed + 1)
        server.pages[f"/{id}_8f6b5d9be6.jpg"] = Page(photo, content_type="image/jpeg")
    urls = [candidate.image for candidate in read(source, world.data / "raw")]
    manners = Manners(private=(f"127.0.0.1:{server.port}",), retries=0)
    crawl(urls, world.data / "raw/world/crawl", CrawlSettings(manners, processes=1, threads=2))
    world.sources = [source]
    world.build()
    assert world.outcomes(source) == {
        "sbu-captions-all.json#0": "kept",
        "sbu-captions-all.json#1": "kept",
        "sbu-captions-all.json#2": "kept",
        "sbu-captions-all.json#3": "http_404",
    }
    assert [each.is_new for each in world.build()] == [False]


def test_a_url_that_was_not_crawled_is_said_to_be_so(world: "World", server: Server) -> None:
    source = replace(worlds.sbu(world.data / "raw/world", server.url("")), refusal_ceiling=1.0)
    world.sources = [source]
    with pytest.raises(BuildError, match=r"found none, rows \{'not_crawled': 4\}"):
        world.build()
