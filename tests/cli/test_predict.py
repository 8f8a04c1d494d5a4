"""bitgen-predict: what an exported model says of images, in a process that can import neither torch nor transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bitgen.deploy.export import export_graphs
from bitgen.deploy.gallery import kept_at
from cli.predict import main
from tests import packing
from tests.runs import photo

ALLOWED = ("onnxruntime", "numpy", "PIL", "tokenizers", "bitgen", "cli", "pipeline")
BLOCKED = f"""
import sys
from importlib.abc import MetaPathFinder

class Only(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {ALLOWED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} in an environment of four packages", name=name)

sys.meta_path.insert(0, Only())
for name in ("torch", "transformers", "safetensors", "simplejpeg"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{{name}} can be imported")
from cli.predict import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict") / "model"
    packing.packed(folder, packing.model())
    export_graphs(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.jpg", "b.jpeg", "more/c.JPG")):
        (folder / name).write_bytes(photo(number))
    (folder / "notes.txt").write_text("no picture")
    return folder


def predict(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main([str(each) for each in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_environment_of_four_packages_answers_everything(model: Path, photos: Path, tmp_path: Path) -> None:
    asked = [model, photos / "a.jpg", "--caption", "--caption-tokens", 3, "--ground", "the red thing", "snow"]
    asked += ["--match", "a photo", "--recall", "--remember", photos / "b.jpeg", "Rex", "--memory", tmp_path / "m.json"]
    asked += ["--index", photos, "--query", "snow", "--draw", tmp_path / "drawn"]
    command = [sys.executable, "-c", BLOCKED, *map(str, asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (of_image,) = found["images"]
    assert (of_image["width"], of_image["height"]) == (48, 32)
    assert isinstance(of_image["caption"], str)
    assert [each["phrase"] for each in of_image["grounded"]] == ["the red thing", "snow"]
    assert all(
        0 <= x0 <= x1 <= 48 and 0 <= y0 <= y1 <= 32 for x0, y0, x1, y1 in [g["box"] for g in of_image["grounded"]]
    )
    assert 0 <= of_image["matches"][0]["probability"] <= 1
    assert list(of_image["recalled"]["names"]) == ["Rex"]
    assert len(found["found"]["snow"]) == 3


def test_a_name_is_remembered_from_one_command_to_the_next_and_forgotten(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = ("--memory", tmp_path / "names.json")
    found = predict(
        capsys, model, *memory, "--remember", photos / "a.jpg", "Rex", "--remember", photos / "b.jpeg", "Rex"
    )
    assert found["remembered"] == {"Rex": 2}
    (again,) = predict(capsys, model, photos / "a.jpg", *memory, "--recall")["images"]
    assert again["recalled"]["name"] == "Rex"
    assert predict(capsys, model, *memory, "--forget", "Rex")["remembered"] == {}
    (gone,) = predict(capsys, model, photos / "a.jpg", *memory, "--recall")["images"]
    assert gone["recalled"] == {"name": None, "familiarity": 0.0, "names": {}}


def test_an_index_is_kept_and_follows_the_folder(model: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (model, "--index", photos, "--query", "snow")
    first = predict(capsys, *asked)
    kept = kept_at(model, photos)
    stamp = kept.stat().st_mtime_ns
    assert predict(capsys, *asked) == first
    assert kept.stat().st_mtime_ns == stamp
    (photos / "more/c.JPG").unlink()
    (photos / "a.jpg").write_bytes(photo(7))
    os.utime(photos / "a.jpg", (1, 1))
    changed = predict(capsys, *asked)["found"]["snow"]
    assert {Path(each["image"]).name for each in changed} == {"a.jpg", "b.jpeg"}
    similarities = {Path(each["image"]).name: each["similarity"] for each in first["found"]["snow"]}
    now = {Path(each["image"]).name: each["similarity"] for each in changed}
    assert now["b.jpeg"] == similarities["b.jpeg"]
    assert now["a.jpg"] != similarities["a.jpg"]


def test_a_drawn_picture_is_the_picture_with_marks(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (model, photos / "a.jpg", "--ground", "snow", "--draw", tmp_path / "drawn")
    (found,) = predict(capsys, *asked)["images"]
    drawn, given = Image.open(found["drawn"]), Image.open(photos / "a.jpg")
    assert drawn.size == given.size
    assert drawn.tobytes() != given.tobytes()


def test_a_picture_that_cannot_be_read_is_named(model: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), str(photos / "notes.txt"), "--caption"]) == 1
    assert "bitgen-predict: expected a JPEG, PNG or WebP picture, found none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--caption"], ["--index", "folder"], ["--query", "snow"], ["a.jpg", "--captions"]], ids=str
)
def test_wrong_use_ends_with_2(model: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(model), *arguments])
    assert stopped.value.code == 2
