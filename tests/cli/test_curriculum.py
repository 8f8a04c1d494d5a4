"""--phase both: a coarse run and a fine one after it, stopped and gone on with anywhere; --phase joint: both at once."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from safetensors.torch import load_file
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from bitgen.training import checkpoint
from bitgen.training.config import ConfigError
from cli.curriculum import parse
from cli.evaluate import Arguments, results_path
from cli.train import main
from pipeline.downloading.room import FREE_BYTES
from pipeline.pages.run import run_of
from tests import fakes, hubs
from tests.forks import forks, train
from tests.trainings import lines

TINY = """
--preset demo --mixture coarse/squares --data.image-px 56 --data.workers 1 --model.vision.random-width 32
--model.vision.random-layers 2 --model.vision.random-heads 2 --model.vision.lora-rank 2 --model.width 16
--model.compressor-width 24 --model.heads 2 --model.ffn 24 --model.text-layers 2 --model.fusion-layers 1
--model.decoder-layers 1 --model.grounding-layers 1 --model.memory-slots 4 --optim.batch 4
--optim.lora-warmup-epochs 2.5 --loss.queue 8 --loss.episode 4 --run.log-every 1 --run.checkpoint-every 4
--run.name pair --optim.epochs 10
"""
"""20 steps on 8 samples in each phase, the coarse one thawed at step 5."""


pytestmark = pytest.mark.usefixtures("own_switches")


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with three training datasets, one of them under another hold-out list, one that says that it has no phrase,
    and an evaluation dataset that says so."""
    root = tmp_path_factory.mktemp("data")
    fakes.write_shards(root, "coarse/squares")
    fakes.write_shards(root, "coarse/others", holdout="1" * 64, first=100)
    for name, role in (("coarse/plain", "train"), ("eval/plain", "eval")):
        path = fakes.write_shards(root, name, role=role) / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "phrases": 0}))
    return root


def _both(data: Path, runs: Path, *more: str) -> list[str]:
    return ["--phase", "both", *TINY.split(), "--data.root", str(data), "--run.runs", str(runs), *more]


