"""bitgen-features from its command line, and runs of bitgen-train that read what it made."""

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Dinov2Config, Dinov2Model

from bitgen.model.vision import VisionTower
from bitgen.training import checkpoint
from cli import features as command
from cli.batches import batches
from cli.preparing import open_stream
from cli.train import main as train
from pipeline import features
from pipeline.cached import open_cached
from pipeline.roots import open_root
from tests import fakes
from tests.servers import Server
from tests.stores import serve_folder
from tests.trainings import lines
from tests.worlds_of_features import contents, write_images

CPU = torch.device("cpu")
NAME = "coarse/noise"
TINY = f"""
--preset demo --mixture {NAME} --data.image-px 56 --data.workers 2 --model.width 16 --model.compressor-width 24
--model.heads 2 --model.ffn 24 --model.text-layers 2 --model.fusion-layers 1 --model.decoder-layers 1
--model.grounding-layers 1 --model.memory-slots 4 --model.vision.random-width 32 --model.vision.random-layers 2
--model.vision.random-heads 2 --model.vision.lora-rank 2 --optim.batch 4 --optim.epochs 2 --optim.lora-warmup-epochs 1
--loss.queue 8 --loss.episode 4 --run.log-every 1 --run.checkpoint-every 1 --run.keep 20 --run.device cpu
"""
"""8 steps on 16 samples, thawed at step 4."""


pytestmark = pytest.mark.usefixtures("own_switches")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_images(root, NAME, (10, 6), {3})
    return root


def arguments(data: Path, runs: Path, *more: str) -> list[str]:
    return [*TINY.split(), "--data.root", str(data), "--run.runs", str(runs), "--run.name", "noise", *more]


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that nothing interrupted, from images and from features as long as those will do."""
    folder = tmp_path_factory.mktemp("runs")
    assert train(arguments(data, folder / "images")) == 0
    assert train(arguments(data, folder / "cached", "--cache-features")) == 0
    return folder


def test_a_run_on_features_has_the_losses_of_one_on_images(runs: Path) -> None:
    images, stored = (
        [line for line in lines(runs / name / "noise") if "event" not in line] for name in ("images", "cached")
    )
    for one, other in zip(images[:4], stored[:4], strict=True):
        for name in ("itc", "text", "loss"):
            assert other[name] == pytest.approx(one[name], rel=0.01)
    assert [line["loss"] for line in stored] != [line["loss"] for line in images]


@pytest.mark.parametrize(("step", "stored"), [(0, 4), (3, 1), (4, 0)])
def test_the_position_decides_between_features_and_images(runs: Path, step: int, stored: int) -> None:
    config = checkpoint.read_state(checkpoint.find(runs / "cached/noise")).config
    root = open_root(config.data)
    stream = open_stream(config, root)
    objective = fakes.objective(config)
    state = fakes.state(config, objective, 16)
    state = replace(state, step=step, position=4 * step)
    cached = open_cached(config, objective.model.vision, state, stream, root, CPU)
    found = list(islice(batches(stream, config, 4 * step, CPU, cached), 6))
    plain = list(islice(batches(stream, config, 4 * step, CPU), 6))
    assert [batch.features is not None for batch in found] == [True] * stored + [False] * (6 - stored)
    assert [batch.keys for batch in found] == [batch.keys for batch in plain]
    assert all(torch.equal(one.images, other.images) for one, other in zip(found[stored:], plain[stored:], strict=True))


def test_a_position_that_starts_anew_moves_the_thaw_along(runs: Path) -> None:
    config = checkpoint.read_state(checkpoint.find(runs / "cached/noise")).config
    root = open_root(config.data)
    stream = open_stream(config, root)
    objective = fakes.objective(config)
    state = fakes.state(config, objective, 16)
    cached = open_cached(config, objective.model.vision, replace(state, step=3), stream, root, CPU)
    assert cached is not None
    assert cached.stop == 4  # one step of four images is left before the thaw


@pytest.mark.parametrize("stop", [2, 5])
def test_a_cached_run_goes_on_bit_for_bit_from_either_side_of_the_thaw(runs: Path, tmp_path: Path, stop: int) -> None:
    run = tmp_path / "noise"
    shutil.copytree(runs / "cached/noise", run)
    for path in checkpoint.list_checkpoints(run)[stop:]:
        shutil.rmtree(path)
    assert checkpoint.read_state(checkpoint.find(run, last=True)).step == stop
    assert train(["--resume", str(run)]) == 0
    wanted = load_file(checkpoint.find(runs / "cached/noise", last=True) / "model.safetensors")
    found = load_file(checkpoint.find(run, last=True) / "model.safetensors")
    assert [name for name, tensor in found.items() if not tensor.equal(wanted[name])] == []
    assert lines(run) == lines(runs / "cached/noise")


def test_a_tower_that_stays_frozen_is_never_asked_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = arguments(data, tmp_path, "--cache-features", "--model.vision.mode", "frozen", "--data.features", "fp16")
    frozen += ["--optim.epochs", "1"]
    assert train([*frozen, "--run.name", "first"]) == 0
    assert checkpoint.read_state(checkpoint.find(tmp_path / "first")).config.data.features == "fp16"
    monkeypatch.setattr(VisionTower, "forward", None)
    assert train([*frozen, "--run.name", "second"]) == 0
    assert lines(tmp_path / "first") == lines(tmp_path / "second")


def test_a_phase_that_trains_the_tower_from_the_start_says_that_there_is_nothing_to_store(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    short = ["--optim.lora-warmup-epochs", "0", "--optim.epochs", "1"]
    assert train(arguments(data, tmp_path, "--cache-features", *short)) == 0
    assert "no features: the vision tower trains from the first step" in caplog.messages


def test_features_of_shards_at_a_url_lie_beside_the_cache(
    server: Server, data: Path, runs: Path, tmp_path: Path
) -> None:
    url, cache = serve_folder(server, data), str(tmp_path / "cache")
    assert train([*arguments(data, tmp_path, "--cache-features"), "--data.root", url, "--data.cache", cache]) == 0
    assert lines(tmp_path / "noise") == lines(runs / "cached/noise")
    [of_url] = (tmp_path / "features").iterdir()
    [there] = of_url.iterdir()
    assert contents(there) == contents(data / "features" / there.name)


def test_resuming_takes_no_switch(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--resume", str(runs / "cached/noise"), "--cache-features"]) == 2
    assert "expected no other flag with --resume, found --cache-features" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 of 32 by 2 layers, as transformers saves one."""
    folder = tmp_path_factory.mktemp("tower")
    torch.manual_seed(7)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return folder


