"""bitgen-predict: what an exported model says of images (in an environment without torch: deploy/test_four_packages.py)."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bitgen.deploy.export import export_graphs
from bitgen.deploy.gallery import kept_at
from bitgen.deploy.runtime import Runtime
from cli.predict import main
from tests import packing
from tests.runs import photo


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


def test_a_heat_map_comes_where_it_is_asked_for(model: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (model, photos / "a.jpg", "--ground", "snow")
    (plain,) = predict(capsys, *asked)["images"][0]["grounded"]
    (found,) = predict(capsys, *asked, "--heat")["images"][0]["grounded"]
    assert found.pop("heat") == {"grid": [4, 4], "rows": heat_of(model, photos / "a.jpg", "snow")}
    assert found == plain


def heat_of(model: Path, photo: Path, phrase: str) -> list[list[float]]:
    runtime = Runtime.open(model)
    heat = runtime.ground(runtime.see(photo), phrase).heat
    return [[round(float(share), 3) for share in row] for row in heat]


def test_a_picture_that_cannot_be_read_is_named(model: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), str(photos / "notes.txt"), "--caption"]) == 1
    assert "bitgen-predict: expected a JPEG, PNG or WebP picture, found none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--caption"], ["--index", "folder"], ["--query", "snow"], ["a.jpg", "--captions"], ["a.jpg", "--heat"]],
    ids=str,
)
def test_wrong_use_ends_with_2(model: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(model), *arguments])
    assert stopped.value.code == 2