@pytest.fixture(scope="module")
def whole(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two runs in a row that nothing interrupted."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(_both(squares, runs)) == 0
    return runs / "pair"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same, to break."""
    return Path(shutil.copytree(whole, tmp_path / "pair"))


def _forget(run: Path, *steps: int) -> None:
    """As if the run had been killed before these checkpoints; before all of them: as before its first step."""
    for step in steps:
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    if not checkpoint.list_checkpoints(run):
        shutil.rmtree(run / "checkpoints")


def _weights(run: Path) -> dict[str, Tensor]:
    return load_file(checkpoint.find(run, last=True) / "model.safetensors")


def _parts(one: Path, other: Path) -> list[str]:
    """What differs between the two runs of one pair and of another."""
    found = []
    for stage in ("coarse", "fine"):
        expected, weights = _weights(one / stage), _weights(other / stage)
        found += [f"{stage}: {name}" for name, tensor in weights.items() if not tensor.equal(expected[name])]
        found += [f"{stage}: figures"] * (lines(one / stage) != lines(other / stage))
    return found


def test_both_phases_are_two_runs_the_second_from_the_first() -> None:
    _, (coarse, fine) = parse(["--phase", "both", "--preset", "demo", "--model.width", "64"])
    assert [(config.phase, config.run.name, config.run.init) for config in (coarse, fine)] == [
        ("coarse", "both/coarse", ""),
        ("fine", "both/fine", "runs/both/coarse"),
    ]
    assert fine.model == coarse.model
    assert (fine.model.width, fine.loss.grounding, coarse.loss.grounding) == (64, 0.5, 0.0)


def test_a_flag_is_for_both_phases_or_for_one() -> None:
    flags = "--optim.lr 1 --fine.optim.epochs 2 --fine.mixture a b --fine.data.mixture.b 3 --optim.epochs 5 --mixture c"
    _, (coarse, fine) = parse(["--phase", "both", *flags.split(), "--coarse.optim.lr=2"])
    assert [(c.optim.lr, c.optim.epochs, c.data.mixture) for c in (coarse, fine)] == [
        (2.0, 5, {"c": 1.0}),
        (1.0, 2, {"a": 1.0, "b": 3.0}),
    ]


def test_the_pair_has_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    _, configs = parse(["--phase", "both", "--run.name", "x"])
    assert [config.run.name for config in configs] == ["x/coarse", "x/fine"]
    with pytest.raises(ConfigError, match=r"expected one run\.name for both phases, found .coarse. and .x."):
        parse(["--phase", "both", "--fine.run.name", "x"])


def test_the_pair_has_one_model() -> None:
    with pytest.raises(ConfigError, match="expected one model for both phases"):
        parse(["--phase", "both", "--fine.model.width", "64"])


@pytest.mark.parametrize("flag", ["--fine.optim.lrr", "--coarse.optim.lrr", "--optim.lrr"])
def test_an_unknown_flag_of_one_phase_is_refused(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert main(["--phase", "both", flag, "1"]) == 2
    assert "the nearest is --optim.lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [["--coarse.dry-run"], ["--fine.push", "me/x"], ["--fine.init=x"], ["--coarse.trim-vocabulary"], ["--fine.public"]],
)
def test_an_option_that_no_phase_has_for_itself_is_refused(flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"expected no {flags[0].partition('=')[0]} with --phase both"):
        parse(["--phase", "both", *flags])


def test_both_phases_are_on_one_device() -> None:
    with pytest.raises(ConfigError, match=r"expected one run\.device for both phases, found 'auto' and 'cpu'"):
        parse(["--phase", "both", "--fine.run.device", "cpu"])


def test_public_is_a_word_about_a_push() -> None:
    with pytest.raises(ConfigError, match="expected --push OWNER/NAME with --public, found none"):
        parse(["--public"])


def test_the_fine_half_of_a_pair_waits_for_the_coarse_one(copy: Path) -> None:
    shutil.rmtree(copy / "fine/checkpoints")
    _, stages = parse(["--resume", str(copy / "fine")])
    assert [config.phase for config in stages] == ["coarse", "fine"]


def test_a_dry_run_shows_both_phases(capsys: pytest.CaptureFixture[str], squares: Path, tmp_path: Path) -> None:
    assert main(_both(squares, tmp_path, "--dry-run", "--fine.optim.epochs", "3")) == 0
    found = capsys.readouterr().out
    assert found.count("vision tower (DINOv2)") == 2
    assert ["epochs 10 x 8" in found, "epochs 3 x 8" in found] == [True, True]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--fine.mixture coarse/nowhere", "found no dataset.json"),
        ("--fine.mixture coarse/others", "expected shards of both phases built under one hold-out list, found"),
        ("--fine.data.validation eval/nowhere --fine.run.validate-every 1", "to validate on, found none"),
        ("--fine.mixture coarse/plain", "expected phrases with boxes for the fine phase, found none in coarse/plain"),
        (
            "--fine.data.validation eval/plain --fine.run.validate-every 1",
            "expected phrases with boxes to validate the fine phase on, found none in eval/plain",
        ),
    ],
)
def test_what_the_fine_phase_lacks_is_said_before_the_coarse_one_begins(
    capsys: pytest.CaptureFixture[str], squares: Path, tmp_path: Path, more: str, message: str
) -> None:
    assert main(_both(squares, tmp_path, *more.split())) in (1, 2)
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_side_that_the_tower_cannot_see_in_the_fine_phase_is_refused_before_the_coarse_one_begins(
    capsys: pytest.CaptureFixture[str], squares: Path, tmp_path: Path
) -> None:
    """Of a stock tower, whose patch its files alone tell."""
    shape = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    Dinov2Model(shape).save_pretrained(tmp_path / "tower")
    stock = ["--model.vision.weights", "stock", "--model.vision.model", str(tmp_path / "tower")]
    assert main(_both(squares, tmp_path / "runs", *stock, "--fine.data.image-px", "57")) == 2
    expected = "expected data.image_px to be a multiple of the vision tower's patch, 14, found 57"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_room_for_the_features_of_both_phases_is_looked_for_before_the_coarse_one_begins(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, squares: Path, tmp_path: Path
) -> None:
    """31 KB each: the coarse phase's alone would have found room."""
    usage = shutil.disk_usage(squares)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=FREE_BYTES + 40_000))
    frozen = "--model.vision.mode frozen --cache-features --fine.data.features fp16"
    assert main(_both(squares, tmp_path, *frozen.split())) == 1
    assert "GB free for features, found 0.27 GB" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert not (squares / "features").exists()
    assert main(_both(squares, tmp_path, *frozen.split(), "--fine.data.features", "int8", "--optim.epochs", "1")) == 0


