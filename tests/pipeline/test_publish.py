"""What a run shares: enough to load it, its own numbers, and nothing of the machine that it was trained on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitgen.training.checkpoint import find, load_model, read_state
from pipeline.publish import published, without_paths
from tests import runs


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A fine run after a coarse one, over a world that states its licences."""
    root = runs.write_world(tmp_path / "home/data")
    for name, licence in (("coarse/drawn-train", "CC0 | public domain"), ("fine/drawn-train", "CC BY 4.0")):
        path = root / "shards" / name / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"licence": licence}))
    coarse = runs.run_config(root, tmp_path / "home/runs", "first")
    runs.write_run(replace(coarse, phase="coarse", data=replace(coarse.data, mixture={"coarse/drawn-train": 1.0})))
    lines = [{"step": 4, "validation_acc50": 0.1}, {"step": 8, "loss": 1.0}, {"step": 8, "validation_acc50": 0.25}]
    return runs.write_run(
        runs.run_config(root, tmp_path / "home/runs", "second", init=str(tmp_path / "home/runs/first")), lines=lines
    )


def _card(run: Path) -> str:
    card = published(find(run), "me/tiny")["README.md"]
    assert isinstance(card, bytes)
    return card.decode()


def test_what_is_shared_is_enough_to_load_the_model(run: Path, tmp_path: Path) -> None:
    for name, content in published(find(run), "me/tiny").items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    model, state = load_model(tmp_path)
    before, _ = load_model(run)
    assert state.step == 8
    assert [n for n, tensor in model.state_dict().items() if not tensor.equal(before.state_dict()[n])] == []


def test_no_path_of_the_machine_is_shared(run: Path) -> None:
    files = published(find(run), "me/tiny")
    assert str(run.parents[1]) in find(run).joinpath("state.json").read_text()
    assert [name for name, c in files.items() if isinstance(c, bytes) and str(run.parents[1]).encode() in c] == []
    assert sorted(files) == ["README.md", "config.json", "model.safetensors", "state.json"]


def test_the_list_of_what_was_held_out_is_shared_where_the_run_has_it(run: Path) -> None:
    (run / "holdout.txt").write_text("coco:1\n")
    assert published(find(run), "me/tiny")["holdout.txt"] == run / "holdout.txt"


@pytest.mark.parametrize(
    ("model", "shared"),
    [("facebook/dinov2-base", "facebook/dinov2-base"), ("/home/me/towers/small", "small"), ("towers/of/mine", "mine")],
)
def test_a_tower_is_named_without_its_folders(model: str, shared: str) -> None:
    config = {"data": {}, "run": {"init": "hf://me/x"}, "model": {"vision": {"model": model}}}
    found = without_paths({"config": config})["config"]
    assert found["model"]["vision"]["model"] == shared
    assert found["run"]["init"] == "hf://me/x"


def test_the_card_names_every_dataset_of_the_lineage_with_its_licence(run: Path) -> None:
    rows = [line for line in _card(run).splitlines() if line.startswith("| fine/") or line.startswith("| coarse/")]
    assert rows == [
        "| coarse/drawn-train | fine, coarse | 6 | CC0 \\| public domain |",
        "| fine/drawn-train | fine | 6 | CC BY 4.0 |",
    ]


def test_the_card_says_which_list_was_held_out_and_how_to_load_the_model(run: Path) -> None:
    card = _card(run)
    assert f"`{read_state(find(run)).holdout_sha256}`" in card
    assert 'model = BitGen.from_pretrained("me/tiny")' in card
    assert "step 8 of the run second: phases fine (2 epochs at most) after coarse (2 epochs at most)" in card


def test_without_results_the_card_has_the_validation_of_its_step(run: Path) -> None:
    assert "| acc50 | 0.2500 |" in _card(run)
    assert "0.1000" not in _card(run)


def test_results_of_this_checkpoint_stand_in_the_card_and_those_of_another_do_not(run: Path) -> None:
    shares = dict.fromkeys(("acc50", "mean_iou", "acc25", "acc75", "giou50", "any_box_acc50", "pointing"), 0.5)
    found = {"phrases": 12, **shares, "controls": {}}
    results: dict[str, Any] = {"heldout": {"datasets": {"eval/x": {"grounding": found}}}, "notes": ["A warning."]}
    (run / "results.json").write_text(json.dumps(results | {"checkpoint": find(run).name}))
    assert "| held out: eval/x | 12 | 50.0 |" in _card(run)
    assert "A warning." in _card(run)
    (run / "results.json").write_text(json.dumps(results | {"checkpoint": "step-00000004"}))
    assert "held out: eval/x" not in _card(run)


def test_a_run_without_figures_says_so(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    assert "None: it was neither validated nor evaluated." in _card(run)


def test_a_dataset_that_is_gone_is_said_to_be_unknown(run: Path) -> None:
    (run.parents[1] / "data/shards/fine/drawn-train/dataset.json").unlink()
    assert "| fine/drawn-train |  |  | not known: the dataset is not on the machine that pushed |" in _card(run)
