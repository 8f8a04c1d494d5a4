import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

import shards.index
from bitgen.record import image_id
from shards.format import ShardError, scan
from shards.index import ShardIndex, write_index


def change_dataset(folder, **fields):
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_index(folder, column, values):
    """`index.arrow` with other values in one column."""
    table = pa.ipc.open_file(folder / "index.arrow").read_all()
    at = table.schema.get_field_index(column)
    table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    with pa.ipc.new_file(folder / "index.arrow", table.schema) as writer:
        writer.write_table(table)


def test_an_index_reads_what_a_scan_of_the_shards_finds(build):
    folder = build("pets", (3, 2))
    index = ShardIndex.open(folder)
    scanned = [*scan(folder / "000000.tar"), *scan(folder / "000001.tar")]
    assert [(index.entry(i), *index.read(i)) for i in range(len(index))] == scanned


def test_an_index_knows_its_samples_without_reading_them(open_built):
    index = open_built("pets", (3, 2))
    assert (index.name, len(index), index.shard_sizes) == ("pets", 5, (3, 2))
    assert [index.key(i) for i in range(5)] == ["pets-0", "pets-1", "pets-2", "pets-3", "pets-4"]
    assert [index.tokens(i).tolist() for i in range(3)] == [[4], [5, 4], [5, 7, 4]]  # "a dog " has a last token, " "
    assert [index.phrases(i).tolist() for i in range(3)] == [[1], [0, 1], [0, 0, 1]]


def test_one_photograph_has_one_id_in_every_source(open_built):
    cats, dogs = open_built("cats", (2,)), open_built("dogs", (1, 1))
    assert cats.image_ids.tolist() == dogs.image_ids.tolist() == [image_id(cats.read(i)[0]) for i in range(2)]


def test_a_dataset_without_samples_opens(open_built):
    index = open_built("nothing", (0,))
    assert (len(index), index.shard_sizes, index.image_ids.tolist()) == (0, (0,), [])


def test_equal_entries_give_equal_bytes(build, tmp_path):
    folder = build()
    first = (folder / "index.arrow").read_bytes()
    index = ShardIndex.open(folder)
    write_index(tmp_path, [index.entry(i) for i in range(5)])
    assert (tmp_path / "index.arrow").read_bytes() == first


def test_an_index_of_several_record_batches_reads_as_one(build, monkeypatch):
    monkeypatch.setattr(shards.index, "_ROWS", 2)
    folder = build("pets", (3, 2))
    index = ShardIndex.open(folder)
    assert [index.read(i)[0].key for i in range(5)] == [index.key(i) for i in range(5)]
    assert (index.shard_sizes, len(index.image_ids)) == ((3, 2), 5)


def test_entries_out_of_shard_order_are_refused_and_nothing_is_left(open_built, tmp_path):
    index = open_built()
    target = tmp_path / "other"
    target.mkdir()
    with pytest.raises(ShardError, match="expected shard 1 or later, found 0: pets-0"):
        write_index(target, [index.entry(4), index.entry(0)])
    assert os.listdir(target) == []


def test_a_sample_that_is_not_there_is_an_index_error(open_built):
    with pytest.raises(IndexError, match="expected a sample within 5, found -1"):
        open_built().read(-1)


def test_many_threads_read_through_few_maps(open_built, monkeypatch):
    monkeypatch.setattr(shards.index, "_OPEN_SHARDS", 2)
    index = open_built("pets", (1,) * 9)
    order = np.random.default_rng(0).integers(0, 9, 500).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert [sample.key for sample, _ in pool.map(index.read, order)] == [f"pets-{i}" for i in order]
    assert len(index._maps) == 2


def test_an_unfinished_dataset_is_refused(build):
    folder = build()
    (folder / "dataset.json").unlink()
    with pytest.raises(ShardError, match=r"expected a finished dataset, found no dataset\.json: .*pets"):
        ShardIndex.open(folder)


