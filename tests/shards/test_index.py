import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shards.files
from bitgen.record import image_id
from shards.format import FORMAT_VERSION, Entry, ShardError, scan
from shards.index import SCHEMA, ShardIndex, write_index, write_index_tables
from tests.disk import files_of_at_most


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


def test_a_record_is_read_without_its_image(build):
    index = ShardIndex.open(build("pets", (3, 2)))
    samples = [index.read(i)[0] for i in range(5)]
    for number, shard in enumerate(index.dataset["shards"]):
        path = index.folder / shard["file"]
        data = bytearray(path.read_bytes())
        for entry in (entry for entry in map(index.entry, range(5)) if entry.shard == number):
            data[entry.image_offset : entry.image_offset + entry.image_size] = bytes(entry.image_size)
        path.write_bytes(data)
    assert [index.record(i) for i in range(5)] == samples


def test_a_record_of_another_sample_is_refused(build):
    folder = build("pets", (1,))
    path = folder / "000000.tar"
    path.write_bytes(path.read_bytes().replace(b'"key":"pets-0"', b'"key":"pets-7"'))
    with pytest.raises(ShardError, match=r"expected the sample pets-0, found 'pets-7': .*/000000.tar"):
        ShardIndex.open(folder).record(0)


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


@pytest.fixture
def vast(tmp_path):
    """A dataset's folder with 131,080 samples, of which there is only the index: two record batches and a bit."""
    folder = tmp_path / "vast"
    folder.mkdir()
    write_index_tables(folder, [rows(131_080)])
    shards = [{"file": f"{number:06d}.tar", "samples": 65_540, "bytes": 10**9, "sha256": ""} for number in range(2)]
    for shard in shards:
        with (folder / shard["file"]).open("wb") as file:
            file.truncate(shard["bytes"])
    dataset = {"format_version": FORMAT_VERSION, "name": "vast", "samples": 131_080, "shards": shards}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


@cache
def rows(count):
    """Rows of the index: sample i is called after i and has 1 + i % 3 texts of i % 7 tokens, the second with a phrase."""
    i = np.arange(count)
    texts = [[n % 7] * (1 + n % 3) for n in range(count)]
    numbers = [min(n % 3, 1) for n in range(count)]
    columns = {
        "key": [f"vast-{n}" for n in range(count)],
        "image_id": i * 7,
        "shard": i // 65_540,
        "image_offset": 512 + i,
        "image_size": 1 + i,
        "json_offset": 1024 + i,
        "json_size": 2 + i,
        "extension": ["jpg", "png", "webp"] * (count // 3) + ["jpg"] * (count % 3),
        "width": 3 + i,
        "height": 4 + i,
        "tokens": texts,
        "phrases": [[t % 2 for t in range(len(text))] for text in texts],
        "boxes": 2 * np.array(numbers),
        "token_ids": [[n % 50_000] * sum(tokens) for n, tokens in enumerate(texts)],
        "spans": [[1, 2] * n for n in numbers],
        "phrase_boxes": [[2] * n for n in numbers],
        "corners": [[0.0, 0.0, 1.0, 0.5] * 2 * n for n in numbers],
    }
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in SCHEMA}, schema=SCHEMA)


@pytest.mark.parametrize("i", [0, 511, 512, 65_535, 65_536, 65_540, 131_071, 131_072, 131_079])
def test_every_row_of_a_large_index_is_found(vast, i):
    extension = ("jpg", "png", "webp")[i % 3]
    places = (512 + i, 1 + i, 1024 + i, 2 + i)
    texts = 1 + i % 3
    assert ShardIndex.open(vast).entry(i) == Entry(
        f"vast-{i}",
        7 * i,
        i // 65_540,
        *places,
        "jpg" if i == 131_079 else extension,
        3 + i,
        4 + i,
        (i % 7,) * texts,
        (0, 1, 0)[:texts],
        2 * (texts > 1),
        (i % 50_000,) * (i % 7) * texts,
        (1, 2) * (texts > 1),
        (2,) * (texts > 1),
        (0.0, 0.0, 1.0, 0.5) * 2 * (texts > 1),
    )


def test_the_photographs_of_a_large_index_are_known_at_once(vast):
    assert np.array_equal(ShardIndex.open(vast).image_ids, 7 * np.arange(131_080))


