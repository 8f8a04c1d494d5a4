"""What bitgen-eval left in a run's folder, in the run's report."""

import json
from pathlib import Path
from typing import Any

import pytest

from bitgen.evaluation.page import join
from pipeline.pages.results import result_sections

SHARES = dict.fromkeys(("acc25", "acc50", "acc75", "mean_iou", "giou50", "any_box_acc50", "pointing"), 0.5)  # fmt: skip
ABOUT = {"run": "fine", "checkpoint": "step-00000008", "phase": "fine", "step": 8, "parameters": 1000}


def write(folder: Path, name: str, found: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(found))


def results(name: str, **more: Any) -> dict[str, Any]:
    entry = {"grounding": {**SHARES, "phrases": 12, "controls": {}, "interval": {"acc50": [0.375, 0.625]}, **more}}
    return {
        "format_version": 1,
        "checkpoint": "step-00000008",
        "notes": ["mind this"],
        "heldout": {"datasets": {name: entry}},
    }


def comparison() -> dict[str, Any]:
    figure = {"a": 0.25, "b": 0.5, "difference": 0.25, "interval": [0.125, 0.375], "p": 0.01}
    kinds = {"grounding": {"items": 8, "only_a": 4, "only_b": 0, "bootstrap": {}, "figures": {"acc50": figure}}}
    return {
        "format_version": 1,
        "a": {**ABOUT, "run": "coarse"},
        "b": ABOUT,
        "sets": {"eval/a": kinds},
        "notes": ["4 are left out"],
    }


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


def test_files_of_single_tasks_and_of_other_names_are_shown_too(tmp_path: Path) -> None:
    for name in ("captioning.json", "official-memory.json", "mine.json", "results.json", "results-earlier-1.json"):
        write(tmp_path, name, results(f"eval/of-{name}"))
    write(tmp_path, "config.json", {"format_version": 1, "model": {}})
    write(tmp_path, "notes.json", {"heldout": {}})
    write(tmp_path, "two.json", comparison())
    (tmp_path / "other.json").write_text("[1, 2")
    (tmp_path / "captioning.page").mkdir()
    (tmp_path / "captioning.page" / "index.html").touch()
    found = dict(result_sections(tmp_path))
    assert list(found) == [
        "Results",
        "captioning.json",
        "mine.json",
        "official-memory.json",
        "results-earlier-1.json",
        "two.json",
    ]
    assert "eval/of-captioning.json" in found["captioning.json"]
    assert 'href="captioning.page/index.html"' in found["captioning.json"]
    assert "href" not in found["mine.json"]
    assert "Grounding: fine less coarse" in found["two.json"]


@pytest.mark.parametrize("name", ["results.json", "memory.json", "comparison.json", "official-attention-vectors.json"])
def test_a_file_that_is_cut_short_is_named_with_what_is_wrong(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"format_version": 1, "heldout": {"data')
    body = join(body for _, body in result_sections(tmp_path))
    assert f"{name} cannot be read: expected what bitgen-eval writes, found Unterminated string" in body
    assert f"line 1 column 35 (char 34), in 39 bytes: {tmp_path / name}" in body
    assert ("None yet" in body) == (name != "results.json")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "found Expecting value: line 1 column 1"),
        (b"\xff", "codec can"),
        (b"[]", "found "),
        (b"{}", "found KeyError"),
    ],
)
def test_results_of_another_kind_are_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "results.json").write_bytes(data)
    body = dict(result_sections(tmp_path))["Results"]
    assert "results.json cannot be read: expected what bitgen-eval writes, " in body
    assert said in body
    assert "None yet" not in body


def test_figures_that_are_null_are_dashes(tmp_path: Path) -> None:
    write(tmp_path, "results.json", results("eval/a", acc50=None))
    assert '<td class="number">–</td>' in dict(result_sections(tmp_path))["Results"]


def test_a_file_of_another_shape_is_named(tmp_path: Path) -> None:
    write(tmp_path, "official.json", {"heldout": {"datasets": {"x": {"retrieval": 3}}}})
    write(tmp_path, "comparison.json", {"sets": {}})
    found = dict(result_sections(tmp_path))
    assert "official.json cannot be read: expected what bitgen-eval writes" in found["Results on official files"]
    assert "comparison.json cannot be read" in found["Comparison"]
