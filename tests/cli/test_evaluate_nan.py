"""`bitgen-eval` of a checkpoint whose vision tower gives NaN: results are written, and say what is not a number."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cli.evaluate import main
from tests.runs import captions, run_config, sample, write_run, write_set, write_world


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nan")
    write_world(folder / "data")
    samples = [sample(n, captions(n)) for n in range(50, 58)]
    write_set(folder / "data", "eval/more", samples, phase="coarse", role="eval")
    run = write_run(run_config(folder / "data", folder / "runs"))
    weights = run / "checkpoints/step-00000008/model.safetensors"
    tensors = load_file(weights)
    spoilt = {name: torch.full_like(each, torch.nan) for name, each in tensors.items() if name.startswith("vision.")}
    save_file(tensors | spoilt, weights, metadata={"format": "pt"})
    assert (
        main([str(run), "--task", "retrieval", "grounding", "memory", "attention", "vectors", "--split", "heldout"])
        == 0
    )
    return run


@pytest.fixture(scope="module")
def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def test_what_is_not_finite_is_null_and_named(results: dict[str, Any]):
    found = results["heldout"]["datasets"]["eval/drawn-phrases"]["attention"]
    assert found["ways"]["grounding 0"]["in_box"] == [None, None]
    assert "heldout.datasets.eval/drawn-phrases.attention.ways.grounding 0.in_box[0]" in results["not_finite"]
    assert [note for note in results["notes"] if note.startswith("Not finite, and null in the results: heldout.")]


def test_embeddings_and_boxes_that_are_not_finite_are_counted_and_found_last(results: dict[str, Any]):
    found = results["heldout"]["datasets"]["eval/more"]["retrieval"]
    assert (found["not_finite"], found["t2i"]["r1"], found["t2i"]["median_rank"]) == (8, 0.0, 8.0)
    assert "eval/more: 8 images and texts have embeddings that are not finite; they are found last." in results["notes"]
    assert "eval/drawn-phrases: 12 predictions of boxes are not finite; each counts as a miss." in results["notes"]


def test_a_task_that_cannot_be_measured_says_why_and_the_others_are(results: dict[str, Any]):
    entry = results["heldout"]["datasets"]["eval/more"]
    assert entry["not_measured"] == {
        "memory": "expected finite codes of photographs and their texts, found 8 of 8 that are not",
        "vectors": "expected finite vectors of images and their texts, found 8 of 8 that are not",
    }
    assert "memory" not in entry
    assert f"eval/more: vectors was not measured: {entry['not_measured']['vectors']}." in results["notes"]


def test_charts_are_drawn_and_say_what_is_not_finite(run: Path):
    page = (run / "results.page/index.html").read_text()
    assert "not finite</small>" in page
    assert "heads left out, without which one is not finite</small>" in page
    assert "Not finite, and null in the results" in page
    picture = Image.open(run / "results.page/eval-drawn-phrases-attention-in-box.png")
    assert picture.width > 200