def _command(data: Path, tower: Path, *more: str) -> list[str]:
    return [str(tower), "--datasets", NAME, "--data", str(data), "--image-px", "56", "--device", "cpu", *more]


def test_the_command_says_what_it_made_and_training_finds_it(
    data: Path, tower: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set((data / "features").glob("*")) if (data / "features").exists() else set()
    assert command.main(_command(data, tower)) == 0
    made, following = capsys.readouterr().out.splitlines()
    [place] = set((data / "features").glob("*")) - before
    assert made == f"16 images, 1 of them unreadable, as int8: {place}/{NAME}"
    expected = f"--mixture {NAME} --model.vision.model {tower} --data.root {data} --data.image-px 56 --cache-features"
    assert following == f"next: bitgen-train {expected}"
    stamps = {path: path.stat().st_mtime_ns for path in place.rglob("*.tar")}
    stock = ["--model.vision.weights", "stock", *following.split()[2:], "--run.name", "stock"]
    assert train(arguments(data, tmp_path, *stock)) == 0
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*.tar")} == stamps
    assert set((data / "features").glob("*")) - before == {place}


def test_a_checkpoint_from_before_the_thaw_has_the_features_of_its_run(
    data: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(data / "features")
    folder = checkpoint.list_checkpoints(runs / "cached/noise")[2]
    assert command.main([str(folder), "--datasets", NAME, "--data", str(data), "--device", "cpu"]) == 0
    assert contents(data / "features") == before
    assert f"next: bitgen-train --mixture {NAME} --init {folder} " in capsys.readouterr().out


def test_a_checkpoint_from_after_the_thaw_has_others(data: Path, runs: Path) -> None:
    before = set((data / "features").iterdir())
    assert command.main([str(runs / "cached/noise"), "--datasets", NAME, "--data", str(data), "--device", "cpu"]) == 0
    assert len(set((data / "features").iterdir()) - before) == 1


def test_ctrl_c_ends_it_and_the_same_command_goes_on(
    data: Path, tower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data / "shards", tmp_path / "shards")
    real, calls = features.members, []

    def stops(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(features, "members", stops)
    assert command.main(_command(tmp_path, tower)) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "bitgen-features: stopped; the same command goes on"
    [first] = tmp_path.glob("features/*/coarse/noise/*.tar")
    stamp = first.stat().st_mtime_ns
    assert command.main(_command(tmp_path, tower)) == 0
    assert (len(calls), first.stat().st_mtime_ns) == (3, stamp)


def test_a_dry_run_needs_neither_weights_nor_shards(
    data: Path, tower: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--datasets", NAME, "coarse/absent", "--data", str(data), "--dry-run"]
    assert command.main(["facebook/dinov2-base", *asked]) == 0
    built, absent = capsys.readouterr().out.splitlines()
    assert built.startswith(f"features of {NAME}: 16 images x 197 KB = 0.00 GB: {data}")
    assert absent.startswith("features of coarse/absent: 197 KB an image; the dataset is not built yet: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--datasets", "coarse/absent"], "expected a finished dataset, found no dataset.json: "),
        (["--image-px", "57"], "expected --image-px to be a multiple of the patch, 14, found 57"),
        (["--feature-layers", "3"], "expected feature_layers from 1 to the tower's 2, came 3"),
    ],
)
def test_what_cannot_be_made_is_told(
    data: Path, tower: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    assert command.main(_command(data, tower, *change)) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"bitgen-features: {message}")


def test_a_tower_that_is_not_there_is_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(_command(data, tmp_path / "nothing")) == 1
    assert "bitgen-features: expected the DINOv2 weights of" in capsys.readouterr().err


def test_a_wrong_flag_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["facebook/dinov2-base", "--dataset", NAME])
    assert ended.value.code == 2
    assert "found --dataset; the nearest is --datasets" in capsys.readouterr().err