def test_the_fine_run_starts_from_the_coarse_one(whole: Path) -> None:
    coarse, fine = (checkpoint.read_state(checkpoint.find(whole / stage)) for stage in ("coarse", "fine"))
    assert (coarse.step, fine.step, fine.config.run.init) == (20, 20, str(whole / "coarse"))
    before, after = _weights(whole / "coarse"), _weights(whole / "fine")
    assert after["match_head.weight"].equal(before["match_head.weight"])  # which the fine phase does not train
    assert not after["image_norm.weight"].equal(before["image_norm.weight"])


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        ((12, 16, 20), (12, 16, 20)),  # before the first checkpoint
        ((16, 20), (12, 16, 20)),  # in the coarse phase
        ((), (12, 16, 20)),  # between the two
    ],
)
def test_a_pair_goes_on_wherever_it_was_killed(
    whole: Path, copy: Path, coarse: tuple[int, ...], fine: tuple[int, ...]
) -> None:
    """Kept are the checkpoints of steps 12, 16 and 20."""
    _forget(copy / "coarse", *coarse)
    _forget(copy / "fine", *fine)
    assert main(["--resume", str(copy)]) == 0
    assert _parts(whole, copy) == []


def test_a_pair_keeps_the_tokens_of_its_corpora_from_its_very_start(squares: Path, tmp_path: Path) -> None:
    pair, arguments = tmp_path / "pair", _both(squares, tmp_path, "--trim-vocabulary", "--optim.epochs", "1")
    assert main(arguments) == 0
    coarse, fine = (_weights(pair / stage)["text.token.kept"] for stage in ("coarse", "fine"))
    assert 1 < len(fine) < 50
    assert fine.equal(coarse)
    expected = _weights(pair / "fine")
    for stage in ("coarse", "fine"):
        _forget(pair / stage, 2)
    assert main(["--resume", str(pair)]) == 0
    assert [name for name, tensor in _weights(pair / "fine").items() if not tensor.equal(expected[name])] == []


def test_a_single_run_that_was_killed_before_its_first_checkpoint_starts_over(whole: Path, copy: Path) -> None:
    _forget(copy / "coarse", 12, 16, 20)
    assert main(["--resume", str(copy / "coarse")]) == 0
    assert _parts(whole, copy) == []


