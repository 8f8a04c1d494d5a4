"""`bitgen-eval` with every task, what stands beside its results, and two checkpoints side by side."""

import json
import re
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from bitgen.evaluation.items import read_items
from cli.evaluate import main
from pipeline.measuring import Task
from tests.runs import captions, run_config, sample, sentences, write_run, write_set, write_world

ALL = get_args(Task)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run after everything was asked of it."""
    folder = tmp_path_factory.mktemp("asked")
    write_world(folder / "data")
    write_set(
        folder / "data", "eval/more", [sample(n, captions(n)) for n in range(50, 58)], phase="coarse", role="eval"
    )
    run = write_run(run_config(folder / "data", folder / "runs"))
    assert main([str(run), "--task", *ALL, "--no-java"]) == 0
    return run


@pytest.fixture(scope="module")
def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def test_each_task_is_asked_of_the_sets_that_can_answer(results: dict[str, Any]):
    sets = results["heldout"]["datasets"]
    asked = {name: set(entry) & set(ALL) for name, entry in sets.items()}
    of_captions = {"retrieval", "captioning", "vectors"}
    assert asked == {
        "eval/drawn-captions": of_captions,
        "eval/drawn-phrases": {"grounding", "attention"},
        "eval/more": of_captions | {"memory"},
    }
    assert results["efficiency"]["parameters"]["total"] == results["parameters"]


def test_a_model_is_looked_into_on_what_was_held_out(results: dict[str, Any]):
    tasks = {task for entry in results["train"]["datasets"].values() for task in entry}
    assert tasks & set(ALL) == {"retrieval", "grounding", "captioning"}


def test_what_heads_are_for_does_not_depend_on_how_many_images_are_taken_at_a_time(
    run: Path, results: dict[str, Any], tmp_path: Path
):
    out = tmp_path / "heads.json"
    assert main([str(run), "--task", "attention", "--batch", "3", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert (results["batch"], found["batch"]) == (64, 3)
    heads = found["heldout"]["datasets"]["eval/drawn-phrases"]["attention"]["heads"]
    assert heads == results["heldout"]["datasets"]["eval/drawn-phrases"]["attention"]["heads"]
    assert (heads["images"], heads["batch"], heads["counts"]["contrast"]) == (4, 4, 4)


def test_every_task_says_of_how_many_and_beside_what(results: dict[str, Any]):
    """A count, and a chance level or a control, and intervals, of all that is measured on sets."""
    captions, phrases = (results["heldout"]["datasets"][f"eval/{name}"] for name in ("more", "drawn-phrases"))
    retrieval, memory = captions["retrieval"], captions["memory"]
    assert (retrieval["images"], set(retrieval["chance"]["t2i"])) == (8, {"r1", "r5", "r10", "median_rank"})
    assert set(retrieval["t2i"]["interval"]) | set(retrieval["interval"]) == {"r1", "r5", "r10", "median_rank", "rsum"}
    for name in ("constant_caption", "shuffled_captions"):
        assert set(captions["captioning"]["controls"][name]["interval"]) == set(captions["captioning"]["interval"])
    assert {"own_cosine", "other_cosine", "gap"} == set(captions["vectors"]["interval"])
    assert memory["recall"]["other"]["2"]["interval"].keys() >= {"held_out_key", "empty", "shuffled"}
    assert memory["novelty"]["1"]["interval"].keys() >= {"auc", "empty", "shuffled"}
    assert memory["forgetting"]["recall"]["kept"]["interval"].keys() == {"before", "after", "never"}
    assert memory["slot_use"]["interval"].keys() == {"effective", "effective_random"}
    assert phrases["grounding"]["breakdown"]["left_right"]["without"].keys() == {
        "phrases",
        "acc50",
        "interval",
        "controls",
    }
    attention = phrases["attention"]
    assert attention["phrases"] == 12
    assert all(each["interval"].keys() >= {"in_box", "shuffled"} for each in attention["ways"].values())
    assert all("importance" in each["interval"] for each in attention["heads"]["heads"])
    assert attention["heads"]["random"].keys() == attention["heads"]["ways"].keys()


def test_sets_of_few_photographs_are_named(results: dict[str, Any]):
    (note,) = [
        note for note in results["notes"] if note.startswith("Of fewer than 30 photographs intervals are too narrow: ")
    ]
    assert "eval/more (8)" in note


def test_a_set_too_small_for_the_memory_is_named(results: dict[str, Any]):
    assert [note for note in results["notes"] if "too few photographs" in note] == [
        "eval/drawn-captions: too few photographs for memory (6 or more)."
    ]


def test_a_set_of_which_nothing_can_be_asked_is_named_too(run: Path, tmp_path: Path):
    out = tmp_path / "memory.json"
    assert main([str(run), "--task", "memory", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert set(found["heldout"]["datasets"]["eval/drawn-captions"]) & set(ALL) == set()
    assert "eval/drawn-captions: too few photographs for memory (6 or more)." in found["notes"]


def test_captions_stand_beside_one_for_all_from_training(results: dict[str, Any]):
    found = results["heldout"]["datasets"]["eval/more"]["captioning"]
    assert (found["images"], found["references"]) == (8, 16)
    assert found["controls"]["constant_caption"]["fitted_on"] == "train"


def test_every_figure_is_a_png_and_on_the_page(run: Path):
    page = (run / "results.page/index.html").read_text()
    pictures = sorted((run / "results.page").glob("*.png"))
    assert {
        "eval-more-caption-0",
        "coarse-drawn-train-caption-5",
        "eval-more-memory-recall-other",
        "eval-more-vectors-map",
        "efficiency-latency",
        "attention-0",
    } <= {path.stem for path in pictures}
    assert min(Image.open(BytesIO(path.read_bytes())).width for path in pictures) > 200
    charts = [path for path in pictures if not re.search("attention-[0-9]|caption-[0-9]", path.stem)]
    assert page.count('<figure class="chart') == len(charts) > 15
    assert page.count('<article class="card">') == len(pictures) - len(charts)
    for section in ("Summary", "Results", "Figures", "Where heads look", "Captions, from the best to the worst"):
        assert f">{section}</h2>" in page


def test_a_picture_that_may_not_be_passed_on_is_on_the_page_alone(tmp_path: Path):
    samples = [sample(n, captions(n)) for n in (20, 21)]
    kept_back = [replace(samples[0], licence="CC BY-NC 4.0"), samples[1]]
    write_set(tmp_path / "data", "eval/some", kept_back)
    write_set(tmp_path / "data", "coarse/drawn-train", [sample(1, captions(1))])
    write_set(tmp_path / "data", "fine/drawn-train", [sample(1, captions(1))])
    run = write_run(run_config(tmp_path / "data", tmp_path / "runs"))
    assert main([str(run), "--task", "captioning", "--split", "heldout", "--no-java"]) == 0
    assert len(list((run / "captioning.page").glob("*.png"))) == 1
    page = (run / "captioning.page/index.html").read_text()
    assert "1 of these are no PNG: their licence does not let everybody pass the picture on." in page
    assert page.count('<article class="card">') == 2


def test_a_picture_that_heads_look_at_is_passed_on_by_its_licence_too(tmp_path: Path):
    samples = [sample(n, sentences(n)) for n in (20, 21, 22)]
    write_set(tmp_path / "data", "eval/some", [samples[0], replace(samples[1], licence="unknown"), samples[2]])
    write_set(tmp_path / "data", "fine/drawn-train", [sample(1, sentences(1))])
    write_set(tmp_path / "data", "coarse/drawn-train", [sample(1, captions(1))])
    run = write_run(run_config(tmp_path / "data", tmp_path / "runs"))
    assert main([str(run), "--task", "attention"]) == 0
    assert sorted((run / "attention.page").glob("attention-[0-9].png")) == [
        run / f"attention.page/attention-{number}.png" for number in (0, 2)
    ]
    page = (run / "attention.page/index.html").read_text()
    assert "1 of these are no PNG: their licence does not let everybody pass the picture on." in page
    assert "<h3>drawn-21 <small>eval/some · drawn · unknown</small></h3>" in page


def test_what_each_item_scored_has_the_figures_as_its_means(run: Path, results: dict[str, Any]):
    phrases = read_items(run / "results.page/eval-drawn-phrases-grounding.parquet")
    found = results["heldout"]["datasets"]["eval/drawn-phrases"]["grounding"]
    assert len(phrases.keys) == found["phrases"]
    assert phrases.means()["mean_iou"] == pytest.approx(found["mean_iou"])
    captions = read_items(run / "results.page/eval-more-captioning.parquet")
    assert captions.means()["cider_d"] == pytest.approx(
        results["heldout"]["datasets"]["eval/more"]["captioning"]["cider_d"]
    )


def test_another_evaluation_leaves_nothing_of_the_one_before(run: Path, tmp_path: Path):
    out = tmp_path / "found.json"
    assert main([str(run), "--task", "vectors", "--split", "heldout", "--out", str(out)]) == 0
    assert main([str(run), "--task", "grounding", "--split", "heldout", "--out", str(out)]) == 0
    assert sorted(path.name for path in (tmp_path / "found.page").iterdir()) == [
        "eval-drawn-phrases-grounding.parquet",
        "index.html",
    ]


def test_a_page_takes_no_other_folders_place(run: Path, tmp_path: Path):
    (tmp_path / "found").mkdir()
    (tmp_path / "found.page").mkdir()
    for kept in (tmp_path / "found/mine.txt", tmp_path / "found.page/mine.txt"):
        kept.write_text("mine")
    assert main([str(run), "--task", "efficiency", "--out", str(tmp_path / "found.json")]) == 0
    assert (tmp_path / "found/mine.txt").read_text() == (tmp_path / "found.page/mine.txt").read_text() == "mine"


def test_a_look_inside_leaves_the_main_results(run: Path, results: dict[str, Any]):
    assert main([str(run), "--task", "vectors", "efficiency"]) == 0
    assert json.loads((run / "results.json").read_text()) == results
    assert "efficiency" in json.loads((run / "vectors-efficiency.json").read_text())


def test_a_checkpoint_in_no_run_asks_for_a_place(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(run / "checkpoints/step-00000008", tmp_path / "models/mine")
    assert main([str(tmp_path / "models/mine")]) == 1
    assert "expected --out FILE for a checkpoint that is in no run" in capsys.readouterr().err


def test_a_narrower_question_puts_a_wider_answer_aside(run: Path, results: dict[str, Any], tmp_path: Path):
    out = tmp_path / "found.json"
    assert main([str(run), "--task", "efficiency", "grounding", "--split", "heldout", "--out", str(out)]) == 0
    before = json.loads(out.read_text())
    assert main([str(run), "--task", "grounding", "--split", "heldout", "--out", str(out)]) == 0
    assert json.loads((tmp_path / "found-earlier-1.json").read_text()) == before
    assert "efficiency" not in json.loads(out.read_text())
    out.write_text('{"torn')
    assert main([str(run), "--task", "grounding", "--split", "heldout", "--out", str(out)]) == 0
    assert (tmp_path / "found-earlier-2.json").read_text() == '{"torn'


def test_why_a_figure_is_missing_is_a_note(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no java
    out = tmp_path / "captions.json"
    assert main([str(run), "--task", "captioning", "--split", "heldout", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert "Not measured: METEOR and SPICE: expected a program java, found none." in found["notes"]
    assert "expected a program java" in (tmp_path / "captions.page/index.html").read_text()


def test_what_was_not_asked_for_is_no_note(results: dict[str, Any]):
    missing = results["heldout"]["datasets"]["eval/more"]["captioning"]["missing"]
    assert missing == {"meteor": "not asked for", "spice": "not asked for"}
    assert not [note for note in results["notes"] if "METEOR" in note]


def test_captions_have_intervals(results: dict[str, Any]):
    found = results["heldout"]["datasets"]["eval/more"]["captioning"]
    for name in ("bleu1", "cider_d"):
        low, high = found["interval"][name]
        assert low <= found[name] <= high


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "memory", "--compare", "RUN", "RUN"], "expected tasks to compare among"),
        (["RUN", "--rerank", "4"], "trains the matching head to re-rank by"),
        (["RUN", "--out", "results.txt"], "expected --out to end with .json"),
    ],
)
def test_what_cannot_be_asked_is_said(run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main([str(run) if word == "RUN" else word for word in words]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["RUN", "--compare", "RUN", "RUN"]])
def test_either_one_checkpoint_or_two(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(words)
    assert "expected a checkpoint, or two after --compare" in capsys.readouterr().err.replace("\n", " ").replace(
        "│", ""
    )
