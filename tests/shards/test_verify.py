import dataclasses
import hashlib
import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitgen.record import Box, Phrase, Text
from shards.format import FORMAT_VERSION, ShardError, ShardWriter
from shards.index import ShardIndex, write_index
from shards.verify import Report, verify

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def rewrite(describe):
    """`rewrite(folder, image, sample)`: the dataset again, of one sample, with digests that fit."""

    def make(folder, samples):
        with ShardWriter(folder / "000000.tar") as writer:
            entries = [writer.add(sample, image) for sample, image in samples]
        shard = {"file": "000000.tar", "samples": len(entries), "bytes": writer.size_bytes, "sha256": writer.sha256}
        write_index(folder, entries)
        dataset = {"format_version": FORMAT_VERSION, "name": "pets", "samples": len(entries), "shards": [shard]}
        (folder / "dataset.json").write_text(json.dumps(dataset))
        return entries

    return make


def flip(path, at, change=0xFF):
    data = bytearray(path.read_bytes())
    data[at] ^= change
    path.write_bytes(data)


def test_a_whole_dataset_is_counted(build):
    # samples of 1, 2, 3, 1 and 2 texts, a phrase with a box each; each tar is 10 kB
    assert verify(build("pets", (3, 2))) == Report("pets", 2, 20480, 5, 9, 5, 5, 5)


def test_images_need_not_be_decoded(build):
    assert verify(build("pets", (3, 2)), images=False).decoded == 0


def test_a_flipped_byte_is_found(build):
    folder = build()
    flip(folder / "000001.tar", 700)
    with pytest.raises(ShardError, match=r"expected sha256 .*000001\.tar"):
        verify(folder)


def test_an_image_that_does_not_decode_is_found(tmp_path, rewrite, photograph, describe):
    image = photograph()[:-5]
    rewrite(tmp_path, [(describe(image), image)])
    with pytest.raises(ShardError, match=r"expected a whole JPEG, .*: pets-1, .*000000\.tar"):
        verify(tmp_path)


def test_a_size_that_is_not_the_image_s_is_found(tmp_path, rewrite, photograph, describe):
    image = photograph()
    rewrite(tmp_path, [(dataclasses.replace(describe(image), width=8, height=12), image)])
    with pytest.raises(ShardError, match=r"expected an image of 8x12, found 12x8: pets-1, .*000000\.tar"):
        verify(tmp_path)


def test_an_image_with_another_digest_than_its_record_is_found(tmp_path, rewrite, photograph, describe):
    image = photograph()
    rewrite(tmp_path, [(describe(image), image)])
    path = tmp_path / "000000.tar"
    flip(path, 700)
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    dataset["shards"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(ShardError, match=r"expected an image with sha256 .*: pets-1, .*000000\.tar"):
        verify(tmp_path)


def test_an_index_that_says_otherwise_is_found(tmp_path, rewrite, photograph, describe):
    image = photograph()
    entries = rewrite(tmp_path, [(describe(image), image)])
    write_index(tmp_path, [entries[0]._replace(width=9, token_ids=(50256, 7, 7, 50256))])
    message = r"expected of pets-1 width 9, found 12; token_ids \(50256, 7, 7, 50256\), found \(.*\): .*000000\.tar"
    with pytest.raises(ShardError, match=message):
        verify(tmp_path)


def test_a_count_that_says_otherwise_is_found(build):
    folder = build()
    dataset = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**dataset, "phrases": 7}))
    with pytest.raises(ShardError, match=r"expected 7 phrases, found 5: .*dataset\.json"):
        verify(folder)


