"""bitgen-train from its command line: what it refuses, what it prints, and a run that survives a kill."""

import json
import os
import shutil
import signal
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgen.training import checkpoint
from cli.curriculum import parse
from cli.preparing import open_stream
from cli.train import listen_for_stop, main
from pipeline.holdout import BlockList, keep_list
from pipeline.roots import open_root
from tests import fakes
from tests.servers import Server
from tests.stores import serve_folder, wait_until
from tests.trainings import lines

TINY = """
--preset demo --mixture coarse/squares --data.image-px 56 --data.workers 2 --model.vision.random-width 32
--model.vision.random-layers 2 --model.vision.random-heads 2 --model.vision.lora-rank 2 --model.width 16
--model.compressor-width 24 --model.heads 2 --model.ffn 24 --model.text-layers 2 --model.fusion-layers 1
--model.decoder-layers 1 --model.grounding-layers 1 --model.memory-slots 4 --optim.batch 4 --optim.epochs 30
--optim.lora-warmup-epochs 2.5 --loss.queue 8 --loss.episode 4 --run.log-every 1 --run.checkpoint-every 4
"""
"""60 steps on 8 samples, thawed at step 5."""


pytestmark = pytest.mark.usefixtures("own_switches")


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a training and an evaluation dataset."""
    root = tmp_path_factory.mktemp("data")
    fakes.write_shards(root, "coarse/squares")
    fakes.write_shards(root, "coarse/more", 2, first=50)
    fakes.write_shards(root, "coarse/none", 0)
    fakes.write_shards(root, "coarse/others", holdout="1" * 64, first=100)
    fakes.write_shards(root, "eval/squares", role="eval", first=200)
    return root


def _tiny(data: Path, runs: Path, *more: str) -> list[str]:
    return [*TINY.split(), "--data.root", str(data), "--run.runs", str(runs), "--run.name", "squares", *more]


@pytest.fixture(scope="module")
def whole(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs with one that nothing interrupted."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(_tiny(squares, runs, "--run.show-every", "30")) == 0
    return runs


def _refused(capsys: pytest.CaptureFixture[str], code: int, arguments: list[str]) -> str:
    """The one line that says why."""
    assert main(arguments) == code
    found = capsys.readouterr()
    assert found.out == ""
    lines = [line for line in found.err.splitlines() if line.startswith("bitgen-train: ")]
    assert len(lines) == 1
    assert found.err.splitlines()[-1] == lines[0]
    return lines[0].removeprefix("bitgen-train: ")


def test_a_missing_dataset_is_named(capsys: pytest.CaptureFixture[str], squares: Path, tmp_path: Path) -> None:
    line = _refused(capsys, 1, _tiny(squares, tmp_path, "--mixture", "coarse/nothing"))
    assert line == f"expected a finished dataset, found no dataset.json: {squares}/shards/coarse/nothing"


def test_a_dataset_without_samples_is_named(capsys: pytest.CaptureFixture[str], squares: Path, tmp_path: Path) -> None:
    line = _refused(capsys, 1, _tiny(squares, tmp_path, "--mixture", "coarse/squares", "coarse/none"))
    assert line == f"expected a dataset with samples, found none: {squares}/shards/coarse/none"


def test_evaluation_data_is_never_trained_on(capsys: pytest.CaptureFixture[str], squares: Path, tmp_path: Path) -> None:
    line = _refused(capsys, 2, _tiny(squares, tmp_path, "--mixture", "coarse/squares", "eval/squares"))
    assert line == "expected training data in data.mixture, found evaluation data: eval/squares"


def test_shards_of_two_hold_out_lists_are_not_mixed(
    capsys: pytest.CaptureFixture[str], squares: Path, tmp_path: Path
) -> None:
    line = _refused(capsys, 2, _tiny(squares, tmp_path, "--mixture", "coarse/squares", "coarse/others"))
    assert line.startswith("expected shards built under one hold-out list, found coarse/squares 000000000000, ")
    assert line.endswith("or pass --data.allow-other-holdout")


def test_a_checkpoint_of_another_hold_out_list_is_not_gone_on_from(
    capsys: pytest.CaptureFixture[str], squares: Path, whole: Path, tmp_path: Path
) -> None:
    arguments = ["--init", str(whole / "squares"), "--mixture", "coarse/others", "--data.root", str(squares)]
    line = _refused(capsys, 2, [*arguments, "--preset", "demo", "--run.runs", str(tmp_path)])
    assert line.startswith("expected shards that hold out what the checkpoint did (000000000000), found 111111111111; ")


def test_shards_that_do_not_say_what_they_hold_out_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = fakes.write_shards(tmp_path, "coarse/squares") / "dataset.json"
    path.write_text(json.dumps({n: v for n, v in json.loads(path.read_text()).items() if n != "holdout_sha256"}))
    line = _refused(capsys, 1, _tiny(tmp_path, tmp_path / "runs"))
    assert line == f"expected role and holdout_sha256 in dataset.json, found no holdout_sha256: {path.parent}"


def test_an_existing_run_is_not_written_over(capsys: pytest.CaptureFixture[str], squares: Path, whole: Path) -> None:
    line = _refused(capsys, 2, _tiny(squares, whole))
    assert line == (f"expected a new run, found checkpoints: {whole}/squares; --resume it, or give --run.name another")


@pytest.mark.parametrize("flag", ["--init", "--resume"])
def test_a_place_without_a_checkpoint_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, flag: str) -> None:
    line = _refused(capsys, 1, [flag, str(tmp_path)])
    assert line == (
        f"expected a run folder, a checkpoint folder or hf://owner/name, found no model.safetensors: {tmp_path}"
    )


def test_a_damaged_checkpoint_is_named(
    capsys: pytest.CaptureFixture[str], squares: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint.find(whole / "squares"), tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"half")
    line = _refused(capsys, 1, ["--init", f"{tmp_path}/broken", *_tiny(squares, tmp_path)])
    assert line.startswith("expected a readable safetensors file, found ")
    assert str(tmp_path / "broken") in line


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("--model.width 32", "--model.width 32 (it was built with 16)"),
        ("--model.text-layers 3", "--model.text-layers 3 (it was built with 2)"),
        (
            "--model.vision.lora-rank 4 --model.ffn 32",
            "--model.vision.lora-rank 4 (it was built with 2), --model.ffn 32",
        ),
    ],
)
def test_flags_for_another_model_than_the_checkpoint_s_are_named(
    capsys: pytest.CaptureFixture[str], squares: Path, whole: Path, tmp_path: Path, flags: str, found: str
) -> None:
    line = _refused(capsys, 2, ["--init", str(whole / "squares"), *_tiny(squares, tmp_path, *flags.split())])
    assert line.startswith(f"expected the model of the checkpoint, found {found}")
    assert line.endswith("--init takes the model over, so leave these flags out, or start without --init")


def test_stock_weights_that_are_not_there_are_named(
    capsys: pytest.CaptureFixture[str], squares: Path, tmp_path: Path
) -> None:
    arguments = ["--mixture", "coarse/squares", "--data.root", str(squares), "--run.runs", str(tmp_path / "runs")]
    line = _refused(capsys, 1, [*arguments, "--model.vision.model", str(tmp_path / "dinov2")])
    assert "expected the DINOv2 weights of" in line
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_that_cannot_be_made_is_named(
    capsys: pytest.CaptureFixture[str], squares: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs").write_text("")
    assert str(tmp_path / "runs") in _refused(capsys, 1, _tiny(squares, tmp_path / "runs"))


@pytest.mark.parametrize("more", ["--phase fine", "--preset demo", "--mixture a", "--init x", "--optim.lr 1"])
def test_resuming_takes_no_other_flag(capsys: pytest.CaptureFixture[str], whole: Path, more: str) -> None:
    line = _refused(capsys, 2, ["--resume", str(whole / "squares"), *more.split()])
    assert line.startswith(f"expected no other flag with --resume, found {more.split()[0]}")


def test_a_run_is_not_resumed_from_an_earlier_checkpoint(capsys: pytest.CaptureFixture[str], whole: Path) -> None:
    earlier = str(checkpoint.list_checkpoints(whole / "squares")[0])
    line = _refused(capsys, 2, ["--resume", earlier])
    assert line == (f"expected a run's folder or its last checkpoint, found {earlier}; start from any other by --init")


@pytest.mark.parametrize("inside", [".", "checkpoints/step-00000060", "../squares"])
def test_a_run_is_resumed_from_wherever_it_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, whole: Path, inside: str
) -> None:
    monkeypatch.chdir(whole / "squares")
    assert main(["--resume", inside]) == 0
    assert capsys.readouterr().out.startswith("coarse phase: 60 steps: ")


def test_a_run_says_what_it_made_and_what_to_run_next(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    monkeypatch.chdir(whole)
    assert main(["--resume", "squares"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "coarse phase: 60 steps: squares/checkpoints/step-00000060",
        "next: bitgen-train --phase fine --init squares",
    ]


def test_a_run_leaves_its_configuration_figures_and_checkpoints(whole: Path) -> None:
    assert sorted(path.name for path in (whole / "squares").iterdir()) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "shown",
    ]
    lines = [json.loads(line) for line in (whole / "squares" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "event" not in line] == list(range(1, 61))
    assert [line["step"] for line in lines if "event" in line] == [5]


def test_a_run_has_the_list_of_what_its_data_hold_out(tmp_path: Path) -> None:
    listed = keep_list(BlockList(frozenset({"coco:200", "flickr:1"})), tmp_path / "data/shards")
    for name, role in (("coarse/squares", "train"), ("eval/squares", "eval")):
        fakes.write_shards(tmp_path / "data", name, role=role, holdout=listed.sha256, first=200 * (role == "eval"))
    few = ("--optim.epochs", "1", "--optim.lora-warmup-epochs", "0")
    assert main(_tiny(tmp_path / "data", tmp_path / "runs", *few)) == 0
    assert (tmp_path / "runs/squares/holdout.txt").read_text() == "coco:200\nflickr:1\n"


def test_a_run_shows_its_samples_every_so_many_steps(whole: Path) -> None:
    pages = {path.name: path.read_text() for path in (whole / "squares" / "shown").iterdir()}
    assert sorted(pages) == ["step-00000030.html", "step-00000060.html"]
    assert all("8 images of coarse/squares" in page for page in pages.values())
    assert len(set(pages.values())) == 2


def test_the_fine_phase_takes_over_the_shape_and_the_weights(
    capsys: pytest.CaptureFixture[str], squares: Path, whole: Path, tmp_path: Path
) -> None:
    arguments = f"--phase fine --preset demo --init {whole}/squares --mixture coarse/squares --data.root {squares}"
    small = "--data.image-px 56 --optim.batch 4 --optim.epochs 1 --optim.lr 1e-30 --optim.weight-decay 0"
    assert main([*arguments.split(), *small.split(), "--run.runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: bitgen-eval {tmp_path}/fine"
    before, after = _weights(whole / "squares"), _weights(tmp_path / "fine")
    names = [name for name in before if "temperature" not in name]
    assert [name for name in names if not torch.allclose(after[name], before[name], rtol=0, atol=1e-6)] == []


def _stopped(whole: Path, runs: Path, was: str, now: str) -> Path:
    """The run as it was 4 steps before its end, its configuration changed from `was` to `now`."""
    shutil.copytree(whole / "squares", runs / "squares")
    shutil.rmtree(runs / "squares" / "checkpoints" / "step-00000060")
    state = checkpoint.find(runs / "squares", last=True) / "state.json"
    state.write_text(state.read_text().replace(was, now))
    return runs / "squares"


def test_changed_shards_start_a_new_order(
    caplog: pytest.LogCaptureFixture, squares: Path, whole: Path, tmp_path: Path
) -> None:
    fakes.write_shards(tmp_path, "coarse/squares", 12)
    run = _stopped(whole, tmp_path, str(squares), str(tmp_path))
    assert main(["--resume", str(run)]) == 0
    assert "a new order of samples starts here" in caplog.text
    assert checkpoint.read_state(checkpoint.find(run)).position == 4 * 4


def test_a_changed_mixture_starts_a_new_order(caplog: pytest.LogCaptureFixture, whole: Path, tmp_path: Path) -> None:
    run = _stopped(whole, tmp_path, '"coarse/squares": 1.0', '"coarse/squares": 1.0, "coarse/more": 2.0')
    assert main(["--resume", str(run)]) == 0
    assert (
        "mixture or shards are not those that the run started with: a new order of samples starts here" in caplog.text
    )
    assert checkpoint.read_state(checkpoint.find(run)).position == 4 * 4


def test_the_same_mixture_goes_on_in_its_order(caplog: pytest.LogCaptureFixture, whole: Path, tmp_path: Path) -> None:
    run = _stopped(whole, tmp_path, '"coarse/squares": 1.0', '"coarse/squares": 2.0')  # alone, so still all draws
    assert main(["--resume", str(run)]) == 0
    assert "a new order" not in caplog.text
    assert checkpoint.read_state(checkpoint.find(run)).position == 60 * 4


def _weights(run: Path) -> dict[str, Tensor]:
    return load_file(checkpoint.find(run, last=True) / "model.safetensors")


def _terminate_when_there_is_a_checkpoint(run: Path) -> None:
    wait_until(lambda: bool(checkpoint.list_checkpoints(run)))
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_sigterm_stopped_goes_on_bit_for_bit(
    capsys: pytest.CaptureFixture[str], squares: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "squares"
    listen_for_stop([])  # for a signal that comes too late, which would end this process
    cluster = Thread(target=_terminate_when_there_is_a_checkpoint, args=(run,))
    cluster.start()
    assert main(_tiny(squares, tmp_path)) == 0
    cluster.join()
    step = checkpoint.read_state(checkpoint.find(run, last=True)).step
    assert 4 <= step < 60
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"stopped at step {step} of 60: ")
    assert out[1].startswith("next: bitgen-train --resume ")
    assert main(["--resume", str(run)]) == 0
    expected = _weights(whole / "squares")
    assert [name for name, tensor in _weights(run).items() if not tensor.equal(expected[name])] == []
    assert lines(run) == lines(whole / "squares")


def test_a_run_from_a_url_learns_what_one_from_a_folder_does(
    server: Server, squares: Path, whole: Path, tmp_path: Path
) -> None:
    url = serve_folder(server, squares)
    assert main([*_tiny(squares, tmp_path), "--data.root", url, "--data.cache", str(tmp_path / "cache")]) == 0
    expected = _weights(whole / "squares")
    assert [name for name, tensor in _weights(tmp_path / "squares").items() if not tensor.equal(expected[name])] == []


def test_a_dry_run_counts_what_is_at_a_url_and_fetches_no_shard(
    capsys: pytest.CaptureFixture[str], server: Server, squares: Path, tmp_path: Path
) -> None:
    url = serve_folder(server, squares)
    cache = str(tmp_path / "cache")
    assert main([*_tiny(squares, tmp_path), "--data.root", url, "--data.cache", cache, "--dry-run"]) == 0
    assert "epochs 30 x 8 draws = 60 steps" in capsys.readouterr().out
    assert [path for path, _ in server.requests] == ["/shards/coarse/squares/dataset.json"]
    assert list(tmp_path.iterdir()) == []


def test_a_first_ctrl_c_stops_after_the_step_and_a_second_one_at_once() -> None:
    should_stop = listen_for_stop([])
    assert not should_stop()
    signal.raise_signal(signal.SIGINT)
    assert should_stop()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_does_not_end_a_run_that_is_about_to_save() -> None:
    asked: list[int] = []
    should_stop = listen_for_stop(asked)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert (asked, should_stop()) == ([signal.SIGTERM], True)


def test_what_asked_one_run_to_stop_stops_the_next_one_too() -> None:
    assert listen_for_stop([signal.SIGTERM])()


def test_a_dry_run_of_built_shards_gives_the_steps(
    capsys: pytest.CaptureFixture[str], squares: Path, tmp_path: Path
) -> None:
    arguments = _tiny(squares, tmp_path, "--mixture", "coarse/squares", "coarse/others")
    assert main([*arguments, "--data.mixture.coarse/others", "0", "--dry-run"]) == 0
    found = capsys.readouterr().out
    assert "epochs 30 x 8 draws = 60 steps of 4 images (4 x 1 micro-steps)" in found  # 0 leaves a dataset out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_gives_the_shares_of_the_stream(
    capsys: pytest.CaptureFixture[str], squares: Path, tmp_path: Path
) -> None:
    arguments = _tiny(squares, tmp_path, "--mixture", "coarse/squares", "coarse/more", "coarse/absent")
    assert main([*arguments, "--data.size-power", "0.5", "--dry-run"]) == 0  # of 8 and 2 samples: 2 to 1
    shares = [line[-15:] for line in capsys.readouterr().out.splitlines() if line.startswith("  coarse/")]
    assert shares == [" 66.7% of draws", " 33.3% of draws", "  not built yet"]


def test_the_power_of_the_sizes_reaches_the_stream(squares: Path, tmp_path: Path) -> None:
    arguments = _tiny(squares, tmp_path, "--mixture", "coarse/squares", "coarse/more", "--data.size-power", "0")
    (config,) = parse(arguments)[1]
    stream = open_stream(config, open_root(config.data))
    assert stream.mixture.counts == {"coarse/more": 2048, "coarse/squares": 2048}


def test_a_dry_run_of_the_fine_phase_takes_over_the_shape(
    capsys: pytest.CaptureFixture[str], whole: Path, tmp_path: Path
) -> None:
    assert main(["--phase", "fine", "--preset", "demo", "--init", str(whole / "squares"), "--dry-run"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[4].split()[-3:] == ["0", "0", f"{50257 * 16:,}"]


def test_images_of_no_whole_number_of_patches_are_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data.image-px", "225", "--dry-run", "--run.runs", str(tmp_path)]) == 2
    assert (
        "expected data.image_px to be a multiple of the vision tower's patch, 14, found 225" in capsys.readouterr().err
    )
