"""bitgen-predict in an environment of onnxruntime, numpy, pillow and tokenizers, and of this package without its dependencies."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bitgen.deploy.export import export_graphs
from tests import packing
from tests.environments import environment, with_required
from tests.runs import photo

PACKAGES = ("onnxruntime", "numpy", "pillow", "tokenizers")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("four") / "environment", PACKAGES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    packing.packed(folder, packing.model())
    packing.put_in_bytes(folder)
    export_graphs(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / f"photos/{number}.jpg").write_bytes(photo(number))
    return tmp_path / "photos"


def run(program: Path, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Without this environment's variables, which might name its packages."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=bare)


def answers(programs: Path, *arguments: object, folder: Path) -> dict[str, Any]:
    done = run(programs / "bitgen-predict", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_holds_these_packages_and_no_others(programs: Path, tmp_path: Path) -> None:
    listed = "from importlib.metadata import distributions as d; print(*sorted({each.name for each in d()}))"
    names = run(programs / "python", "-c", listed, folder=tmp_path).stdout.split()
    expected = {"bitgen", *(each.name for each in with_required(PACKAGES).values())}
    assert names == sorted(expected)
    assert not {"torch", "transformers", "safetensors", "onnx"} & set(names)


@pytest.mark.parametrize("name", ["torch", "transformers", "torchvision", "peft", "safetensors", "onnx"])
def test_what_trains_cannot_be_imported_there(programs: Path, tmp_path: Path, name: str) -> None:
    done = run(programs / "python", "-c", f"import {name}", folder=tmp_path)
    assert done.returncode == 1
    assert f"No module named '{name}'" in done.stderr


def test_it_answers_everything(programs: Path, model: Path, photos: Path, tmp_path: Path) -> None:
    asked = (photos / "0.jpg", "--caption", "--caption-tokens", 3, "--ground", "the red thing", "snow", "--heat")
    learned = ("--match", "a photo", "--remember", photos / "1.jpg", "Rex", "--recall", "--memory", tmp_path / "m.json")
    searched = ("--index", photos, "--query", "snow", "--draw", tmp_path / "drawn")
    found = answers(programs, model, *asked, *learned, *searched, folder=tmp_path)
    (of_image,) = found["images"]
    assert (of_image["width"], of_image["height"]) == (48, 32)
    assert isinstance(of_image["caption"], str)
    assert [each["phrase"] for each in of_image["grounded"]] == ["the red thing", "snow"]
    for x0, y0, x1, y1 in (each["box"] for each in of_image["grounded"]):
        assert 0 <= x0 <= x1 <= 48
        assert 0 <= y0 <= y1 <= 32
    assert of_image["grounded"][0]["heat"]["grid"] == [4, 4]
    assert 0 <= of_image["matches"][0]["probability"] <= 1
    assert found["remembered"] == {"Rex": 1}
    assert list(of_image["recalled"]["names"]) == ["Rex"]
    assert len(found["found"]["snow"]) == 3
    assert Path(of_image["drawn"]).is_file()


def test_what_is_remembered_is_recalled_by_the_next_command(
    programs: Path, model: Path, photos: Path, tmp_path: Path
) -> None:
    memory = ("--memory", tmp_path / "m.json")
    answers(programs, model, "--remember", photos / "1.jpg", "Rex", *memory, folder=tmp_path)
    (again,) = answers(programs, model, photos / "1.jpg", "--recall", *memory, folder=tmp_path)["images"]
    assert again["recalled"]["name"] == "Rex"
