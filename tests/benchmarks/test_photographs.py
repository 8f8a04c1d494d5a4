"""Which photographs are held out, what is written of them, and what the page says of what was found."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pipeline.holdout import read_ids
from pipeline.manifest import read_manifest
from tests.benchmarks import photographs, photographs_report, run
from tests.benchmarks.harness import BenchError
from tests.runs import photo


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six photographs of COCO, one without a file, and five of Flickr30k; two captions each."""
    folder = tmp_path / "data"
    for annotations, images in photographs.COCO:
        (folder / images).mkdir(parents=True)
        (folder / annotations).parent.mkdir(exist_ok=True)
        ids = range(1, 4) if "train" in images else range(4, 7)
        for id in (id for id in ids if id != 6):
            (folder / images / f"{id:012d}.jpg").write_bytes(photo(id))
        rows = [{"image_id": id, "caption": f"caption {n} of {id}"} for id in ids for n in range(2)]
        (folder / annotations).write_text(json.dumps({"annotations": rows}))
    token, images = (folder / name for name in photographs.FLICKR)
    images.mkdir(parents=True)
    for id in range(1001, 1006):
        (images / f"{id}.jpg").write_bytes(photo(id))
    token.write_text("".join(f"{id}.jpg#{n}\tcaption {n} of {id}\n" for id in range(1001, 1006) for n in range(2)))
    return folder


def test_a_fifth_of_each_kind_is_held_out_whatever_the_order():
    ids = [f"coco:{n}" for n in range(1, 51)] + [f"flickr:{n}" for n in range(1, 101)]
    held = photographs.held_out(ids)
    assert sorted(id.partition(":")[0] for id in held) == ["coco"] * 10 + ["flickr"] * 20
    assert photographs.held_out(reversed(ids)) == held
    assert held <= set(ids)


def test_photographs_without_a_file_are_left_out(data: Path):
    found = photographs.find(data)
    assert [each.id for each in found] == [f"coco:{n}" for n in range(1, 6)] + [
        f"flickr:{n}" for n in range(1001, 1006)
    ]
    assert found[0].captions == ("caption 0 of 1", "caption 1 of 1")
    assert found[-1].number == 100_000_001_005


def test_what_is_missing_is_named(data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (data / photographs.FLICKR[0]).unlink()
    with pytest.raises(BenchError, match=r"found no flickr30k/results_20130124\.token"):
        photographs.find(data)
    assert run.main(["photos", "--data", str(tmp_path / "none"), "--work", str(tmp_path)]) == 1
    assert "bench: expected photographs and captions of COCO and Flickr30k below --data" in capsys.readouterr().err


def test_the_manifest_names_the_list_and_all_photographs_are_its_rows(data: Path, tmp_path: Path):
    photos, held = photographs.find(data), frozenset({"coco:2", "flickr:1004"})
    photographs.write(tmp_path / "source", photos, held)
    manifest = read_manifest(tmp_path / "source/photos.toml")
    assert [read_ids(path) for path in manifest.holdout_lists] == [["coco:10000002", "coco:100000001004"]]
    assert [(source.role, source.annotations) for source in manifest.sources] == [
        ("train", ("captions.json",)),
        ("eval", ("held-out.json",)),
    ]
    every, some = (json.loads((tmp_path / "source" / f"{n}.json").read_bytes()) for n in ("captions", "held-out"))
    assert len(every["annotations"]) == 20
    assert [(image["id"], image["width"]) for image in some["images"]] == [(10_000_002, 48), (100_000_001_004, 48)]
    assert (tmp_path / "source/photos/100000001004.jpg").read_bytes() == photo(1004)


def evaluated(r1: float, seen: int = 0) -> dict:
    ways = {way: {f"r{k}": r1 for k in (1, 5, 10)} for way in ("t2i", "i2t")}
    retrieval = {**ways, "chance": ways, "images": 2, "texts": 4}
    return {
        "heldout": {"datasets": {"eval/photos-test": {"retrieval": retrieval, "seen_in_training": seen}}},
        "train": {"datasets": {"coarse/photos-train": {"retrieval": retrieval}}},
    }


def test_means_and_spreads_are_of_seeds():
    found = photographs.scores([evaluated(0.1), evaluated(0.3)])
    assert (found["ratios"]["t2i_r5"], found["figures"]["t2i_r5_spread"]) == (0.2, 0.1414)
    assert found["counts"]["held_out_captions"] == 4
    with pytest.raises(BenchError, match="expected 0 held-out photographs trained on, found 2"):
        photographs.scores([evaluated(0.1, seen=2)])


def test_the_page_has_both_ways_and_chance():
    found = {**photographs.scores([evaluated(0.1)]), "held_out": {"sha256": "ab" * 32, "ids": []}}
    found |= {
        "seconds": {"all": 1.0},
        "commands": {},
        "curve": [{"step": s, "itc": 1 / s, "text": 2.0} for s in (1, 2)],
    }
    page = "\n".join(photographs_report.lines(found))
    assert "| i2t_r10 | 0.1 ± 0.0 | 0.1 | 0.1 | 0.1 | photographs with a caption among the first 10 |" in page
    assert len(ET.fromstring(photographs_report.curves(found)).findall(".//{http://www.w3.org/2000/svg}polyline")) == 2