@pytest.mark.parametrize(("text", "message"), [("{", "expected JSON"), ("[]", "found None"), ("\xff", "expected")])
def test_a_dataset_json_that_is_none_is_refused(build, text, message):
    folder = build()
    (folder / "dataset.json").write_text(text, encoding="latin-1")
    with pytest.raises(ShardError, match=rf"{message}.*dataset\.json"):
        ShardIndex.open(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused(build, version):
    folder = build()
    change_dataset(folder, format_version=version)
    with pytest.raises(ShardError, match=f"expected format_version 1, found {version!r}"):
        ShardIndex.open(folder)


@pytest.mark.parametrize(
    "shards",
    [None, {}, ["000000.tar"], [{"file": "000000.tar"}], [{"file": 0, "samples": 1, "bytes": 1, "sha256": ""}]],
)
def test_shards_without_their_fields_are_refused(build, shards):
    folder = build()
    change_dataset(folder, shards=shards)
    with pytest.raises(ShardError, match="expected shards with file, samples, bytes and sha256"):
        ShardIndex.open(folder)


@pytest.mark.parametrize("name", ["/etc/passwd", "../pets/000000.tar", "000001.tar"])
def test_a_shard_elsewhere_is_refused(build, name):
    folder = build("pets", (5,))
    listed = json.loads((folder / "dataset.json").read_text())["shards"][0]
    change_dataset(folder, shards=[{**listed, "file": name}])
    with pytest.raises(ShardError, match=f"found '{name}'"):
        ShardIndex.open(folder)


def test_a_missing_shard_is_refused(build):
    folder = build()
    (folder / "000001.tar").unlink()
    with pytest.raises(ShardError, match=r"expected a shard of 10240 bytes, found none: .*000001\.tar"):
        ShardIndex.open(folder)


def test_a_truncated_shard_is_refused(build):
    folder = build()
    os.truncate(folder / "000001.tar", 5000)
    with pytest.raises(ShardError, match=r"expected a shard of 10240 bytes, found 5000: .*000001\.tar"):
        ShardIndex.open(folder)


def test_a_missing_index_is_refused(build):
    folder = build()
    (folder / "index.arrow").unlink()
    with pytest.raises(ShardError, match=r"expected an index, found none: .*index\.arrow"):
        ShardIndex.open(folder)


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_a_truncated_index_is_refused(build, size):
    folder = build()
    os.truncate(folder / "index.arrow", size)
    with pytest.raises(ShardError, match=r"expected an Arrow file, .*index\.arrow"):
        ShardIndex.open(folder)


def test_an_index_of_other_columns_is_refused(build):
    folder = build()
    table = pa.table({"key": ["a"]})
    with pa.ipc.new_file(folder / "index.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ShardError, match=r"expected columns .* found \['key'\]"):
        ShardIndex.open(folder)


def test_an_index_of_more_samples_than_the_shards_hold_is_refused(build):
    folder, other = build("pets", (3, 2)), build("cats", (3, 3))
    (folder / "index.arrow").write_bytes((other / "index.arrow").read_bytes())
    with pytest.raises(ShardError, match=r"expected 5 samples, found 6: .*index\.arrow"):
        ShardIndex.open(folder)


def test_an_index_of_other_shards_of_equal_size_is_refused_at_the_read(build):
    folder, other = build("pets", (3, 2)), build("cats", (3, 2))
    (folder / "index.arrow").write_bytes((other / "index.arrow").read_bytes())
    with pytest.raises(
        ShardError, match=r"expected member cats-0\.jpg at byte 512, found b'pets-0\.jpg': .*000000\.tar"
    ):
        ShardIndex.open(folder).read(0)


@pytest.mark.parametrize(
    ("column", "values", "member"),
    [
        ("image_offset", [512, 2560, 4608, 512, 10240], "pets-4, image member"),
        ("image_offset", [512, -1, 4608, 512, 2560], "pets-1, image member"),
        ("image_offset", [512, 2**63 - 1, 4608, 512, 2560], "pets-1, image member"),
        ("json_size", [10**6, 9, 9, 9, 9], "pets-0, json member"),
        ("json_size", [9, 9, 0, 9, 9], "pets-2, json member"),
    ],
)
def test_an_offset_outside_its_shard_is_refused(build, column, values, member):
    folder = build()
    change_index(folder, column, values)
    with pytest.raises(ShardError, match=rf"expected {member} within 10240 bytes.*00000[01]\.tar"):
        ShardIndex.open(folder)


@pytest.mark.parametrize("wrong", [2, -1, 200_000_000, 2**31 - 1])
def test_a_sample_in_a_shard_that_is_not_listed_is_refused(build, wrong):
    folder = build()
    change_index(folder, "shard", [0, 0, 0, 1, wrong])
    with pytest.raises(ShardError, match=rf"expected numbers of 2 shards, found {wrong}: .*index\.arrow$"):
        ShardIndex.open(folder)


def test_the_first_shard_with_another_number_of_samples_is_named(build):
    folder = build()
    change_index(folder, "shard", [0, 0, 1, 1, 1])
    with pytest.raises(ShardError, match=r"expected 3 samples in 000000\.tar, found 2: .*index\.arrow$"):
        ShardIndex.open(folder)
