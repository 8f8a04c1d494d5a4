"""bitgen-train --trim-vocabulary: from a first start to a second phase and a loaded model."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

import bitgen
from bitgen.tokens import shared_tokenizer
from bitgen.training import checkpoint
from cli.evaluate import main as evaluate
from cli.train import main
from tests import runs

TINY = """
--preset demo --data.image-px 56 --data.workers 1 --run.device cpu --optim.batch 4 --optim.epochs 2
--loss.episode 4 --run.checkpoint-every 1
"""
SHAPE = """
--model.vision.random-width 32 --model.vision.random-layers 2 --model.vision.random-heads 2 --model.vision.lora-rank 2
--model.width 16 --model.compressor-width 24 --model.heads 2 --model.ffn 24 --model.text-layers 2 --model.fusion-layers 1
--model.decoder-layers 1 --model.grounding-layers 1 --model.memory-slots 4
"""


pytestmark = pytest.mark.usefixtures("own_switches")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with training sets of both phases and held-out ones, whose texts have other numbers in them."""
    return runs.write_world(tmp_path_factory.mktemp("data"))


def _first(world: Path, folder: Path, *more: str) -> list[str]:
    mixture = ["--mixture", "coarse/drawn-train", "--data.root", str(world), "--run.runs", str(folder)]
    return [*TINY.split(), *SHAPE.split(), *mixture, *more]


def _second(world: Path, init: Path, folder: Path) -> list[str]:
    """The fine phase from a run."""
    mixture = ["--mixture", "fine/drawn-train", "--data.root", str(world), "--run.runs", str(folder)]
    return ["--phase", "fine", "--init", str(init), *TINY.split(), *mixture]


@pytest.fixture(scope="module")
def coarse(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tokens of its corpora."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(_first(world, folder, "--trim-vocabulary")) == 0
    return folder / "coarse"


@pytest.fixture(scope="module")
def fine(world: Path, coarse: Path) -> Path:
    """One that started from it."""
    assert main(_second(world, coarse, coarse.parent)) == 0
    return coarse.parent / "fine"


def _kept() -> list[int]:
    texts = [text.text for n in range(6) for text in (*runs.captions(n), *runs.sentences(n))]
    return sorted({token for text in texts for token in shared_tokenizer().encode(text).ids})


def _weights(run: Path) -> dict[str, Tensor]:
    return load_file(checkpoint.find(run, last=True) / checkpoint.MODEL)


def _refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_run_keeps_the_tokens_of_both_phases_training_sets(coarse: Path) -> None:
    weights, kept = _weights(coarse), _kept()
    assert weights["text.token.kept"].tolist() == kept
    assert weights["text.token.weight"].shape == (len(kept) + 1, 16)
    assert json.loads((coarse / "config.json").read_text())["model"]["vocabulary"] == len(kept)


def test_the_second_phase_keeps_them(fine: Path) -> None:
    assert _weights(fine)["text.token.kept"].tolist() == _kept()
    assert checkpoint.read_state(checkpoint.find(fine)).config.model.vocabulary == len(_kept())


def test_a_run_that_was_stopped_goes_on_bit_for_bit(coarse: Path, tmp_path: Path) -> None:
    run = tmp_path / "coarse"
    shutil.copytree(coarse, run)
    shutil.rmtree(checkpoint.find(run, last=True))
    assert main(["--resume", str(run)]) == 0
    expected = _weights(coarse)
    assert [name for name, tensor in _weights(run).items() if not tensor.equal(expected[name])] == []


def test_a_loaded_model_takes_any_word_and_writes_only_known_ones(fine: Path) -> None:
    model = bitgen.BitGen.from_pretrained(fine, device="cpu")
    found = model.similarity(runs.photo(1), ["a red thing", "a cat", "a dog"])
    assert found[1].equal(found[2])  # one token each, neither of which is kept
    assert abs(found[0] - found[1]) > 1e-6
    words = shared_tokenizer().encode(model.caption(runs.photo(1), max_tokens=8)).ids
    assert set(words) <= set(_kept())


def test_a_run_is_evaluated_on_texts_of_other_words(fine: Path, tmp_path: Path) -> None:
    assert evaluate([str(fine), "--out", str(tmp_path / "results.json")]) == 0
    heldout = json.loads((tmp_path / "results.json").read_text())["heldout"]
    assert heldout["datasets"].keys() == {"eval/drawn-captions", "eval/drawn-phrases"}


def _embedding_row(out: str) -> str:
    return next(line for line in out.splitlines() if line.startswith("token embedding")).split()[-1]


def test_dry_runs_count_the_rows_that_are_kept(
    capsys: pytest.CaptureFixture[str], world: Path, coarse: Path, tmp_path: Path
) -> None:
    expected = f"{(len(_kept()) + 1) * 16:,}"
    for arguments in (_first(world, tmp_path, "--trim-vocabulary"), _second(world, coarse, tmp_path)):
        assert main([*arguments, "--dry-run"]) == 0
        assert _embedding_row(capsys.readouterr().out) == expected


def test_a_dry_run_of_a_number_of_tokens_needs_no_shards(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*_first(tmp_path, tmp_path, "--model.vocabulary", "300"), "--dry-run"]) == 0
    assert _embedding_row(capsys.readouterr().out) == f"{301 * 16:,}"


def test_a_model_that_has_a_vocabulary_gets_no_other(
    capsys: pytest.CaptureFixture[str], world: Path, coarse: Path, tmp_path: Path
) -> None:
    line = _refused(capsys, [*_second(world, coarse, tmp_path), "--trim-vocabulary"])
    assert line == ("bitgen-train: expected no --trim-vocabulary with --init, whose model's vocabulary is taken over")
    line = _refused(capsys, ["--resume", str(coarse), "--trim-vocabulary"])
    assert line == "bitgen-train: expected no other flag with --resume, found --trim-vocabulary"


def test_a_number_of_tokens_does_not_say_which(capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path) -> None:
    line = _refused(capsys, _first(world, tmp_path, "--model.vocabulary", "300"))
    assert line == ("bitgen-train: expected --trim-vocabulary in place of --model.vocabulary 300: it says which tokens")
    line = _refused(capsys, _first(world, tmp_path, "--model.vocabulary", "300", "--trim-vocabulary"))
    assert line == ("bitgen-train: expected no --model.vocabulary with --trim-vocabulary, which counts it, found 300")
