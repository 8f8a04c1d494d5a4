"""bitgen-predict: what an exported model says of images (in an environment without torch: deploy/test_four_packages.py)."""

import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bitgen.deploy.export import export_graphs
from bitgen.deploy.gallery import kept_at
from bitgen.deploy.packed import read
from bitgen.deploy.runtime import Runtime
from cli.predict import _printable, main
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
    asked = [str(photos / "notes.txt"), str(photos / "a.jpg"), str(photos / "absent.jpg"), "--caption"]
    assert main([str(model), *asked]) == 1
    said = capsys.readouterr()
    assert "bitgen-predict: expected a JPEG, PNG or WebP picture, found none" in said.err
    text, good, absent = json.loads(said.out)["images"]
    assert text["error"].startswith("expected a JPEG, PNG or WebP picture, found none")
    assert "absent.jpg" in absent["error"]
    assert "caption" in good
    assert "error" not in good


def test_options_may_come_before_images(model: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = predict(capsys, model, "--caption", photos / "a.jpg")
    assert first == predict(capsys, model, photos / "a.jpg", "--caption")


def test_pictures_of_one_name_are_drawn_apart(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(photos / "b.jpeg", photos / "more/a.png")
    asked = (photos / "a.jpg", photos / "more/a.png", "--caption", "--draw", tmp_path / "drawn")
    found = predict(capsys, model, *asked)["images"]
    assert [Path(each["drawn"]).name for each in found] == ["a.png", "a-2.png"]
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a-2.png", "a.png"]


def test_pictures_are_not_drawn_over(model: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(model), str(photos / "a.jpg"), "--caption", "--draw", str(photos)])
    assert stopped.value.code == 2
    assert "expected --draw FOLDER apart from the images, found that of" in capsys.readouterr().err
    assert not list(photos.glob("*.png"))


def test_a_file_that_would_be_read_as_a_phrase_is_refused(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(model), str(photos / "a.jpg"), "--ground", "snow", str(photos / "b.jpeg")])
    assert stopped.value.code == 2
    assert "expected a text, found the name of a file" in capsys.readouterr().err


def test_what_is_not_read_of_a_text_is_said(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    room = read(model).facts.max_tokens - 2
    predict(capsys, model, photos / "a.jpg", "--match", "snow" + " a" * (room + 1))
    assert re.search("the last [0-9]+ tokens are left out, as the model reads no more: snow a", caplog.text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--caption"],
        ["--index", "folder"],
        ["--query", "snow"],
        ["a.jpg", "--captions"],
        ["a.jpg", "--heat"],
        ["a.jpg"],
        ["a.jpg", "--recall", "--draw", "folder"],
        ["--index", "folder", "--query", "snow", "--caption"],
        ["a.jpg", "--caption", "--caption-tokens", "257"],
    ],
    ids=str,
)
def test_wrong_use_ends_with_2(model: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(model), *arguments])
    assert stopped.value.code == 2


def test_a_name_of_a_file_is_printed_in_letters_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "latin-1"))
    assert _printable({"image": "é.jpg"}) == '{\n  "image": "é.jpg"\n}'
    assert _printable({"image": "雪\udcff.jpg"}) == '{\n  "image": "\\u96ea\\udcff.jpg"\n}'
