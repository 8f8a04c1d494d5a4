"""`bitgen-eval --folder --manifest`: from official files to figures, through the gate of the hold-out lists."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitgen.training.checkpoint import find, read_state
from bitgen.training.config import TrainConfig
from cli.evaluate import main
from pipeline.holdout import copy_list
from pipeline.roots import open_mixture, open_root
from shards.index import ShardIndex
from tests import official, official_rows
from tests.pipeline.conftest import World, picture
from tests.runs import captions, run_config, sample, write_run, write_set
from tests.worlds import write_json

REFCOCO = """
name = "refcoco"
licence = "some"
[[source]]
name = "refcoco"
phase = "fine"
role = "eval"
split = "val"
published = { rows = 4 }
refusal_ceiling = 0.5
reader = "mdetr"
annotations = ["OpenSource/finetune_refcoco_val.json"]
images = ["../coco/train2014"]
[[source]]
name = "refcoco"
phase = "fine"
role = "eval"
split = "testa"
reader = "mdetr"
annotations = ["OpenSource/finetune_refcoco_testA.json"]
images = ["../coco/train2014"]
"""


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets are built in this process."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run over photographs 1 to 3, whose datasets a build has made, and nothing else."""
    world = World(tmp_path / "data")
    source = world.add("train", {id: picture(id) for id in (1, 2, 3)})
    world.build()
    config = run_config(world.data, tmp_path / "runs")
    config = replace(config, data=replace(config.data, mixture={source.dataset: 1.0}))
    holdout = ShardIndex.open(world.folder(source)).dataset["holdout_sha256"]
    return write_run(config, holdout, stream=open_mixture(open_root(config.data), config).mixture.fingerprint)


def fill(folder: Path, *ids: int, without: int = 0) -> Path:
    """RefCOCO's val on these photographs of COCO, but for one that is not there; two expressions each."""
    document = official_rows.mdetr("refcoco", {("coco", id): official.SIZE for id in ids})
    write_json(folder / "finetune_refcoco_val.json", document)
    for id in ids:
        path = folder / f"train2014/COCO_train2014_{id:012d}.jpg"
        path.parent.mkdir(exist_ok=True)
        if id != without:
            path.write_bytes(official.photo(f"coco {id}"))
    folder.with_suffix(".toml").write_text(REFCOCO)
    return folder


def evaluate(run: Path, folder: Path, *more: str) -> int:
    place = ("--cache", str(folder.parent / "cache"))
    return main([str(run), "--folder", str(folder), "--manifest", str(folder.with_suffix(".toml")), *place, *more])


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "official.json").read_text())