def test_opening_reads_no_row(vast):
    """Every byte of the columns of the first record batch is another; the last batch and the footer are whole."""
    data = bytearray((vast / "index.arrow").read_bytes())
    body = data.index(b"vast-0vast-1")
    data[body : body + 100_000] = b"\xff" * 100_000
    (vast / "index.arrow").write_bytes(data)
    index = ShardIndex.open(vast)
    assert index.key(131_079) == "vast-131079"


@pytest.mark.parametrize("cuts", [[1], [65_536], [65_535, 65_537], [3, 100, 70_000, 131_000]])
def test_equal_rows_give_equal_bytes_however_they_are_cut(vast, tmp_path, cuts):
    whole = rows(131_080)
    ends = zip([0, *cuts], [*cuts, 131_080], strict=True)
    write_index_tables(tmp_path, [whole.slice(start, end - start) for start, end in ends])
    assert (tmp_path / "index.arrow").read_bytes() == (vast / "index.arrow").read_bytes()


def test_entries_and_tables_give_the_same_bytes(open_built, tmp_path):
    index = open_built()
    entries = [index.entry(i) for i in range(5)]
    values = {f.name: pa.array([getattr(e, f.name) for e in entries], f.type) for f in SCHEMA}
    assert write_index_tables(tmp_path, [pa.table(values, schema=SCHEMA)]) == 5
    assert (tmp_path / "index.arrow").read_bytes() == (index.folder / "index.arrow").read_bytes()


def test_every_record_batch_but_the_last_has_65536_rows(vast):
    file = pa.ipc.open_file(vast / "index.arrow")
    assert [file.get_batch(n).num_rows for n in range(file.num_record_batches)] == [65_536, 65_536, 8]


def test_a_table_of_other_columns_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(ShardError, match=r"expected columns .* found \['key'\]: .*index\.arrow"):
        write_index_tables(tmp_path, [pa.table({"key": ["a"]})])
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path):
    with files_of_at_most(100_000), pytest.raises(OSError, match="File too large"):
        write_index_tables(tmp_path, [rows(65_536)])
    assert os.listdir(tmp_path) == []


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


