import dataclasses
import hashlib
import os
import resource
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import webdataset
from webdataset.writer import TarWriter

from bitgen.disk import FullDiskError
from bitgen.record import Box, Phrase, Text
from shards.format import ShardError, ShardWriter, image_extension, read_sample, scan, shard_name, shard_number


def write(path, samples):
    with ShardWriter(path) as writer:
        entries = [writer.add(sample, image) for sample, image in samples]
    return writer, entries


def interrupt(path, pet):
    with ShardWriter(path) as writer:
        writer.add(*pet)
        raise KeyboardInterrupt


@pytest.fixture
def pets(photograph, describe):
    images = [photograph(10), photograph(20, "PNG"), photograph(30, "WEBP")]
    texts = (Text("a dog 😀", (Phrase(2, 5, (Box(0.1, 0.2, 0.3, 0.4), Box(0.5, 0.5, 1.0, 1.0))),)), Text("two"))
    return [(describe(image, f"pets-{i}", texts), image) for i, image in enumerate(images)]


def test_a_sample_reads_back_as_it_was_written(tmp_path, pets):
    path = tmp_path / "000000.tar"
    _, entries = write(path, pets)
    data = path.read_bytes()
    assert [read_sample(data, entry, "here") for entry in entries] == pets


def test_webdataset_reads_the_same_samples(tmp_path, pets):
    path = tmp_path / "000000.tar"
    write(path, pets)
    found = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [(s["__key__"], s["json"].decode()) for s in found] == [(s.key, s.to_json()) for s, _ in pets]
    assert [found[0]["jpg"], found[1]["png"], found[2]["webp"]] == [image for _, image in pets]


def test_the_bytes_are_those_of_webdatasets_writer(tmp_path, pets):
    write(tmp_path / "000000.tar", pets)
    with TarWriter(str(tmp_path / "theirs.tar"), user="bitgen", group="bitgen", mtime=0, encoder=False) as theirs:
        for (sample, image), extension in zip(pets, ("jpg", "png", "webp"), strict=True):
            theirs.write({"__key__": sample.key, extension: image})
            theirs.write({"__key__": sample.key, "json": sample.to_json().encode()})
    assert (tmp_path / "000000.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_an_entry_says_what_its_sample_holds(tmp_path, pets):
    _, entries = write(tmp_path / "000007.tar", pets)
    assert [e.extension for e in entries] == ["jpg", "png", "webp"]
    assert (entries[0].shard, entries[0].width, entries[0].height) == (7, 12, 8)
    assert entries[0].tokens == (6, 3)  # end-of-text, "a", " dog", two tokens of the face, end-of-text
    assert (entries[0].phrases, entries[0].boxes) == ((1, 0), 2)


def test_building_twice_gives_equal_bytes(tmp_path, pets):
    write(tmp_path / "000000.tar", pets)
    write(tmp_path / "000001.tar", pets)
    assert (tmp_path / "000000.tar").read_bytes() == (tmp_path / "000001.tar").read_bytes()


def test_the_writer_knows_the_digest_of_its_file(tmp_path, pets):
    writer, _ = write(tmp_path / "000000.tar", pets)
    data = writer.path.read_bytes()
    assert (writer.sha256, writer.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))


def test_a_scan_finds_the_entries_that_the_writer_gave(tmp_path, pets):
    path = tmp_path / "000003.tar"
    _, entries = write(path, pets)
    assert list(scan(path)) == [(entry, *pet) for entry, pet in zip(entries, pets, strict=True)]


def test_an_interrupted_shard_leaves_nothing(tmp_path, pets):
    with pytest.raises(KeyboardInterrupt):
        interrupt(tmp_path / "000000.tar", pets[0])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files end at 64 kB in this process: the system's own error, EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing(tmp_path, describe, full_disk):
    image = b"\xff\xd8\xff" + bytes(100_000)
    with pytest.raises(OSError, match="File too large"):
        write(tmp_path / "000000.tar", [(describe(image), image)])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_the_shard(tmp_path, pets, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FullDiskError, match=r"found it full; make room and run again: .*/000000.tar$"):
        write(tmp_path / "000000.tar", pets)