def test_a_pair_that_is_done_stays_as_it_is(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(whole.parent)
    assert main(["--resume", "pair"]) == 0
    made = "fine phase: 20 steps: pair/fine/checkpoints/step-00000020"
    assert capsys.readouterr().out.splitlines() == [made, "next: bitgen-eval pair/fine"]


def test_a_kill_before_the_last_checkpoint_was_noted_is_made_good(copy: Path) -> None:
    notes = [copy / stage / "checkpoints" / name for stage in ("coarse", "fine") for name in ("best", "last")]
    noted = [note.read_text() for note in notes[2:]]
    notes[2].unlink()
    notes[3].write_text("step-00000004\n")
    assert main(["--resume", str(copy)]) == 0
    assert [note.read_text() for note in notes[2:]] == noted


def test_a_pair_means_its_later_run(whole: Path, copy: Path) -> None:
    assert checkpoint.find(whole) == whole / "fine/checkpoints/step-00000020"
    assert results_path(Arguments(str(whole))) == whole / "fine/results.json"
    assert run_of(whole) == whole / "fine"
    _forget(copy / "fine", 12, 16, 20)
    assert checkpoint.find(copy) == copy / "coarse/checkpoints/step-00000020"


def test_a_folder_of_all_runs_is_no_pair(whole: Path, tmp_path: Path) -> None:
    for stage in ("coarse", "fine"):
        shutil.copytree(whole / stage, tmp_path / stage)
        config = tmp_path / stage / "config.json"
        config.write_text(config.read_text().replace(f'"pair/{stage}"', f'"{stage}"'))
    with pytest.raises(checkpoint.CheckpointError, match=r"found no model\.safetensors"):
        checkpoint.find(tmp_path)


def _kill_at_its_first_checkpoint(run: Path, arguments: list[str]) -> None:
    process = forks().Process(target=train, args=(arguments,))
    process.start()
    while not checkpoint.list_checkpoints(run):
        process.join(0.005)
        assert process.exitcode is None
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_pair_killed_in_its_first_run_and_again_in_its_second_goes_on_bit_for_bit(
    squares: Path, whole: Path, tmp_path: Path
) -> None:
    pair = tmp_path / "pair"
    for stage, arguments in (("coarse", _both(squares, tmp_path)), ("fine", ["--resume", str(pair)])):
        _kill_at_its_first_checkpoint(pair / stage, arguments)
    assert main(["--resume", str(pair)]) == 0
    assert _parts(whole, pair) == []


def test_the_joint_phase_trains_all_losses_at_once_and_thaws(squares: Path, tmp_path: Path) -> None:
    arguments = ["--phase", "joint", *TINY.split(), "--optim.epochs", "4", "--data.root", str(squares)]
    assert main([*arguments, "--run.runs", str(tmp_path)]) == 0
    found = lines(tmp_path / "pair")
    assert found[0].keys() >= {"itc", "itm", "text", "memory_kl", "grounding", "region"}
    assert [line["step"] for line in found if "event" in line] == [5]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[hubs.Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    with hubs.serve("hf_of_this_test") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_a_run_is_pushed_when_it_has_ended(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, hub: hubs.Hub, copy: Path
) -> None:
    assert main(["--resume", str(copy), "--push", "me/tiny"]) == 0
    found = capsys.readouterr()
    assert found.out.splitlines()[-1] == f"pushed 4 files: {hub.url}/me/tiny"
    weights = checkpoint.find(copy / "fine") / "model.safetensors"
    assert hub.commits[0]["model.safetensors"] == weights.read_bytes()
    assert json.loads(hub.commits[0]["state.json"])["step"] == 20
    said = [*found, caplog.text, *(p.read_bytes().decode(errors="replace") for p in copy.rglob("*") if p.is_file())]
    assert [text for text in [*said, *map(str, hub.commits)] if hub.token in text] == []


def test_a_push_that_fails_leaves_the_run_whole_and_says_how_to_push_again(
    capsys: pytest.CaptureFixture[str], hub: hubs.Hub, whole: Path, copy: Path
) -> None:
    hub.refuses = "/commit/"
    assert main(["--resume", str(copy), "--push", "me/tiny", "--public"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-2].startswith(
        "bitgen-train: the run is whole but was not pushed: expected the hub to take 4 files, found "
    )
    assert said[-1] == f"next: bitgen-train --resume {os.path.relpath(copy / 'fine')} --push me/tiny --public"
    assert _parts(whole, copy) == []


def test_a_push_that_could_only_fail_is_refused_before_the_run(
    capsys: pytest.CaptureFixture[str], hub: hubs.Hub, squares: Path, tmp_path: Path
) -> None:
    assert main(_both(squares, tmp_path, "--push", "tiny")) == 2
    assert "expected a repository as owner/name, found 'tiny'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