def test_many_threads_read_through_few_open_files(open_built, monkeypatch):
    monkeypatch.setattr(shards.files, "_OPEN_SHARDS", 2)
    index = open_built("pets", (1,) * 9)
    order = np.random.default_rng(0).integers(0, 9, 500).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert [sample.key for sample, _ in pool.map(index.read, order)] == [f"pets-{i}" for i in order]
    held = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    assert len([path for path in held if path.startswith(f"{index.folder}/0")]) == 2


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


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_another_format_version_is_refused(build, version):
    folder = build()
    change_dataset(folder, format_version=version)
    with pytest.raises(ShardError, match=f"expected format_version {FORMAT_VERSION}, found {version!r}"):
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
    ("column", "values", "found"),
    [
        (
            "image_offset",
            [512, 2560, 4608, 512, 10240],
            r"the image member .* found image_offset 10240, .*: pets-4, .*1\.tar",
        ),
        (
            "image_offset",
            [512, -1, 4608, 512, 2560],
            r"the image member .* found image_offset -1, .*: pets-1, .*0\.tar",
        ),
        ("image_offset", [512, 2**63 - 1, 4608, 512, 2560], r"the image member .*: pets-1, .*0\.tar"),
        ("image_size", [-(2**63), 9, 9, 9, 9], r"the image member .*: pets-0, .*0\.tar"),
        ("json_size", [10**6, 9, 9, 9, 9], r"the json member .* json_size 1000000: pets-0, .*0\.tar"),
        ("json_size", [9, 9, 0, 9, 9], r"the json member .* json_size 0: pets-2, .*0\.tar"),
        ("shard", [0, 0, 0, 1, 2], r"the shard that dataset\.json has it in, found shard 2: pets-4, .*1\.tar"),
        ("shard", [0, 0, 0, 1, -1], r"the shard that dataset\.json has it in, found shard -1: pets-4, .*1\.tar"),
        ("shard", [0, 0, 0, 2**31 - 1, 1], r".* found shard 2147483647: pets-3, .*1\.tar"),
        ("shard", [0, 0, 1, 1, 1], r".* found shard 1: pets-2, .*0\.tar, by index\.arrow"),
        ("width", [12, 12, 12, 0, 12], r"a size in pixels, found width 0, height 8: pets-3, .*1\.tar"),
        ("boxes", [1, 1, -1, 1, 1], r"a number of boxes, found boxes -1: pets-2, .*0\.tar"),
        (
            "tokens",
            [[4], [5], [5, 7, 4], [], [5, 4]],
            r"tokens and phrases of each text, found others: pets-1, .*0\.tar",
        ),
        ("token_ids", [[1] * 4, [1] * 9, [1] * 15, [1] * 4, [1] * 9], r"token_ids of all texts, .*: pets-2, .*0\.tar"),
        ("spans", [[1, 2], [1, 2], [1, 2], [1, 2], [1, 2, 3]], r"spans of all texts, .*: pets-4, .*1\.tar"),
        ("phrase_boxes", [[2], [2], [2], [], [2]], r"phrase_boxes of all texts, .*: pets-3, .*1\.tar"),
        ("corners", [[0.5] * 3] * 5, r"corners of all texts, .*: pets-0, .*0\.tar"),
        (
            "extension",
            ["jpg", "jpg", "jpg", "../jpg", "jpg"],
            r"one of jpg, png, webp, npy, found '\.\./jpg': pets-3, .*1\.tar",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_its_row_is_asked_for(build, column, values, found):
    folder = build()
    change_index(folder, column, values)
    index = ShardIndex.open(folder)
    with pytest.raises(ShardError, match=f"expected {found}"):
        index.entry(3)


@pytest.mark.parametrize("offsets", [(0, 99, 2, 5), (-1, 1, 2, 5), (0, 1, 2, 6), (0, 2**31 - 1, -2, 5)])
def test_offsets_that_fall_or_leave_their_column_are_refused(build, offsets):
    folder = build("pets", (2, 1))  # of 1, 2 and 3 texts
    data, right = (folder / "index.arrow").read_bytes(), np.array([0, 1, 3, 6], "<i4").tobytes()
    assert data.count(right) == 2  # tokens and phrases
    (folder / "index.arrow").write_bytes(data.replace(right, np.array(offsets, "<i4").tobytes(), 1))
    with pytest.raises(ShardError, match=r"expected .*tokens.*index\.arrow$"):
        ShardIndex.open(folder).tokens(0)


def test_boxes_without_a_phrase_are_refused(build):
    folder = build("pets", (1,))
    entry = ShardIndex.open(folder).entry(0)
    write_index(folder, [entry._replace(phrases=(0,), spans=(), phrase_boxes=())])
    with pytest.raises(ShardError, match=r"expected no box without a phrase, found boxes 1: pets-0, .*000000\.tar"):
        ShardIndex.open(folder).tokens(0)


def test_a_key_that_is_a_path_is_refused_when_it_is_read(build):
    folder = build()
    change_index(folder, "key", ["../0", "a", "b", "c", "d"])
    with pytest.raises(ShardError, match=r"expected a key like .*, found '\.\./0': .*000000\.tar"):
        ShardIndex.open(folder).read(0)


def test_a_damaged_row_leaves_those_of_other_blocks_readable(vast):
    shards = np.arange(131_080) // 65_540
    shards[513] = 77
    change_index(vast, "shard", shards)
    index = ShardIndex.open(vast)
    assert index.key(511) == "vast-511"
    with pytest.raises(ShardError, match=r"found shard 77: vast-513, .*000000\.tar, by index\.arrow"):
        index.key(512)


def test_an_index_that_is_cut_short_after_it_was_opened_is_named(vast):
    index = ShardIndex.open(vast)
    os.truncate(vast / "index.arrow", 100_000)
    with pytest.raises(ShardError, match=r"expected 4096 bytes at byte [0-9]+, found 0: .*index\.arrow"):
        index.entry(70_000)


def test_a_shard_that_is_cut_short_after_the_index_was_opened_is_named(build):
    index = ShardIndex.open(build())
    os.truncate(index.folder / "000001.tar", 0)
    with pytest.raises(ShardError, match=r"expected a shard of 10240 bytes, found 0: .*000001\.tar"):
        index.read(4)


def test_a_shard_that_is_cut_short_while_it_is_open_is_named(build):
    index = ShardIndex.open(build())
    index.read(4)
    os.truncate(index.folder / "000001.tar", 0)
    with pytest.raises(ShardError, match=r"expected a shard of 10240 bytes, found 0: .*000001\.tar"):
        index.read(4)


def test_a_pipe_in_place_of_a_shard_is_refused(build):
    index = ShardIndex.open(build())
    (index.folder / "000001.tar").unlink()
    os.mkfifo(index.folder / "000001.tar")
    with pytest.raises(ShardError, match=r"expected a shard of 10240 bytes, found 0: .*000001\.tar"):
        index.read(4)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def test_a_shard_of_another_digest_is_refused_before_it_is_read_where_that_was_asked_for(build):
    folder = build()
    flip(folder / "000001.tar", 5000)
    with pytest.raises(ShardError, match=r"expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}: .*000001\.tar"):
        ShardIndex.open(folder, verify=True).read(4)


def test_a_shard_of_another_digest_is_read_where_that_was_not_asked_for(build):
    folder = build()
    flip(folder / "000001.tar", -1)
    assert ShardIndex.open(folder).read(4)[0].key == "pets-4"


def test_an_index_that_is_replaced_is_read_as_it_was_opened(vast):
    index = ShardIndex.open(vast)
    write_index_tables(vast, [rows(3)])
    assert index.key(131_079) == "vast-131079"


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_compressed_index_is_refused(vast, codec):
    table = pa.ipc.open_file(vast / "index.arrow").read_all()
    with pa.ipc.new_file(vast / "index.arrow", SCHEMA, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table, max_chunksize=65_536)
    with pytest.raises(ShardError, match=r"expected [0-9]+ bytes of key in the file, found .*index\.arrow"):
        ShardIndex.open(vast)


def test_an_index_in_other_record_batches_is_refused(vast):
    table = pa.ipc.open_file(vast / "index.arrow").read_all()
    with pa.ipc.new_file(vast / "index.arrow", SCHEMA) as writer:
        writer.write_table(table, max_chunksize=1000)
    with pytest.raises(ShardError, match=r"expected batches of 65536 rows, found 1000 after 1000 in 1: .*index\.arrow"):
        ShardIndex.open(vast)


def test_an_index_with_gaps_is_refused(build):
    folder = build()
    table = pa.ipc.open_file(folder / "index.arrow").read_all()
    at = SCHEMA.get_field_index("boxes")
    table = table.set_column(at, SCHEMA.field(at), pa.array([1, None, 1, 1, 1], pa.int32()))
    with pa.ipc.new_file(folder / "index.arrow", SCHEMA) as writer:
        writer.write_table(table)
    with pytest.raises(ShardError, match=r"expected a number in every row of boxes, found gaps: .*index\.arrow"):
        ShardIndex.open(folder)


def test_shards_of_other_sizes_than_the_dataset_s_are_refused(build):
    folder = build()
    shards = json.loads((folder / "dataset.json").read_text())["shards"]
    change_dataset(folder, shards=[shards[0], {**shards[1], "samples": 3}])
    with pytest.raises(ShardError, match=r"expected 5 samples in its shards, found 6: .*dataset\.json"):
        ShardIndex.open(folder)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
def test_a_damaged_index_is_a_shard_error_or_other_numbers(index_of_pets, flips):
    folder, data = index_of_pets
    damaged = bytearray(data)
    for at, change in flips:
        damaged[at % len(data)] ^= change
    with suppress(ShardError):
        read_all(folder, damaged)


@pytest.fixture
def index_of_pets(build):
    folder = build()
    return folder, (folder / "index.arrow").read_bytes()


def read_all(folder, data):
    """Everything that an index of these bytes says."""
    (folder / "index.arrow").unlink()
    (folder / "index.arrow").write_bytes(data)
    index = ShardIndex.open(folder)
    for i in range(len(index)):
        index.read(i)
    index.check()


def test_a_shard_that_was_written_again_alike_is_read(build):
    index = ShardIndex.open(build("pets", (3, 2)))
    path = index.folder / "000001.tar"
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(0, 0))
    assert index.read(4)[0].key == "pets-4"


def test_a_shard_that_was_replaced_since_it_was_listed_is_refused(build):
    index = ShardIndex.open(build("pets", (3, 2)))
    path = index.folder / "000001.tar"
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    os.utime(path, ns=(0, 0))
    with pytest.raises(ShardError, match=r"expected sha256 \w+, found \w+: .*/000001\.tar"):
        index.read(4)
