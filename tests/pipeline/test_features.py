"""Feature shards: the same samples in the same order, made once, a shard at a time, and never those of other images."""

import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from bitgen.batch import Batch, load
from bitgen.disk import FullDiskError
from bitgen.features import unpack
from bitgen.image import Transform
from bitgen.row import Seen
from bitgen.training.features import FeatureRecipe
from pipeline import features
from pipeline.features import FeatureSet, feature_sets, make_features
from shards.format import ShardError, scan
from shards.index import DATASET, ShardIndex
from shards.remote.locks import claim
from shards.stream import Stream
from tests import fakes
from tests.worlds_of_features import contents, write_images

NAME = "coarse/noise"
TOWER = fakes.model().vision


def recipe(image_px: int = fakes.SIDE) -> FeatureRecipe:
    return FeatureRecipe.of(TOWER, image_px, "int8", torch.float32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder with 80 samples in two shards; the image of the fourth does not decode."""
    write_images(tmp_path, NAME, (40, 40), {3})
    return tmp_path


def made(root: Path, workers: int = 2, place: str = "features") -> FeatureSet:
    """The features of the dataset, all of them made."""
    found = feature_sets({NAME: ShardIndex.open(root / "shards" / NAME)}, root / place, recipe())
    make_features(found, TOWER, workers)
    return found[NAME]


def batches(root: Path, seen: Seen, count: int = 30) -> list[Batch]:
    stream = Stream.open(root, {NAME: 1.0}, seed=5, texts_per_image=2)
    plans = islice(stream.micro_batches(0, batch=4), count)
    return list(load(stream.draw, plans, seen, 5, 2, ceiling=1.0))


def test_a_stream_of_features_is_that_of_the_images(root: Path) -> None:
    found = made(root)
    stored = batches(found.folder.parents[1], found.recipe.form)
    images = batches(root / "shards", Transform(fakes.SIDE))
    tensors = ("positions", "image_ids", "token_ids", "boxes", "crops", "sizes", "phrase_tokens")
    for one, other in zip(stored, images, strict=True):
        assert (one.keys, one.dropped) == (other.keys, other.dropped)
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)
        with torch.no_grad():
            wanted = TOWER(other.images)
        assert one.features is not None
        torch.testing.assert_close(unpack(one.features), wanted, rtol=0, atol=wanted.abs().max().item() / 250)
    assert (
        sum(batch.dropped["replaced"] for batch in stored) >= 1
    )  # the fourth image, in its place what the images show


def test_a_member_stands_in_place_of_the_image_and_the_record_stays(root: Path) -> None:
    folder = made(root).folder
    images = list(scan(root / "shards" / NAME / "000001.tar"))
    found = list(scan(folder / "000001.tar"))
    assert [sample for _, sample, _ in found] == [sample for _, sample, _ in images]
    assert {(entry.extension, np.load(io.BytesIO(npy))["values"].shape) for entry, _, npy in found} == {
        ("npy", (16, 32))
    }
    index = ShardIndex.open(folder, verify=True)
    index.check()
    assert [index.entry(40 + i) for i in range(40)] == [entry for entry, _, _ in found]
    assert [index.read(40 + i) for i in range(40)] == [(sample, npy) for _, sample, npy in found]


def test_the_dataset_says_what_it_was_made_of(root: Path) -> None:
    found = made(root)
    images = json.loads((root / "shards" / NAME / DATASET).read_text())
    said = found.dataset
    assert {k: v for k, v in said.items() if k not in ("features", "shards")} == {
        k: v for k, v in images.items() if k != "shards"
    }
    assert said["features"]["images"] == [shard["sha256"] for shard in images["shards"]]
    assert (said["features"]["unreadable"], said["features"]["tower"]) == (1, recipe().tower)
    assert features.facts(found) == "80 images, 1 of them unreadable, as int8"


def test_the_bytes_do_not_depend_on_the_workers(root: Path) -> None:
    one, three = made(root, 1), made(root, 3, "other")
    assert contents(one.folder) == contents(three.folder)
    assert len(contents(one.folder)) == 2 + 2 + 2 * 2  # shards, index and dataset.json, a table and a note each


def test_features_beside_an_index_of_an_earlier_format_are_made_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "FORMAT_VERSION", 1)
    folder = made(root).folder
    monkeypatch.undo()
    (folder / DATASET).write_text((folder / DATASET).read_text().replace('"format_version": 2', '"format_version": 1'))
    assert len(ShardIndex.open(made(root).folder)) == 80


class StoppedError(Exception):
    pass


class Stops:
    """A tower that is stopped after so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise StoppedError
        return TOWER(images)

    def parameters(self):
        return TOWER.parameters()


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_who_was_stopped_goes_on_and_makes_the_same_bytes(root: Path, batches: int) -> None:
    found = feature_sets({NAME: ShardIndex.open(root / "shards" / NAME)}, root / "features", recipe())
    with pytest.raises(StoppedError):
        make_features(found, Stops(batches), 2)  # pyright: ignore[reportArgumentType] (calls and parameters are all it needs)
    folder = found[NAME].folder
    assert len(list(folder.glob("*.tar"))) == batches // 2  # of 40 images, 32 at a time
    with pytest.raises(ShardError, match="expected a finished dataset"):
        ShardIndex.open(folder)
    (folder / "000001.tar.partial").write_bytes(b"half, of a process that was killed")
    rest = Stops(4 - batches // 2 * 2)
    make_features(found, rest, 2)  # pyright: ignore[reportArgumentType]
    assert rest.left == 0  # nothing that was whole is made again
    assert contents(folder) == contents(made(root, place="other").folder)


def test_what_is_whole_is_left_alone(root: Path) -> None:
    before = contents(made(root).folder)
    found = feature_sets({NAME: ShardIndex.open(root / "shards" / NAME)}, root / "features", recipe())
    make_features(found, Stops(0), 2)  # pyright: ignore[reportArgumentType]
    assert contents(found[NAME].folder) == before


def test_features_of_images_that_changed_are_made_again_and_others_kept(root: Path) -> None:
    before = contents(made(root).folder)
    shutil.rmtree(root / "shards")
    write_images(root, NAME, (40, 41), {3})
    found = feature_sets({NAME: ShardIndex.open(root / "shards" / NAME)}, root / "features", recipe())[NAME]
    with pytest.raises(ShardError, match=r"expected features of .*noise as it is now, found others"):
        found.check(ShardIndex.open(found.folder))
    again = contents(made(root).folder)
    assert contents(made(root, place="other").folder) == again
    assert before["000001.tar"] != again["000001.tar"]


def _replaced(root: Path) -> FeatureSet:
    """Features of other images with the same keys, in place of those that were there."""
    shutil.rmtree(root / "shards")
    write_images(root, NAME, (40, 40), {3}, first=500)
    return made(root)


def test_features_that_are_replaced_while_a_run_reads_them_are_refused(root: Path) -> None:
    found = made(root)
    index, whole = ShardIndex.open(found.folder), ShardIndex.open(found.folder)
    before = [whole.image(i) for i in (0, 40)]
    first = index.image(0)
    again = _replaced(root)
    assert again.shard_bytes().tolist() == found.shard_bytes().tolist()
    assert ShardIndex.open(again.folder).image(0) != first
    assert index.image(0) == first  # of the file that it has open
    with pytest.raises(ShardError, match=r"expected sha256 \w+, found \w+: .*/000001\.tar"):
        index.image(40)
    assert [whole.image(i) for i in (0, 40)] == before


def test_features_that_were_replaced_while_they_were_opened_are_refused(root: Path) -> None:
    found = made(root)
    index = ShardIndex.open(found.folder)
    found.check(index)
    _replaced(root)
    with pytest.raises(ShardError, match=r"expected features of .*noise as it is now, found others"):
        found.check(index)


def test_a_dataset_that_lost_shards_leaves_none_of_the_old_ones(root: Path) -> None:
    made(root)
    shutil.rmtree(root / "shards")
    write_images(root, NAME, (40,), {3})
    folder = made(root).folder
    assert sorted(path.name for path in folder.glob("*.tar")) == ["000000.tar"]
    assert len(ShardIndex.open(folder)) == 40


def test_a_shard_that_was_cut_short_is_made_again(root: Path) -> None:
    before = contents(made(root).folder)
    tar = next(root.glob("features/*/coarse/noise/000001.tar"))
    tar.write_bytes(tar.read_bytes()[:1000])
    assert contents(made(root).folder) == before


def test_a_shard_that_another_process_makes_is_left_to_it(root: Path) -> None:
    found = feature_sets({NAME: ShardIndex.open(root / "shards" / NAME)}, root / "features", recipe())[NAME]
    (found.folder / features.PARTS).mkdir(parents=True)
    claim(found.folder / features.PARTS / "000000.lock")
    with ThreadPoolExecutor(1) as pool:
        assert not found.make(0, TOWER, pool)
        assert found.make(1, TOWER, pool)
    assert (found.is_made(0), found.is_made(1)) == (False, True)


def test_two_that_make_the_same_share_the_work(root: Path) -> None:
    with ThreadPoolExecutor(2) as both:
        one, other = (both.submit(made, root, 1) for _ in range(2))
        assert one.result().is_whole()
        assert other.result().is_whole()
    assert contents(one.result().folder) == contents(made(root, place="other").folder)


def test_too_little_room_is_told_before_anything_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=features.FREE_BYTES + 1000))
    with pytest.raises(FullDiskError, match=r"expected 0\.27 GB free for features, found 0\.27 GB: "):
        made(root)
    assert not (root / "features").exists()


def test_the_size_that_is_told_is_the_size_that_it_takes(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    found = made(root)
    sizes = [(found.folder / f"00000{n}.tar").stat().st_size for n in range(2)]
    assert found.shard_bytes().tolist() == sizes
    first = caplog.messages[0]
    assert first.startswith("features of coarse/noise: 80 images x 1 KB = 0.00 GB, 0.00 GB of it to come, ")
    assert first.endswith(f" GB free: {found.folder}")