def test_one_key_in_two_shards_is_found(build):
    folder = build("pets", (1, 1))
    (folder / "000001.tar").write_bytes((folder / "000000.tar").read_bytes())
    first = ShardIndex.open(folder).entry(0)
    write_index(folder, [first, first._replace(shard=1)])
    dataset = json.loads((folder / "dataset.json").read_text())
    dataset["shards"][1]["sha256"] = dataset["shards"][0]["sha256"]
    (folder / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(ShardError, match=r"expected keys that differ, found pets-0 twice: .*000001\.tar"):
        verify(folder)


def test_phrases_and_boxes_are_counted_from_the_records(tmp_path, rewrite, photograph, describe):
    image = photograph()
    box = Box(0.0, 0.0, 0.5, 0.5)
    text = Text("a dog and a cat", (Phrase(2, 5, (box, box)), Phrase(12, 15, (box,))))
    rewrite(tmp_path, [(describe(image, texts=(text,)), image)])
    report = verify(tmp_path)
    assert (report.texts, report.phrases, report.boxes) == (1, 2, 3)


def test_every_record_is_handed_on_in_order(build):
    seen = []
    verify(build("pets", (3, 2)), seen=seen.append)
    assert [sample.ids for sample in seen] == [("coco:0",), ("coco:1",), ("coco:2",), ("coco:3",), ("coco:4",)]


def test_what_a_reader_of_records_raises_ends_the_reading(build):
    with pytest.raises(ZeroDivisionError):
        verify(build(), seen=lambda sample: 1 // 0)


def test_a_row_of_the_index_that_cannot_be_is_found_before_the_shards_are_read(build):
    folder = build()
    entries = [ShardIndex.open(folder).entry(i) for i in range(5)]
    write_index(folder, [*entries[:4], entries[4]._replace(image_offset=10**6)])
    flip(folder / "000000.tar", 700)
    with pytest.raises(ShardError, match=r"expected the image member within its shard, .*: pets-4, .*000001\.tar"):
        verify(folder)


def test_a_shard_with_another_sample_is_found(tmp_path, rewrite, photograph, describe):
    image = photograph()
    entries = rewrite(tmp_path, [(describe(image, "pets-1"), image), (describe(image, "pets-2"), image)])
    change_first_shard(tmp_path, samples=1)
    write_index(tmp_path, entries[:1])
    with pytest.raises(ShardError, match=r"expected 1 samples, found another, pets-2: .*000000\.tar"):
        verify(tmp_path)


def test_a_shard_with_a_sample_less_is_found(tmp_path, rewrite, photograph, describe):
    image = photograph()
    entries = rewrite(tmp_path, [(describe(image, "pets-1"), image)])
    change_first_shard(tmp_path, samples=2)
    write_index(tmp_path, [*entries, entries[0]._replace(key="pets-2")])
    with pytest.raises(ShardError, match=r"expected 2 samples, found 1: .*000000\.tar"):
        verify(tmp_path)


def change_first_shard(folder, **fields):
    """`dataset.json` with other facts on its only shard, and as many samples as that says."""
    dataset = json.loads((folder / "dataset.json").read_text())
    shard = {**dataset["shards"][0], **fields}
    (folder / "dataset.json").write_text(json.dumps({**dataset, "samples": shard["samples"], "shards": [shard]}))


@few
@given(at=st.integers(0, 10**6), change=st.integers(1, 255))
def test_an_index_with_a_changed_byte_says_the_same_or_is_found(pets, at, change):
    folder, data, entries = pets
    damaged = bytearray(data)
    damaged[at % len(data)] ^= change
    (folder / "index.arrow").unlink()
    (folder / "index.arrow").write_bytes(damaged)
    with suppress(ShardError):
        verify(folder, images=False)
        index = ShardIndex.open(folder)
        assert [index.entry(i) for i in range(5)] == entries


@few
@given(shard=st.sampled_from(["000000.tar", "000001.tar"]), at=st.integers(0, 10**6), change=st.integers(1, 255))
def test_a_shard_with_a_changed_byte_is_found(pets, shard, at, change):
    path = pets[0] / shard
    whole = path.read_bytes()
    flip(path, at % len(whole), change)
    with pytest.raises(ShardError, match=f"expected sha256 .*{shard}"):
        verify(pets[0], images=False)
    path.write_bytes(whole)


@pytest.fixture
def pets(build):
    """A dataset, the bytes of its index, and what they say."""
    folder = build()
    index = ShardIndex.open(folder)
    return folder, (folder / "index.arrow").read_bytes(), [index.entry(i) for i in range(5)]


def test_equal_hashes_of_different_keys_are_no_double(build, monkeypatch):
    monkeypatch.setattr("builtins.hash", lambda key: 0)
    assert verify(build()).samples == 5
