"""bitgen-export: a checkpoint in, a folder out that a runtime without torch reads."""

import io
import shutil
from pathlib import Path

import pytest
from PIL import Image

from bitgen.deploy import cpu
from bitgen.deploy.packed import FILE, read
from bitgen.deploy.reference import runner
from bitgen.deploy.runtime import Runtime, sessions
from bitgen.tokens import EOT, VOCABULARY, shared_tokenizer
from bitgen.training.checkpoint import STATE
from cli.export import main, spaced, tokens_of
from tests import fakes
from tests.runs import HOLDOUT, photo, run_config, write_run, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run `runs/tiny`, and datasets below `data`."""
    folder = tmp_path_factory.mktemp("export")
    write_run(run_config(write_world(folder / "data"), folder / "runs"))
    return folder


def test_the_packed_file_goes_into_the_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(world / "runs/tiny")]) == 0
    facts = read(world / "runs/tiny/export").facts
    assert (facts.run, facts.step, facts.holdout_sha256, facts.image_px) == ("tiny", 8, HOLDOUT, fakes.SIDE)
    assert {path.name for path in (world / "runs/tiny/export").iterdir()} == {FILE, STATE}
    assert capsys.readouterr().out.splitlines()[-1].endswith("next, for bitgen-predict: --format onnx")


def test_graphs_lie_beside_the_packed_file(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(world / "runs/tiny"), "--format", "onnx", "--out", str(tmp_path / "model")]) == 0
    assert len(list((tmp_path / "model").glob("*.onnx"))) == 6
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith(f"next: bitgen-predict {tmp_path / 'model'} image.jpg --caption")
    )


def test_graphs_of_an_earlier_export_do_not_stay_beside_another_packed_file(world: Path, tmp_path: Path) -> None:
    asked = [str(world / "runs/tiny"), "--out", str(tmp_path)]
    assert main([*asked, "--format", "onnx"]) == 0
    assert main(asked) == 0
    assert {path.name for path in tmp_path.iterdir()} == {FILE, STATE}


def test_an_export_that_fails_leaves_the_one_before_it(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    asked = [str(world / "runs/tiny"), "--out", str(tmp_path / "model"), "--format", "onnx"]
    assert main(asked) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.jpg").write_bytes(b"no picture")
    assert main([*asked, "--calibrate", str(tmp_path / "pictures")]) == 1
    assert "left out: expected a JPEG, PNG or WebP picture, found none" in caplog.text
    assert capsys.readouterr().err.endswith(f"found none that can be read: {tmp_path / 'pictures'}\n")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_what_a_killed_export_left_is_no_part_of_the_next(world: Path, tmp_path: Path) -> None:
    (tmp_path / ".export.tmp").mkdir()
    (tmp_path / ".export.tmp/fusion.onnx").write_bytes(b"half")
    assert main([str(world / "runs/tiny"), "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {FILE, STATE}


def test_a_checkpoint_is_not_written_over(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(world / "runs/tiny", tmp_path / "run")
    (folder,) = (tmp_path / "run/checkpoints").iterdir()
    before = (folder / FILE).read_bytes()
    assert main([str(tmp_path / "run"), "--out", str(folder)]) == 1
    assert f"expected a folder without another model, found {FILE} of a checkpoint" in capsys.readouterr().err
    assert (folder / FILE).read_bytes() == before


def test_a_line_longer_than_any_text_of_the_model_counts_whole(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("snow " * 300 + "tram")
    assert set(shared_tokenizer().ids(" tram")) <= set(tokens_of(tmp_path / "words.txt"))


def test_a_corpus_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes("Café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"expected a text a line in UTF-8, found .*words\.txt"):
        tokens_of(tmp_path / "words.txt")


def test_a_vocabulary_is_trimmed_to_the_lines_of_a_file(world: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("the red thing\n\nsnow\n")
    arguments = ["--trim-vocab", str(tmp_path / "words.txt"), "--out", str(tmp_path)]
    assert main([str(world / "runs/tiny"), *arguments]) == 0
    kept = read(tmp_path).tensors["text.token.kept"].tolist()
    assert {*shared_tokenizer().ids("the red thing"), *shared_tokenizer().ids(" snow"), EOT} <= set(kept)
    assert len(kept) == 8  # "the", " the", " red", " thing", "snow" in two, " snow"; end-of-text
    assert read(tmp_path).facts.config.vocabulary == len(kept)


def test_a_vocabulary_is_trimmed_to_datasets(world: Path) -> None:
    one, all_of_them = tokens_of(world / "data/shards/coarse/drawn-train"), tokens_of(world / "data")
    assert EOT in one
    assert set(one) < set(all_of_them) < set(range(VOCABULARY))


@pytest.mark.parametrize("content", [None, "\n \n"])
def test_a_corpus_without_texts_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir() if content is None else corpus.write_text(content)
    arguments = ["--trim-vocab", str(corpus), "--out", str(tmp_path / "model")]
    assert main([str(world / "runs/tiny"), *arguments]) == 1
    assert "bitgen-export: expected a" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("kind", ["dataset", "pictures"])
def test_a_tower_is_calibrated_on_a_dataset_or_on_pictures(world: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.jpg").write_bytes(photo(1))
    place = world / "data/shards/coarse/drawn-train" if kind == "dataset" else tmp_path / "pictures"
    asked = [
        "--calibrate",
        str(place),
        "--calibration-images",
        "3",
        "--format",
        "onnx",
        "--out",
        str(tmp_path / "model"),
    ]
    assert main([str(world / "runs/tiny"), *asked]) == 0
    packed = read(tmp_path / "model")
    assert packed.facts.tower == "int8"
    vectors = [
        Runtime(packed, run).see(Image.open(io.BytesIO(photo(2))))
        for run in (runner(packed), sessions(packed.path.parent))
    ]
    a, b = (seen.states["embedding"][0] for seen in vectors)
    assert float(a @ b) > 0.999


def test_bits_are_those_of_this_machine_unless_asked_for(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bits, why = cpu.weight_bits()
    assert main([str(world / "runs/tiny"), "--out", str(tmp_path / "auto")]) == 0
    assert f"weights that multiply bytes get {bits} bits: {why}\n" in capsys.readouterr().err
    assert read(tmp_path / "auto").facts.weight_bits == bits
    for asked in (7, 8):
        out = tmp_path / str(asked)
        assert main([str(world / "runs/tiny"), "--weight-bits", str(asked), "--out", str(out)]) == 0
        assert f"get {asked} bits: as asked for\n" in capsys.readouterr().err
        packed = read(out)
        assert (packed.facts.weight_bits, packed.tensors["text.token.rows"].max()) == (asked, 2 ** (asked - 1) - 1)


def test_calibration_images_are_evenly_spaced() -> None:
    assert spaced(10, 4) == [0, 2, 5, 7]
    assert spaced(3, 4) == [0, 1, 2]


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "expected a run folder, a checkpoint folder or hf://owner/name" in capsys.readouterr().err


def test_an_unknown_flag_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["runs/tiny", "--trim-vocabulary", "words.txt"])
    assert stopped.value.code == 2
    assert "the nearest is --trim-vocab" in capsys.readouterr().err


def test_a_folder_to_calibrate_with_that_is_not_there_is_said_before_anything_is_written(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert main([str(world / "runs/tiny"), "--calibrate", str(tmp_path / "absent"), "--out", str(out)]) == 1
    assert capsys.readouterr().err.endswith(f"to calibrate with, found none: {tmp_path / 'absent'}\n")
    assert not out.exists()