def test_a_folder_of_official_files_becomes_figures(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluate(run, fill(tmp_path / "mine", 154, 64)) == 0
    found = results(run)
    entry = found["heldout"]["datasets"]["eval/refcoco-val"]
    assert (entry["grounding"]["phrases"], entry["grounding"]["breakdown"]["texts"]) == (4, 4)
    assert entry["grounding"]["breakdown"]["left_right"]["with"]["phrases"] == 2  # "ball on the right"
    assert (entry["rows"], entry["lost"], entry["seen_in_training"]) == ({"kept": 4}, "", 0)
    assert "train" not in found
    assert "held out: eval/refcoco-val" in capsys.readouterr().out
    assert not (run / "results.json").exists()


def test_a_single_task_has_a_file_of_its_own_and_other_figures_are_put_aside(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = fill(tmp_path / "mine", 154, 64)
    assert evaluate(run, folder) == 0
    before = results(run)
    assert evaluate(run, folder, "--task", "attention") == 0
    assert results(run) == before
    assert (
        "attention"
        in json.loads((run / "official-attention.json").read_text())["heldout"]["datasets"]["eval/refcoco-val"]
    )
    assert evaluate(run, folder) == 0  # which finds all of it anew
    assert not list(run.glob("*earlier*"))
    assert evaluate(run, folder, "--task", "grounding", "attention") == 0
    assert not list(run.glob("*earlier*"))
    assert evaluate(run, folder) == 0
    kept = json.loads((run / "official-earlier-1.json").read_text())["heldout"]["datasets"]["eval/refcoco-val"]
    assert {"grounding", "attention"} <= kept.keys()
    assert (run / "official-earlier-1.page/index.html").is_file()
    assert f"is {run / 'official-earlier-1.json'}" in capsys.readouterr().err


def test_sets_of_the_manifest_that_are_not_there_are_named(run: Path, tmp_path: Path):
    assert evaluate(run, fill(tmp_path / "mine", 154, 64)) == 0
    assert results(run)["absent_sets"] == {"eval/refcoco-testa": "no OpenSource/finetune_refcoco_testA.json"}
    assert "eval/refcoco-testa was not evaluated: no OpenSource/finetune_refcoco_testA.json." in results(run)["notes"]


def test_rows_without_a_photograph_stand_in_the_result(run: Path, tmp_path: Path):
    assert evaluate(run, fill(tmp_path / "mine", 154, 64, without=64)) == 0
    entry = results(run)["heldout"]["datasets"]["eval/refcoco-val"]
    assert entry["rows"] == {"kept": 2, "no_image": 2}
    assert entry["lost"] == "eval/refcoco-val: 2 of 4 rows could not be evaluated (no_image 2)."
    assert entry["lost"] in results(run)["notes"]


def test_a_file_that_is_not_the_whole_set_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluate(run, fill(tmp_path / "mine", 154)) == 1
    assert "expected 4 rows of eval/refcoco-val as published, found 2" in capsys.readouterr().err
    assert not (run / "official.json").exists()


def test_a_set_whose_images_were_held_out_is_evaluated_and_the_result_says_why(run: Path, tmp_path: Path):
    # Both stand in the lists that ship, and the run was built under nothing else.
    assert evaluate(run, fill(tmp_path / "mine", 154, 309)) == 0
    found = results(run)
    assert found["other_holdout"] == []
    assert found["heldout"]["datasets"]["eval/refcoco-val"]["holdout"] == "same lists"


def test_a_set_of_which_nothing_was_trained_on_is_evaluated_and_the_result_says_so(run: Path, tmp_path: Path):
    assert evaluate(run, fill(tmp_path / "mine", 154, 9)) == 0
    found = results(run)
    assert found["heldout"]["datasets"]["eval/refcoco-val"]["holdout"] == "not trained on"
    assert any("none of their images was trained on: by id, by bytes and by look" in each for each in found["notes"])


def test_a_run_brings_its_list_to_a_machine_without_its_data(run: Path, tmp_path: Path):
    # Photograph 6 is on no list that ships; that the run held out 7 too makes its list another than the set's.
    world = World(tmp_path / "data")
    world.add("val", {id: picture(id) for id in (6, 7)}, role="eval")
    source = world.add("train", {id: picture(id) for id in (1, 2, 3)})
    world.build()
    sha256 = ShardIndex.open(world.folder(source)).dataset["holdout_sha256"]
    config = run_config(world.data, tmp_path / "runs", "other")
    run = write_run(config, sha256)
    copy_list(sha256, world.data / "shards", run / "holdout.txt")
    assert evaluate(run, fill(tmp_path / "mine", 154, 6), "--data", str(tmp_path / "elsewhere")) == 0
    assert results(run)["heldout"]["datasets"]["eval/refcoco-val"]["holdout"] == "listed"


def test_a_set_that_was_trained_on_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluate(run, fill(tmp_path / "mine", 154, 2)) == 1
    said = capsys.readouterr().err
    assert "in eval/refcoco-val: their images may have been trained on (--allow-other-holdout evaluates" in said
    assert "eval/refcoco-val: 1 of its 2 images are on none of the checkpoint's lists;" in said
    assert "samples that were trained on show its images: 1, as coarse/world-train coco-000000000002" in said
    assert not (run / "official.json").exists()


def test_such_a_set_is_evaluated_when_told_and_the_result_says_so(run: Path, tmp_path: Path):
    assert evaluate(run, fill(tmp_path / "mine", 154, 2), "--allow-other-holdout") == 0
    found = results(run)
    assert found["other_holdout"] == ["eval/refcoco-val"]
    assert found["heldout"]["datasets"]["eval/refcoco-val"]["holdout"] == "not covered"
    assert found["heldout"]["datasets"]["eval/refcoco-val"]["seen_in_training"] == 1
    assert any("their images may have been trained on: eval/refcoco-val." in each for each in found["notes"])


def test_a_set_is_refused_where_the_training_sets_are_not_here(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert evaluate(run, fill(tmp_path / "mine", 154, 9), "--data", str(tmp_path / "elsewhere")) == 1
    assert "coarse/world-train is not here" in capsys.readouterr().err


def test_figures_over_fewer_texts_than_a_set_has_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    trained = ShardIndex.open(tmp_path / "data/shards/coarse/world-train").dataset
    fields = {"holdout_sha256": trained["holdout_sha256"], "texts": 5}
    write_set(tmp_path / "data", "eval/short", [sample(20, captions(20))], **fields)
    assert main([str(run), "--split", "heldout"]) == 1
    assert "expected retrieval over 5 texts of short, found 2" in capsys.readouterr().err


def test_a_folder_without_the_files_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fill(tmp_path / "mine", 154)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.toml").write_text(REFCOCO)
    assert evaluate(run, tmp_path / "empty") == 1
    assert "expected the files of an evaluation set, found none" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--folder", "--manifest"])
def test_a_folder_and_a_manifest_go_together(flag: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(["runs/any", flag, "some"])
    assert stopped.value.code == 2
    assert "expected --folder and --manifest together" in capsys.readouterr().err


def test_data_that_were_built_again_prove_nothing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = TrainConfig.from_json((run / "config.json").read_text())
    holdout = read_state(find(run)).holdout_sha256
    other = write_run(replace(config, run=replace(config.run, name="other")), holdout, stream="of other shards")
    assert evaluate(other, fill(tmp_path / "mine", 154, 64)) == 1
    assert "the datasets of other were built again since it was trained" in capsys.readouterr().err


def test_what_a_cache_within_the_folder_links_to_is_not_found_there(run: Path, tmp_path: Path):
    folder = fill(tmp_path / "mine", 154, 64)
    for _ in range(3):
        place = ("--cache", str(folder / "cache"), "--allow-other-holdout")
        assert main([str(run), "--folder", str(folder), "--manifest", str(folder.with_suffix(".toml")), *place]) == 0
        assert results(run)["heldout"]["datasets"]["eval/refcoco-val"]["evaluated"] == 2
