"""bitgen-train's flags: all of them, and what becomes of a wrong one."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from bitgen.training.phases import configure
from cli.curriculum import parse
from cli.flags import flags
from cli.train import main


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [
        ("--optim.lrr", "--optim.lr"),
        ("--optim.wd", "--optim.lr"),
        ("--presett", "--preset"),
        ("--resum", "--resume"),
        ("--phaze", "--phase"),
        ("--dryrun", "--dry-run"),
        ("--model.vision.lorarank", "--model.vision.lora-rank"),
    ],
)
@pytest.mark.parametrize("value", [["1"], []])
def test_an_unknown_flag_is_refused_with_the_nearest_name(
    capsys: pytest.CaptureFixture[str], flag: str, nearest: str, value: list[str]
) -> None:
    assert main([flag, *value]) == 2
    line = f"bitgen-train: expected a flag of bitgen-train, found {flag}; the nearest is {nearest} (see --help)\n"
    assert capsys.readouterr() == ("", line)


def test_the_weight_of_an_unknown_dataset_is_refused_with_the_nearest_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--data.mixture.coarse/coco-trian", "1"]) == 2
    line = (
        "bitgen-train: expected a flag of bitgen-train, found --data.mixture.coarse/coco-trian; "
        "the nearest is --data.mixture.coarse/coco-train (see --help); what the phase does not mix is named by --mixture\n"
    )
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    "arguments",
    [
        "--optim.lr fast",
        "--data.mixture.coarse/coco-train much",
        "--optim.epochs",
        "--run.device tpu",
        "--phase middle",
        "surplus",
        "--optim.epochs 2.5",
    ],
)
def test_a_wrong_value_is_wrong_use(capsys: pytest.CaptureFixture[str], arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--optim.lr -1", "expected optim.lr to be within (0, inf), found -1.0"),
        ("--run.seed -1", "expected run.seed to be within [0, 2147483648), found -1"),
        ("--run.log-every 0", "expected run.log_every to be within [1, inf), found 0"),
        ("--model.heads 0", "expected model.heads to be within [1, inf), found 0"),
        ("--run.name ../x", "expected run.name to be a plain folder name, found '../x'"),
        ("--data.mixture.coarse/coco-train -1", "expected data.mixture to be finite weights of 0 or more"),
        ("--data.mixture.coarse/coco-train nan", "expected data.mixture to be finite weights of 0 or more"),
        ("--data.size-power 1.5", "expected data.size_power to be within [0, 1], found 1.5"),
    ],
)
def test_a_value_out_of_its_range_is_wrong_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["coarse/vg-train", "coarse/my_own-train", "fine/refcoco+-train", "coco"])
def test_any_dataset_is_weighed_by_its_name(name: str) -> None:
    _, (config,) = parse(["--mixture", "coarse/other", name, f"--data.mixture.{name}", "2.5"])
    assert config.data.mixture == {"coarse/other": 1.0, name: 2.5}


def test_the_phase_s_own_datasets_are_weighed_by_their_names() -> None:
    _, (config,) = parse(
        ["--phase", "fine", "--data.mixture.coarse/coco-train", "0", "--data.mixture.fine/mixed-train=2"]
    )
    weights = [config.data.mixture[name] for name in ("coarse/coco-train", "fine/mixed-train", "fine/refcoco-train")]
    assert weights == [0.0, 2.0, 1.0]


def test_a_dry_run_prints_the_exact_table_without_weights_or_shards(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["--phase", "coarse", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:48].strip(): [int(n.replace(",", "")) for n in line[48:].split()] for line in lines[1:12]}
    assert rows["vision tower (DINOv2)"] == [86_580_480, 589_824, 0]
    assert rows["compressor"] == [0, 0, 344_832]
    assert rows["token embedding (tied with the decoder's head)"] == [0, 0, 6_432_896]
    assert rows["sum"] == [sum(row[i] for name, row in rows.items() if name != "sum") for i in range(3)]
    assert "data mixture" in lines
    assert list(tmp_path.iterdir()) == []


FLAGS = """
--phase
--data.root
--data.cache
--data.cache-gb
--data.verify-shards --data.no-verify-shards
--data.mixture
--data.size-power
--data.validation
--data.samples-per-epoch
--data.image-px
--data.crop-scale-min
--data.texts-per-image
--data.max-tokens
--data.features
--data.workers
--data.allow-other-holdout --data.no-allow-other-holdout
--model.vision.model
--model.vision.weights
--model.vision.mode
--model.vision.lora-rank
--model.vision.lora-alpha
--model.vision.lora-layers
--model.vision.feature-layers
--model.vision.random-width
--model.vision.random-layers
--model.vision.random-heads
--model.vision.random-patch-px
--model.vocabulary
--model.width
--model.compressor-width
--model.heads
--model.ffn
--model.text-layers
--model.fusion-layers
--model.fusion
--model.text-pooling
--model.decoder-layers
--model.grounding-layers
--model.memory-slots --model.memory-noise --model.memory-inverse --model.memory-newton-steps
--model.temperature
--model.ternary --model.no-ternary
--optim.batch
--optim.accumulation
--optim.epochs
--optim.lr
--optim.ternary-lr-scale
--optim.lora-lr-scale
--optim.gate-lr-scale
--optim.weight-decay
--optim.beta1
--optim.beta2
--optim.warmup-steps
--optim.lr-final
--optim.clip
--optim.lora-warmup-epochs
--optim.skip-nonfinite
--loss.itc
--loss.itm
--loss.text
--loss.grounding
--loss.region
--loss.words
--loss.memory-kl
--loss.itm-negatives
--loss.queue
--loss.label-smoothing
--loss.episode
--loss.episode-rows
--loss.episode-share
--run.name
--run.runs
--run.init
--run.seed
--run.device
--run.precision
--run.compile --run.no-compile
--run.graphs --run.no-graphs
--run.recompute --run.no-recompute
--run.log-every
--run.checkpoint-every
--run.keep
--run.validate-every
--run.patience
--run.show-every
--run.wandb --run.no-wandb
"""
"""Each is a decision: a new field changes this list."""


def test_every_field_is_a_flag() -> None:
    config = configure("coarse", "base")
    plain = replace(config, data=replace(config.data, mixture={}))
    assert flags(plain) == FLAGS.split()


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = set(re.findall(r"--[a-z][\w./+-]*", capsys.readouterr().out))
    options = {"--preset", "--mixture", "--init", "--resume", "--dry-run", "--help", "--data.mixture.NAME"}
    options |= {"--trim-vocabulary", "--fine.optim.lr", "--push", "--public", "--cache-features"}
    assert shown == options | set(flags(configure("coarse", "base")))
