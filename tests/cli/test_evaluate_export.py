"""bitgen-eval on an exported model: the same sets, figures and files as for its checkpoint."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitgen.training.checkpoint import STATE
from cli.evaluate import main
from cli.export import main as export
from tests.runs import captions, run_config, sample, write_run, write_set, write_world

TASKS = ("--task", "retrieval", "grounding", "captioning", "--rerank", "2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an export in its folder, its matching head trained."""
    folder = tmp_path_factory.mktemp("exported")
    config = run_config(write_world(folder / "data"), folder / "runs")
    found = write_run(replace(config, loss=replace(config.loss, itm=1.0)))
    assert export([str(found), "--format", "onnx"]) == 0
    return found


def evaluated(model: Path, out: Path) -> dict[str, Any]:
    assert main([str(model), *TASKS, "--no-java", "--out", str(out)]) == 0
    return json.loads(out.read_text())


def names(found: Any) -> Any:
    """Of all figures, whatever they are."""
    return {name: names(each) for name, each in found.items()} if isinstance(found, dict) else type(found)


def test_an_export_has_the_figures_of_its_checkpoint(run: Path, tmp_path: Path) -> None:
    found, expected = evaluated(run / "export", tmp_path / "a.json"), evaluated(run, tmp_path / "b.json")
    assert found.pop("exported")["tower"] == "fp16"
    assert found["notes"].pop(0).startswith("An exported model of ")
    assert (found.pop("checkpoint"), expected.pop("checkpoint")) == ("export", "step-00000008")
    assert found.pop("parameters") < expected.pop("parameters")  # adapters are merged
    assert names(found) == names(expected)
    assert found["holdout_sha256"] == expected["holdout_sha256"]
    for kind in ("acc50", "mean_iou"):
        assert found["heldout"]["grounding"][kind] == pytest.approx(expected["heldout"]["grounding"][kind], abs=0.01)


def test_results_and_page_go_into_the_export(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run / "export"), "--split", "heldout"]) == 0
    assert (run / "export/results.page/index.html").is_file()
    assert not (run / "results.json").exists()
    printed = capsys.readouterr().out
    assert "An exported model of " in printed
    assert printed.endswith(f"next, to compare it with its checkpoint: bitgen-eval --compare CKPT {run / 'export'}\n")


def test_a_checkpoint_and_its_export_are_compared(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--compare", str(run), str(run / "export"), *TASKS]) == 0
    found = json.loads((run / "export/comparison.json").read_text())
    assert (found["a"]["checkpoint"], found["b"]["checkpoint"]) == ("step-00000008", "export")
    assert set(found["sets"]["eval/drawn-captions"]) == {"t2i", "i2t", "captioning"}
    assert "reranked_r1" in found["sets"]["eval/drawn-captions"]["t2i"]["figures"]
    assert set(found["sets"]["eval/drawn-phrases"]) == {"grounding"}
    assert "tiny export: An exported model of " in capsys.readouterr().out


def test_what_looks_inside_a_model_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run / "export"), "--task", "retrieval", "memory", "efficiency"]) == 1
    said = "expected tasks that an exported model can do, retrieval, grounding, captioning, found memory, efficiency"
    assert said in capsys.readouterr().err


def test_sets_that_the_hold_out_lists_do_not_cover_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path, "eval/others", [sample(20, captions(20))], holdout_sha256="cd" * 32)
    asked = [str(run / "export"), "--data", str(tmp_path), "--split", "heldout", "--task", "retrieval"]
    assert main([*asked, "--out", str(tmp_path / "found.json")]) == 1
    assert "expected sets under the checkpoint's hold-out lists" in capsys.readouterr().err
    assert not (tmp_path / "found.json").exists()


def test_the_state_of_another_checkpoint_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(run / "export", tmp_path / "model")
    fields = json.loads((model / STATE).read_text())
    (model / STATE).write_text(json.dumps({**fields, "holdout_sha256": "cd" * 32}))
    assert main([str(model), "--task", "grounding"]) == 1
    assert "expected state.json of the packed model" in capsys.readouterr().err


def test_a_packed_file_without_graphs_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export([str(run), "--out", str(tmp_path)]) == 0
    assert main([str(tmp_path), "--task", "grounding"]) == 1
    assert (
        "expected image_encoder.onnx, as bitgen-export --format onnx leaves it, found none" in capsys.readouterr().err
    )
