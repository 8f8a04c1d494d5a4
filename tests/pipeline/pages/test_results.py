"""What bitgen-eval left in a run's folder, in the run's report."""

import json
from pathlib import Path
from typing import Any

from pipeline.pages.results import result_sections

SHARES = dict.fromkeys(("acc25", "acc50", "acc75", "mean_iou", "giou50", "any_box_acc50", "pointing"), 0.5)  # fmt: skip
ABOUT = {"run": "fine", "checkpoint": "step-00000008", "phase": "fine", "step": 8, "parameters": 1000}


def write(folder: Path, name: str, found: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(found))


def results(name: str, **more: Any) -> dict[str, Any]:
    entry = {"grounding": {**SHARES, "phrases": 12, "controls": {}, "interval": {"acc50": [0.375, 0.625]}, **more}}
    return {"checkpoint": "step-00000008", "notes": ["mind this"], "heldout": {"datasets": {name: entry}}}


def comparison() -> dict[str, Any]:
    figure = {"a": 0.25, "b": 0.5, "difference": 0.25, "interval": [0.125, 0.375], "p": 0.01}
    kinds = {"grounding": {"items": 8, "only_a": 4, "only_b": 0, "bootstrap": {}, "figures": {"acc50": figure}}}
    return {"a": {**ABOUT, "run": "coarse"}, "b": ABOUT, "sets": {"eval/a": kinds}, "notes": ["4 are left out"]}


def test_a_run_that_was_not_evaluated_says_how_to(tmp_path: Path) -> None:
    ((heading, body),) = result_sections(tmp_path)
    assert (heading, "None yet: bitgen-eval" in body) == ("Results", True)


def test_everything_that_was_evaluated_has_a_section(tmp_path: Path) -> None:
    write(tmp_path, "results.json", results("eval/a"))
    write(tmp_path, "official.json", results("eval/refcoco-val"))
    write(tmp_path, "comparison.json", comparison())
    found = dict(result_sections(tmp_path))
    assert list(found) == ["Results", "Results on official files", "Comparison"]
    assert "held out: eval/a" in found["Results"]
    assert "95% from" in found["Results"]
    assert "held out: eval/refcoco-val" in found["Results on official files"]
    assert "mind this" in found["Results on official files"]
    assert "4 are left out" in found["Comparison"]
    assert "<td>eval/a: IoU ≥ 0.5</td>" in found["Comparison"]
    assert "Grounding: fine less coarse" in found["Comparison"]


def test_official_results_alone_are_shown_too(tmp_path: Path) -> None:
    write(tmp_path, "official.json", results("eval/refcoco-val"))
    found = dict(result_sections(tmp_path))
    assert "None yet" in found["Results"]
    assert "eval/refcoco-val" in found["Results on official files"]


def test_figures_that_are_null_are_dashes(tmp_path: Path) -> None:
    write(tmp_path, "results.json", results("eval/a", acc50=None))
    assert '<td class="number">–</td>' in dict(result_sections(tmp_path))["Results"]


def test_a_file_of_another_shape_is_named(tmp_path: Path) -> None:
    write(tmp_path, "official.json", {"heldout": {"datasets": {"x": {"retrieval": 3}}}})
    write(tmp_path, "comparison.json", {"sets": {}})
    found = dict(result_sections(tmp_path))
    assert "official.json cannot be read: expected what bitgen-eval writes" in found["Results on official files"]
    assert "comparison.json cannot be read" in found["Comparison"]
