"""bitgen-shapes: its world goes through the ordinary commands."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitgen.record import Box
from cli.build_shards import main as build
from cli.download import main as download
from cli.shapes import main
from pipeline.shapes import World, scenes
from shards.index import ShardIndex


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the shards of a world of 12 scenes to train on."""
    folder = tmp_path_factory.mktemp("shapes")
    world, data = str(folder / "world"), str(folder / "data")
    assert main([world, "--train", "12", "--test", "4", "--val", "2", "--workers", "1"]) == 0
    assert download([f"{world}/shapes.toml", "--data", data]) == 0
    assert build([f"{world}/shapes.toml", "--data", data, "--workers", "1"]) == 0
    return folder / "data"


def test_no_scene_is_lost_on_the_way(data: Path) -> None:
    found = {path.parent.relative_to(data / "shards").as_posix() for path in data.rglob("dataset.json")}
    assert {name: len(ShardIndex.open(data / "shards" / name)) for name in found} == {
        "coarse/shapes-train": 12,
        "fine/shapes-grounded-train": 12,
        "fine/shapes-described-train": 12,
        "eval/shapes-val": 2,
        "eval/shapes-grounded-val": 2,
        "eval/shapes-test": 4,
        "eval/shapes-grounded-test": 4,
        "eval/shapes-seen-grounded-test": 4,
        "eval/shapes-unseen-test": 4,
        "eval/shapes-unseen-grounded-test": 4,
    }


def test_what_is_built_is_whole_and_holds_out_what_is_to_evaluate_on(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(["--verify", "--data", str(data)]) == 0
    assert "bytes of their 24 images against 36 training samples: none in common" in capsys.readouterr().out


def edge_share(pixels: np.ndarray, box: Box) -> float:
    """How much of the margin around a box, 2 pixels wide, is as light and grey as the ground."""
    height, width = pixels.shape[:2]
    x0, y0 = math.floor(box.x0 * width), math.floor(box.y0 * height)
    x1, y1 = math.ceil(box.x1 * width), math.ceil(box.y1 * height)
    is_ground = (pixels.min(axis=2) > 200) & (np.ptp(pixels, axis=2) < 25)
    margin = is_ground[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2].copy()
    margin[2:-2, 2:-2] = False
    return float(margin.sum() / (margin.size - (y1 - y0) * (x1 - x0)))


def test_boxes_of_phrases_stand_around_what_is_drawn(data: Path) -> None:
    index = ShardIndex.open(data / "shards/fine/shapes-grounded-train")
    shares = []
    for (scene, _), i in zip(scenes(World(), "train", 0, len(index)), range(len(index)), strict=True):
        sample, image = index.read(i)
        pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), dtype=np.int16)
        for box in {box for text in sample.texts for phrase in text.phrases for box in phrase.boxes}:
            inside = pixels[round(box.y0 * 112) : round(box.y1 * 112), round(box.x0 * 112) : round(box.x1 * 112)]
            assert np.ptp(inside, axis=2).max() > 60 or inside.min() < 60  # something in a colour, or black
            shares += [edge_share(pixels, box)] if scene.inner < 0 else []
    assert len(shares) > 20
    assert min(shares) > 0.9


def test_it_says_what_was_made_and_what_to_run_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path / "w"), "--train", "2", "--val", "1", "--test", "2", "--workers", "1"]
    assert main(arguments) == 0
    said = (
        f"7 scenes (2 train, 1 val, 2 test, 2 unseen): {tmp_path}/w; next: bitgen-download {tmp_path}/w/shapes.toml\n"
    )
    assert capsys.readouterr().out == f"drew {said}"
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"nothing to do, there are {said}"


def test_a_dry_run_draws_nothing(tmp_path: Path) -> None:
    assert main([str(tmp_path / "w"), "--dry-run"]) == 0
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--side", "9"), "bitgen-shapes: expected a side of 64 to 1024 pixels, found 9"),
        (("--train", "0"), "bitgen-shapes: expected train of 1 to 10,000,000 scenes, found 0"),
    ],
)
def test_what_cannot_be_drawn_is_wrong_use(
    arguments: tuple[str, str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "w"), *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert not (tmp_path / "w").exists()


def test_a_folder_with_other_files_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.txt").touch()
    assert main([str(tmp_path)]) == 2
    assert "expected an empty folder, or one that a drawing was stopped in, found " in capsys.readouterr().err