def test_a_disk_without_room_for_one_more_file_names_the_shard(tmp_path, pets, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(FullDiskError, match=r"found it full; make room and run again: .*/000000.tar$"):
        write(tmp_path / "000000.tar", pets)


def test_a_failed_shard_keeps_the_finished_one(tmp_path, pets):
    writer, _ = write(tmp_path / "000000.tar", pets)
    with pytest.raises(ShardError), ShardWriter(writer.path) as again:
        again.add(pets[0][0], b"no image")
    assert hashlib.sha256(writer.path.read_bytes()).hexdigest() == writer.sha256


@pytest.mark.parametrize("key", ["", "../x", "/etc/passwd", "a/b", "a.b", "-a", "é", "a b", "a\n", "k" * 91])
def test_an_unsafe_key_is_refused(tmp_path, photograph, describe, key):
    image = photograph()
    with pytest.raises(ShardError, match="expected a key like"):
        write(tmp_path / "000000.tar", [(describe(image, key), image)])


def test_a_key_is_refused_the_second_time(tmp_path, pets):
    with pytest.raises(ShardError, match="expected a key of its own, found 'pets-0'"):
        write(tmp_path / "000000.tar", [pets[0], pets[0]])


def test_an_image_of_another_kind_is_refused(tmp_path, describe):
    with pytest.raises(ShardError, match="expected the signature of a JPEG, PNG or WebP image, found b'GIF89a'"):
        write(tmp_path / "000000.tar", [(describe(b"GIF89a"), b"GIF89a")])


def test_a_sample_without_a_digest_is_refused(tmp_path, pets):
    with pytest.raises(ShardError, match="expected the image's sha256 and size in pixels, found '', 12x8: pets-0"):
        write(tmp_path / "000000.tar", [(dataclasses.replace(pets[0][0], sha256=""), pets[0][1])])


def test_a_sample_without_a_text_is_refused(tmp_path, photograph, describe):
    image = photograph()
    with pytest.raises(ShardError, match="expected a text, found none: pets-1"):
        write(tmp_path / "000000.tar", [(describe(image, texts=()), image)])


def test_a_refused_sample_leaves_the_shard_as_it_was(tmp_path, pets):
    bad = dataclasses.replace(pets[1][0], texts=(Text("half a pair: \ud83d"),))
    with ShardWriter(tmp_path / "000000.tar") as writer:
        first = writer.add(*pets[0])
        with pytest.raises(ShardError, match="expected a text with a UTF-8 form"):
            writer.add(bad, pets[1][1])
        last = writer.add(*pets[2])
    assert [entry for entry, _, _ in scan(writer.path)] == [first, last]


@pytest.mark.parametrize("name", ["shard.tar", "1.tar", "000000.tar.gz", "0000000.tar", "/x/000000.tar", "٠٠٠٠٠٠.tar"])
def test_another_name_is_no_shard(name):
    with pytest.raises(ShardError, match=r"expected a shard's name as 000000\.tar"):
        shard_number(name)


def test_a_shard_is_named_by_its_number():
    assert (shard_name(12), shard_number("000012.tar")) == ("000012.tar", 12)


@pytest.mark.parametrize("image", [b"", b"<html>", b"RIFF\0\0\0\0WAVE", b"GIF89a"])
def test_bytes_without_a_known_signature_have_no_extension(image):
    with pytest.raises(ShardError, match="expected the signature"):
        image_extension(image)


@pytest.fixture
def one(tmp_path, pets):
    """The bytes of a shard of two, and the first's entry."""
    writer, entries = write(tmp_path / "000000.tar", pets[:2])
    return writer.path.read_bytes(), entries


@pytest.mark.parametrize(
    "change",
    [
        {"image_offset": 10**9},
        {"image_offset": -512},
        {"image_size": 10**6},
        {"image_size": -1},
        {"json_offset": 10**9},
    ],
)
def test_a_member_outside_the_file_is_refused(one, change):
    data, entries = one
    with pytest.raises(ShardError, match=r"expected pets-0\.(jpg|json) within .*: here"):
        read_sample(data, entries[0]._replace(**change), "here")


def test_the_member_of_another_sample_is_refused(one):
    data, entries = one
    with pytest.raises(ShardError, match=r"expected member pets-9\.jpg at byte 512, found b'pets-0\.jpg': here"):
        read_sample(data, entries[0]._replace(key="pets-9"), "here")


@pytest.mark.parametrize("key", ["/etc/passwd", "../pets-0", "pets-0.x"])
def test_a_key_that_could_be_a_path_is_refused(one, key):
    data, entries = one
    with pytest.raises(ShardError, match=f"expected a key like .*, found '{key}': here"):
        read_sample(data, entries[0]._replace(key=key), "here")


def test_an_offset_inside_a_member_is_refused(one):
    data, entries = one
    with pytest.raises(ShardError, match=r"expected member pets-0\.jpg at byte 513"):
        read_sample(data, entries[0]._replace(image_offset=513), "here")


def test_a_record_that_is_not_json_is_refused(one):
    data, entries = one
    start = entries[0].json_offset
    damaged = data[:start] + b"?" + data[start + 1 :]
    with pytest.raises(ShardError, match=r"expected a sample in pets-0\.json, expected a Sample as JSON, .*: here"):
        read_sample(damaged, entries[0], "here")


def test_a_record_of_another_key_is_refused(one):
    data, entries = one
    with pytest.raises(ShardError, match="expected the sample pets-0, found 'pets-7': here"):
        read_sample(data.replace(b'"key":"pets-0"', b'"key":"pets-7"'), entries[0], "here")


def test_a_record_with_other_texts_than_the_index_says_is_refused(one):
    data, entries = one
    with pytest.raises(ShardError, match=r"expected 1 texts in pets-0\.json, found 2: here"):
        read_sample(data, entries[0]._replace(tokens=(6,)), "here")


def test_a_truncated_tar_is_refused_by_a_scan(tmp_path, one):
    data, entries = one
    path = tmp_path / "000001.tar"
    path.write_bytes(data[: entries[1].json_offset + 10])
    with pytest.raises(ShardError, match=r"000001\.tar"):
        list(scan(path))


def test_a_tar_that_ends_between_members_is_refused_by_a_scan(tmp_path, one):
    data, entries = one
    path = tmp_path / "000001.tar"
    path.write_bytes(data[: entries[1].json_offset - 512] + bytes(1024))
    with pytest.raises(ShardError, match=r"expected pets-1\.json, found the end of the shard"):
        list(scan(path))


def test_an_absolute_member_name_is_refused_by_a_scan(tmp_path, photograph):
    path: Path = tmp_path / "000000.tar"
    (tmp_path / "x.jpg").write_bytes(photograph())
    with tarfile.open(path, "w") as tar:
        member = tar.gettarinfo(tmp_path / "x.jpg")
        member.name = "/etc/passwd.jpg"
        tar.addfile(member, (tmp_path / "x.jpg").open("rb"))
    with pytest.raises(ShardError, match=r"expected a plain file with a safe name, found '/etc/passwd.jpg'"):
        list(scan(path))


def test_a_file_that_is_no_tar_is_refused_by_a_scan(tmp_path):
    path = tmp_path / "000000.tar"
    path.write_bytes(b"not a tar" * 200)
    with pytest.raises(ShardError, match="expected a tar"):
        list(scan(path))
