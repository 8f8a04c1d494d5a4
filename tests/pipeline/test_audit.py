"""Everything built is read again; here some of it was built wrongly, by hand, past every rule of the build."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bitgen.record import Sample, Text
from pipeline.audit import Audited, AuditError, audit
from pipeline.manifest import read_manifest
from shards.format import FORMAT_VERSION, ShardError, ShardWriter
from shards.index import write_index

MANIFESTS = Path(__file__).parents[2] / "manifests"
Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path, paint: Callable[..., bytes]) -> Put:
    """`put(name, ids of each sample)`: a dataset of pictures that are in no other dataset, without the build."""
    drawn = iter(range(1000))

    def make(name: str, *ids: Sequence[str], images: Sequence[bytes] = (), url: str = "", **fields: Any) -> Path:
        folder = tmp_path / "shards" / name
        folder.mkdir(parents=True)
        source, split = folder.name.rsplit("-", 1)
        with ShardWriter(folder / "000000.tar") as writer:
            entries = []
            for number, known in enumerate(ids):
                image = images[number] if images else paint(next(drawn))
                digest = hashlib.sha256(image).hexdigest()
                texts = (Text(f"picture {number}"),)
                key = f"image-{number}"
                sample = Sample(key, source, split, tuple(known), 48, 40, "CC0", url, digest, texts)
                entries.append(writer.add(sample, image))
        write_index(folder, entries)
        shard = {"file": "000000.tar", "samples": len(ids), "bytes": writer.size_bytes, "sha256": writer.sha256}
        dataset = {"format_version": FORMAT_VERSION, "name": name, "samples": len(ids), "shards": [shard]}
        (folder / "dataset.json").write_text(json.dumps(dataset | fields))
        return folder

    return make


def put_images(folder: Path, *rows: tuple[str, str]) -> None:
    """`images.parquet` of keys and digests."""
    keys, digests = zip(*rows, strict=True)
    columns = {"key": keys, "sha256": digests, "look": pa.array([0] * len(rows), pa.uint64())}
    pq.write_table(pa.table(columns), folder / "images.parquet")


def put_ledger(folder: Path, *outcomes: str) -> None:
    """A ledger of rows with these outcomes."""
    pq.write_table(pa.table({"outcome": list(outcomes)}), folder / "ledger.parquet")


def test_what_the_build_makes_passes(world: Any, paint: Callable[..., bytes]) -> None:
    world.add("val", {1: paint(1), 2: paint(2)}, role="eval", published={"images": 2, "rows": 4})
    world.add("train", {1: paint(1), 3: paint(3), 4: paint(4)}, published={"images": 3, "rows": 6})
    world.build()
    found = audit(world.data / "shards")
    assert [(each.name, each.report.samples) for each in found.datasets] == [
        ("eval/world-val", 2),
        ("coarse/world-train", 2),
    ]
    assert [[(c.what, c.found) for c in each.published] for each in found.datasets] == [
        [("images", 2), ("rows", 4)],
        [("images", 3), ("rows", 6)],
    ]


def test_the_numbers_that_were_compared_are_printed(put: Put, tmp_path: Path) -> None:
    put("eval/coco-val", ["coco:1", "flickr:5"], ["coco:2"])
    put("eval/refcoco-val", ["coco:2"], ["coco:3"])
    put("coarse/sbu-train", ["flickr:6"], ["flickr:7"], ["flickr:8"])
    # 5,000 + 5,000 + 6,549 ids ship; coco:1, 2, 3 and flickr:5; two sets of two images.
    assert audit(tmp_path / "shards").holdout() == (
        "16,549 listed ids, 4 ids of 2 evaluation sets and the bytes of their 4 images against 3 training samples:"
        " none in common"
    )


def test_ids_of_the_block_list_are_counted_apart(put: Put, tmp_path: Path) -> None:
    put("eval/coco-val", ["coco:1"])
    found = audit(tmp_path / "shards", blocked=["coco:1", "coco:42", "vg:7", "vg:8"])  # coco:42 is in a list that ships
    assert "1 ids of 1 evaluation sets, 2 more of the same photographs and" in found.holdout()


def test_the_table_has_a_line_for_every_dataset(put: Put, tmp_path: Path) -> None:
    folder = put(
        "eval/refcoco-val",
        ["coco:2"],
        counts={"kept": 1},
        counted={"images": 1, "rows": 1},
        published={"rows": 1, "images": 1},
    )
    put_ledger(folder, "kept")
    put("coarse/sbu-train", ["flickr:6"], ["flickr:7"])
    lines = [line.split() for line in audit(tmp_path / "shards").table().splitlines()]
    assert lines[0] == ["dataset", "samples", "texts", "phrases", "boxes", "shards", "MB", "as", "published"]
    assert lines[1][:6] == ["eval/refcoco-val", "1", "1", "0", "0", "1"]
    assert lines[1][7:] == ["1", "rows,", "1", "images"]
    assert lines[2][:6] == ["coarse/sbu-train", "2", "2", "0", "0", "1"]


def test_evaluation_is_read_first_and_each_dataset_is_told_of(put: Put, tmp_path: Path) -> None:
    told: list[Audited] = []
    put("coarse/coco-train", ["coco:5"])
    put("fine/mixed-train", ["coco:5"])
    put("eval/coco-val", ["coco:6"])
    audit(tmp_path / "shards", done=told.append)
    assert [each.name for each in told] == ["eval/coco-val", "coarse/coco-train", "fine/mixed-train"]


def test_a_folder_without_datasets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"expected built datasets, found none: .*; run bitgen-shards"):
        audit(tmp_path)


@pytest.mark.parametrize(
    ("evaluation", "trained", "found"),
    [
        (["coco:11"], ["coco:11"], "coco:11 of eval/refcoco-val image-0"),
        (["coco:11", "flickr:9"], ["flickr:9"], "flickr:9 of eval/refcoco-val image-0"),
        (["flickr:9"], ["coco:7", "flickr:9"], "flickr:9 of eval/refcoco-val image-0"),
        (["coco:11"], ["coco:11", "vg:2317"], "coco:11 of eval/refcoco-val image-0"),
        (["vg:2317"], ["vg:2317"], "vg:2317 of eval/refcoco-val image-0"),
    ],
)
def test_an_evaluation_image_is_found_under_any_of_its_ids(
    put: Put, tmp_path: Path, evaluation: list[str], trained: list[str], found: str
) -> None:
    put("eval/refcoco-val", evaluation)
    put("fine/refcoco+-train", ["coco:5"], trained)
    message = rf"expected no evaluation image to train on, found {found}: fine/refcoco\+-train image-1$"
    with pytest.raises(AuditError, match=message):
        audit(tmp_path / "shards")


@pytest.mark.parametrize(
    ("id", "listed"),
    [("coco:42", "karpathy_test.txt"), ("coco:139", "karpathy_val.txt"), ("coco:154", "refcoco_evaluation.txt")],
)
def test_a_listed_image_is_found_without_any_evaluation_set(put: Put, tmp_path: Path, id: str, listed: str) -> None:
    put("fine/vg-objects-train", ["coco:5", "vg:1"], [id, "vg:2"])
    with pytest.raises(AuditError, match=f"found {id} of {listed}: fine/vg-objects-train image-1$"):
        audit(tmp_path / "shards")


def test_an_image_of_visual_genome_is_found_by_the_block_list(put: Put, tmp_path: Path) -> None:
    put("fine/mixed-train", ["vg:2317"])
    with pytest.raises(AuditError, match="found vg:2317 of an evaluation image, by the block list: fine/mixed-train"):
        audit(tmp_path / "shards", blocked=["coco:42", "vg:2317"])


def test_a_flickr_image_is_found_by_its_url_alone(put: Put, tmp_path: Path) -> None:
    put("eval/flickr30k-test", ["flickr:4385058960"])
    put("coarse/cc3m-train", [], url="http://farm4.staticflickr.com/2723/4385058960_b0f291553e_b.jpg")
    with pytest.raises(AuditError, match="found flickr:4385058960 of eval/flickr30k-test image-0: coarse/cc3m-train"):
        audit(tmp_path / "shards")


def test_an_image_of_val2017_is_found_by_its_url_alone(put: Put, tmp_path: Path) -> None:
    put("coarse/cc3m-train", [], url="https://example.org/coco/val2017/000000000724.jpg")
    with pytest.raises(AuditError, match=r"found COCO val2017 at https://example\.org/.*: coarse/cc3m-train image-0$"):
        audit(tmp_path / "shards")


def test_the_stored_bytes_of_an_evaluation_image_are_found(
    put: Put, tmp_path: Path, paint: Callable[..., bytes]
) -> None:
    put("eval/cc3m-val", [], [], images=[paint(2001), paint(2002)])
    put("coarse/sbu-train", ["flickr:1"], ["flickr:2"], images=[paint(2003), paint(2002)])
    with pytest.raises(AuditError, match=r"found the bytes of eval/cc3m-val image-1: coarse/sbu-train image-1$"):
        audit(tmp_path / "shards")


def test_the_bytes_of_an_evaluation_image_as_they_came_are_found(put: Put, tmp_path: Path) -> None:
    came = "ab" * 32  # of both, before they were shrunk to different sizes
    put_images(put("eval/cc3m-val", []), ("image-0", came))
    put_images(put("coarse/sbu-train", ["flickr:1"], ["flickr:2"]), ("image-0", "cd" * 32), ("image-1", came))
    with pytest.raises(AuditError, match=r"found the bytes of eval/cc3m-val image-0: coarse/sbu-train image-1$"):
        audit(tmp_path / "shards")


def test_evaluation_sets_may_share_their_images(put: Put, tmp_path: Path) -> None:
    put("eval/coco-val", ["coco:1"])
    put("eval/refcoco-val", ["coco:1"])
    assert len(audit(tmp_path / "shards").datasets) == 2


@pytest.mark.parametrize(
    "rows",
    [
        [("image-0", "ab" * 32)],
        [("image-1", "ab" * 32), ("image-0", "ab" * 32)],
        [("image-0", "ab" * 32), ("image-1", "cd" * 32), ("image-2", "ef" * 32)],
    ],
)
def test_a_list_of_images_that_is_another_dataset_s_is_found(
    put: Put, tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    put_images(put("coarse/sbu-train", ["flickr:1"], ["flickr:2"]), *rows)
    with pytest.raises(AuditError, match=r"expected .*images.*, found .*images\.parquet"):
        audit(tmp_path / "shards")


@pytest.mark.parametrize("name", ["images.parquet", "ledger.parquet"])
def test_a_damaged_table_is_named(put: Put, tmp_path: Path, name: str) -> None:
    (put("coarse/sbu-train", ["flickr:1"], counts={"kept": 1}) / name).write_bytes(b"PAR1 and no more")
    with pytest.raises(AuditError, match=f"expected a l.*{name}$"):
        audit(tmp_path / "shards")


def test_a_ledger_that_lost_a_row_is_found(put: Put, tmp_path: Path) -> None:
    folder = put("coarse/sbu-train", ["flickr:1"], counts={"kept": 1, "http_404": 2})
    put_ledger(folder, "http_404", "kept")
    message = r"expected rows \{'http_404': 2, 'kept': 1\}, found \{'http_404': 1, 'kept': 1\}: .*ledger\.parquet$"
    with pytest.raises(AuditError, match=message):
        audit(tmp_path / "shards")


def test_a_missing_ledger_is_found(put: Put, tmp_path: Path) -> None:
    put("coarse/sbu-train", ["flickr:1"], counts={"kept": 1})
    with pytest.raises(AuditError, match=r"expected a ledger, .*ledger\.parquet"):
        audit(tmp_path / "shards")


def test_damage_is_found(put: Put, tmp_path: Path) -> None:
    path = put("coarse/sbu-train", ["flickr:1"]) / "000000.tar"
    data = bytearray(path.read_bytes())
    data[900] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"expected sha256 .*sbu-train/000000\.tar"):
        audit(tmp_path / "shards")


def test_every_count_that_is_not_as_published_is_named_after_all_was_read(put: Put, tmp_path: Path) -> None:
    told: list[Audited] = []
    facts = {"counts": {"kept": 10833, "bad_box": 1}, "counted": {"images": 2, "rows": 10833}}
    val = put("eval/refcoco-val", ["coco:1"], ["coco:2"], published={"rows": 10834, "images": 2}, **facts)
    put_ledger(val, *["kept"] * 10833, "bad_box")
    facts = {"counts": {"kept": 1, "timeout": 2}, "published": {"rows": 3, "images": 3}}
    put_ledger(put("coarse/sbu-train", ["flickr:1"], **facts), "kept", "timeout", "timeout")
    message = (
        "^expected 10,834 rows of eval/refcoco-val as published, found 10,833;"
        " expected 3 images of coarse/sbu-train as published, found no count$"
    )
    with pytest.raises(AuditError, match=message):
        audit(tmp_path / "shards", done=told.append)
    assert [each.name for each in told] == ["eval/refcoco-val", "coarse/sbu-train"]


def test_doubles_count_as_published_images_of_an_evaluation_set(put: Put, tmp_path: Path) -> None:
    facts = {"counts": {"kept": 1, "duplicate": 1}, "counted": {"images": 2, "rows": 2}}
    put_ledger(put("eval/cc3m-val", [], published={"images": 2, "rows": 2}, **facts), "kept", "duplicate")
    assert audit(tmp_path / "shards").datasets[0].published[0].found == 2


def test_images_that_nobody_could_have_counted_are_found(put: Put, tmp_path: Path) -> None:
    facts = {"counts": {"kept": 1}, "counted": {"images": 2, "rows": 1}}
    put_ledger(put("eval/cc3m-val", [], published={"images": 2}, **facts), "kept")
    with pytest.raises(AuditError, match=r"expected 1 to 1 images counted, found 2: .*dataset\.json$"):
        audit(tmp_path / "shards")


def test_the_evaluation_sources_state_what_was_published() -> None:
    sources = [source for path in MANIFESTS.glob("*.toml") for source in read_manifest(path).sources]
    assert {s.dataset: dict(s.published) for s in sources if s.published and s.role == "eval"} == {
        "eval/coco-val": {"images": 5000},
        "eval/coco-test": {"images": 5000},
        "eval/coco-val2017": {"images": 5000},
        "eval/flickr30k-val": {"images": 1014},
        "eval/flickr30k-test": {"images": 1000},
        "eval/flickr30k-entities-val": {"images": 1000},
        "eval/flickr30k-entities-test": {"images": 1000},
        "eval/flickr30k-grounded-val": {"images": 1000},
        "eval/flickr30k-grounded-test": {"images": 1000},
        "eval/refcoco-val": {"rows": 10834},
        "eval/refcoco-testa": {"rows": 5657},
        "eval/refcoco-testb": {"rows": 5095},
        "eval/refcoco+-val": {"rows": 10758},
        "eval/refcoco+-testa": {"rows": 5726},
        "eval/refcoco+-testb": {"rows": 4889},
        "eval/refcocog-val": {"rows": 4896},
        "eval/refcocog-test": {"rows": 9602},
    }


def test_only_the_cc3m_evaluation_set_and_the_sample_have_no_published_count() -> None:
    sources = [source for path in MANIFESTS.glob("*.toml") for source in read_manifest(path).sources]
    assert {s.dataset for s in sources if not s.published and s.role == "eval"} == {"eval/cc3m-val"} | {
        s.dataset for s in read_manifest(MANIFESTS / "sample.toml").sources if s.role == "eval"
    }
