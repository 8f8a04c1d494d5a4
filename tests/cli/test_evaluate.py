import json
from dataclasses import replace
from pathlib import Path

import pytest

from cli.evaluate import main
from pipeline.results import notes
from tests.runs import captions, run_config, sample, write_run, write_set, write_world


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(run_config(write_world(tmp_path / "data"), tmp_path / "runs"))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run after one whole evaluation, three images at a time."""
    folder = tmp_path_factory.mktemp("evaluated")
    run = write_run(run_config(write_world(folder / "data"), folder / "runs"))
    assert main([str(run), "--batch", "3"]) == 0
    return run


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def test_results_hold_both_tasks_of_both_splits(evaluated: Path):
    found = results(evaluated)
    assert (found["train"]["retrieval"]["images"], found["train"]["retrieval"]["texts"]) == (6, 12)
    assert (found["heldout"]["retrieval"]["images"], found["heldout"]["retrieval"]["texts"]) == (4, 8)
    assert found["train"]["grounding"]["phrases"] == 18
    assert found["heldout"]["grounding"]["phrases"] == 12


def test_every_control_stands_beside_grounding(evaluated: Path):
    controls = results(evaluated)["heldout"]["grounding"]["controls"]
    assert sorted(controls) == ["constant_box", "shuffled_text", "whole_image"]
    assert controls["constant_box"]["fitted_on"] == "train"
    assert controls["shuffled_text"]["phrases"] == 12


def test_results_name_the_checkpoint_and_no_place_on_this_machine(evaluated: Path):
    found = results(evaluated)
    assert (found["run"], found["checkpoint"], found["step"], found["phase"]) == ("tiny", "step-00000008", 8, "fine")
    assert str(evaluated.parent) not in (evaluated / "results.json").read_text()


def test_the_table_and_the_warning_of_size_go_to_standard_output(run: Path, capsys: pytest.CaptureFixture[str]):
    main([str(run)])
    said = capsys.readouterr().out
    assert "held out: eval/drawn-captions" in said
    assert "constant box, fitted on train" in said
    assert "trained on 6 images" in said
    assert f"bitgen-show {run}" in said


def test_a_batch_of_another_size_gives_the_same_figures(evaluated: Path, tmp_path: Path):
    out = tmp_path / "other.json"
    main([str(evaluated), "--batch", "1", "--out", str(out)])
    found, before = json.loads(out.read_text())["heldout"], results(evaluated)["heldout"]
    assert found["retrieval"] == before["retrieval"]
    for each in ("shuffled_text", "constant_box"):
        (one, other) = (part["grounding"]["controls"][each] for part in (found, before))
        assert (one["phrases"], one["mean_iou"]) == (other["phrases"], pytest.approx(other["mean_iou"], abs=1e-4))


def test_only_what_was_asked_for_is_evaluated(evaluated: Path, tmp_path: Path):
    out = tmp_path / "some.json"
    main([str(evaluated), "--task", "grounding", "--split", "heldout", "--out", str(out)])
    found = json.loads(out.read_text())
    assert "train" not in found
    assert list(found["heldout"]["datasets"]) == ["eval/drawn-phrases"]


def test_a_checkpoint_folder_writes_into_its_run(run: Path):
    assert main([str(run / "checkpoints/step-00000008"), "--task", "retrieval", "--split", "heldout"]) == 0
    assert (run / "results.json").is_file()


def test_training_sets_of_the_run_it_started_from_are_evaluated_too(tmp_path: Path):
    root = write_world(tmp_path / "data")
    write_set(root, "coarse/older-train", [sample(n, captions(n)) for n in (3, 4, 5, 6)])
    config = run_config(root, tmp_path / "runs", "first")
    older = replace(config, data=replace(config.data, mixture={"coarse/older-train": 1.0}))
    first = write_run(older)
    second = write_run(run_config(root, tmp_path / "runs", "second", init=str(first)))
    assert main([str(second), "--task", "retrieval"]) == 0
    found = results(second)
    assert sorted(found["train"]["datasets"]) == ["coarse/drawn-train", "coarse/older-train"]
    assert found["train_photographs"] == 7


def test_a_set_of_weight_0_was_not_trained_on(tmp_path: Path):
    root = write_world(tmp_path / "data")
    write_set(root, "coarse/unused-train", [sample(n, captions(n)) for n in (30, 31)])
    config = run_config(root, tmp_path / "runs", "some")
    mixture = {**config.data.mixture, "coarse/unused-train": 0.0}
    run = write_run(replace(config, data=replace(config.data, mixture=mixture)))
    assert main([str(run), "--task", "retrieval"]) == 0
    assert "coarse/unused-train" not in results(run)["train"]["datasets"]


def test_held_out_photographs_that_were_trained_on_are_counted_and_said(run: Path, tmp_path: Path):
    write_set(tmp_path / "data", "eval/leaked", [sample(n, captions(n)) for n in (5, 14)])
    main([str(run), "--task", "retrieval"])
    found = results(run)
    assert found["heldout"]["datasets"]["eval/leaked"]["seen_in_training"] == 1
    assert found["heldout"]["datasets"]["eval/drawn-captions"]["seen_in_training"] == 0
    assert "eval/leaked holds 1 photographs that were trained on." in found["notes"]


def test_a_photograph_that_stands_twice_is_counted_once(run: Path, tmp_path: Path):
    twice = [sample(5, captions(5)), replace(sample(5, captions(6)), key="drawn-again-5"), sample(14, captions(14))]
    write_set(tmp_path / "data", "eval/leaked", twice)
    main([str(run), "--task", "retrieval"])
    entry = results(run)["heldout"]["datasets"]["eval/leaked"]
    assert (entry["samples"], entry["seen_in_training"]) == (3, 1)


def test_phrases_beyond_the_token_limit_are_said_to_be_misses():
    datasets = {"eval/long": {"seen_in_training": 0, "grounding": {"truncated": 3}}}
    found = notes({"train_photographs": 0, "other_holdout": [], "train": {"datasets": datasets}}, [])
    assert found == ["eval/long: 3 phrases lie beyond the token limit; each counts as a miss."]


def test_a_set_under_another_holdout_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_set(tmp_path / "data", "eval/other", [sample(20, captions(20))], holdout_sha256="cd" * 32)
    assert main([str(run)]) == 1
    assert "in eval/other: their images may have been trained on" in capsys.readouterr().err
    assert not (run / "results.json").exists()


def test_a_set_under_another_holdout_is_evaluated_when_told_and_the_result_says_so(run: Path, tmp_path: Path):
    write_set(tmp_path / "data", "eval/other", [sample(20, captions(20))], holdout_sha256="cd" * 32)
    assert main([str(run), "--task", "retrieval", "--allow-other-holdout"]) == 0
    assert results(run)["other_holdout"] == ["eval/other"]


@pytest.mark.parametrize("asked", [["--split", "train"], ["--task", "grounding"]])
def test_a_set_that_is_not_asked_is_no_reason_to_refuse(run: Path, tmp_path: Path, asked: list[str]):
    write_set(tmp_path / "data", "eval/other", [sample(20, captions(20))], holdout_sha256="cd" * 32)
    assert main([str(run), *asked]) == 0
    assert results(run)["other_holdout"] == []


@pytest.mark.parametrize("words", [["runs/any", "--folder", "a", "--manifest", "b"], ["--compare", "runs/a", "runs/b"]])
def test_what_is_of_held_out_sets_alone_is_not_asked_of_others(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--split", "train"])
    assert stopped.value.code == 2
    assert "are about held-out sets" in capsys.readouterr().err


def test_a_training_set_that_is_not_here_is_named(run: Path, tmp_path: Path):
    (tmp_path / "data/shards/fine/drawn-train/dataset.json").unlink()
    assert main([str(run)]) == 0
    found = results(run)
    assert found["missing_training_sets"] == ["fine/drawn-train"]
    said = "Not here, so that nothing tells whether they show held-out photographs: fine/drawn-train."
    assert said in found["notes"]
    assert found["heldout"]["grounding"]["controls"]["constant_box"]["fitted_on"] == "this set"


def test_large_training_sets_are_sampled_evenly(evaluated: Path, tmp_path: Path):
    out = tmp_path / "some.json"
    main([str(evaluated), "--train-limit", "3", "--task", "retrieval", "--split", "train", "--out", str(out)])
    entry = json.loads(out.read_text())["train"]["datasets"]["coarse/drawn-train"]
    assert (entry["samples"], entry["evaluated"], entry["retrieval"]["images"]) == (6, 3, 3)


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path / "nothing")]) == 1
    assert "expected a run folder, a checkpoint folder or hf://owner/name" in capsys.readouterr().err


def test_a_data_folder_without_datasets_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(run), "--data", str(tmp_path / "empty")]) == 1
    assert "expected built datasets" in capsys.readouterr().err


def test_a_damaged_held_out_image_stops_the_evaluation_and_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    broken = b"\xff\xd8\xff\xe0 not a photograph"
    write_set(tmp_path / "data", "eval/broken", [sample(30, captions(30), image=broken)], images=[broken])
    assert main([str(run), "--task", "retrieval"]) == 1
    assert "drawn-30" in capsys.readouterr().err
    assert not (run / "results.json").exists()


def test_an_unknown_task_is_wrong_use():
    with pytest.raises(SystemExit) as stopped:
        main(["runs/any", "--task", "poetry"])
    assert stopped.value.code == 2


def test_a_model_from_a_hub_needs_a_place_for_its_results(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(["hf://owner/name"])
    assert stopped.value.code == 2
    assert "expected --out FILE" in capsys.readouterr().err


def test_results_are_not_put_in_the_place_of_a_folder(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "there").mkdir()
    assert main([str(run), "--out", str(tmp_path / "there")]) == 1
    assert "expected a file to replace or nothing" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--batch=0", "--train-limit=-1", "--seed=-1"])
def test_a_number_out_of_range_is_wrong_use(capsys: pytest.CaptureFixture[str], flag: str):
    with pytest.raises(SystemExit) as stopped:
        main(["runs/any", flag])
    assert stopped.value.code == 2
    assert "expected --" in capsys.readouterr().err


def test_a_stopped_evaluation_has_failed(run: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.evaluate.evaluate_checkpoint", stop)
    assert main([str(run)]) == 1
