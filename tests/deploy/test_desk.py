"""What the buttons of bitgen-app do, without its page; and which requests the page answers."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitgen.deploy.desk import Desk, in_words
from bitgen.deploy.export import export_graphs
from bitgen.deploy.memory import MAX_NAME, MemoryFileError
from bitgen.deploy.packed import PackedError
from bitgen.deploy.runtime import PictureError, Seen
from bitgen.deploy.serving import is_own
from bitgen.recollection import Recollection
from tests import packing
from tests.runs import photo


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk") / "model"
    packing.packed(folder, packing.model())
    export_graphs(folder)
    return folder


@pytest.fixture
def desk(model: Path, tmp_path: Path) -> Desk:
    return Desk.open(model, tmp_path / "names.json", threads=1)


def look(desk: Desk, folder: Path, stored: bytes) -> Seen:
    path = folder / "stored"
    path.write_bytes(stored)
    return desk.look(path, "holiday.jpg")


@pytest.mark.parametrize(
    ("size", "shown"),
    [((48, 32), (512, 341)), ((700, 600), (700, 600)), ((3000, 1500), (1024, 512)), ((5000, 1), (1024, 1))],
)
def test_a_picture_is_shown_neither_too_large_nor_too_small(
    desk: Desk, tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    assert look(desk, tmp_path, photo(1, size)).picture.size == shown


def test_what_is_found_is_what_the_runtime_finds_in_the_stored_picture(desk: Desk, tmp_path: Path) -> None:
    seen, stored = look(desk, tmp_path, photo(1)), desk.runtime.see(tmp_path / "stored")
    assert desk.caption(seen) == desk.runtime.caption(stored)
    there, here = desk.runtime.ground(stored, "a dog"), desk.runtime.ground(seen, "a dog")
    np.testing.assert_array_equal(here.heat, there.heat)
    scale = np.array([512 / 48, 341 / 32] * 2)
    np.testing.assert_allclose(np.array(here.box), np.array(there.box) * scale, rtol=1e-6)


def test_a_phrase_is_drawn_as_a_box_and_as_heat(desk: Desk, tmp_path: Path) -> None:
    seen = look(desk, tmp_path, photo(1))
    place = desk.find(seen, " a dog ")
    score = desk.runtime.ground(seen, "a dog").score
    assert place.said == f"the likeliest part shows it with probability {score:.2f}"
    assert place.boxed.size == place.heated.size == seen.picture.size
    assert place.boxed.tobytes() != seen.picture.tobytes()


def test_how_well_a_text_fits_is_said_in_two_numbers(desk: Desk, tmp_path: Path) -> None:
    seen = look(desk, tmp_path, photo(1))
    probability, cosine = desk.runtime.match(seen, "a dog"), desk.runtime.similarity(seen, "a dog")
    expected = (
        f"cosine of picture and text {cosine:.2f}; a match to the matching head with probability {probability:.2f}"
    )
    assert desk.fit(seen, "a dog") == expected


def test_a_name_that_was_taught_is_recalled_until_it_is_forgotten(desk: Desk, tmp_path: Path) -> None:
    seen = look(desk, tmp_path, photo(1))
    assert desk.recall(seen).said == "no names so far"
    desk.teach(seen, " Rex ")
    desk.teach(seen, "Rex")
    recalled = desk.recall(seen)
    assert desk.names() == {"Rex": 2}
    assert list(recalled.names) == ["Rex"]
    assert recalled.said.startswith(f"this is Rex: confidence {recalled.names['Rex']:.2f}, familiarity 0.")
    desk.forget("Rex")
    assert (desk.names(), desk.recall(seen).said) == ({}, "no names so far")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Recollection({}, 0.0, is_known=False), "no names so far"),
        (
            Recollection({"Rex": 0.04, "Tom": 0.01}, 0.1, is_known=False),
            "nothing known looks like this: familiarity 0.10, novelty 0.90",
        ),
        (
            Recollection({"Rex": 0.5, "Tom": 0.2}, 0.75, is_known=True),
            "this is Rex: confidence 0.50, familiarity 0.75, novelty 0.25",
        ),
    ],
    ids=["nothing", "unknown", "known"],
)
def test_what_is_recalled_is_said_in_words(found: Recollection, said: str) -> None:
    assert in_words(found) == said


def test_names_are_those_of_the_file_at_every_click(desk: Desk, model: Path, tmp_path: Path) -> None:
    other = Desk.open(model, desk.memory_file, threads=1)  # as bitgen-predict might be
    desk.teach(look(desk, tmp_path, photo(1)), "Rex")
    other.teach(look(other, tmp_path, photo(2)), "Tom")
    assert desk.names() == {"Rex": 1, "Tom": 1}


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (b"no picture", "expected a JPEG, PNG or WebP picture, found none: holiday.jpg"),
        (photo(1)[:-200], "expected a whole picture, found .*: holiday.jpg"),
    ],
    ids=["text", "half"],
)
def test_a_picture_that_cannot_be_read_is_called_what_its_owner_calls_it(
    desk: Desk, tmp_path: Path, stored: bytes, message: str
) -> None:
    with pytest.raises(PictureError, match=message):
        look(desk, tmp_path, stored)


def test_a_picture_of_too_many_pixels_is_refused(desk: Desk, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("1", (9000, 8000)).save(file, "PNG")
    with pytest.raises(PictureError, match=r"expected 1 to 64000000 pixels, found 9000x8000: holiday\.jpg"):
        look(desk, tmp_path, file.getvalue())


@pytest.mark.parametrize("name", ["", "  ", "x" * (MAX_NAME + 1)], ids=["none", "blank", "long"])
def test_a_name_has_some_characters_and_not_too_many(desk: Desk, tmp_path: Path, name: str) -> None:
    with pytest.raises(MemoryFileError, match=f"expected a name of 1 to {MAX_NAME} characters, found"):
        desk.teach(look(desk, tmp_path, photo(1)), name)
    assert not desk.memory_file.exists()


def test_a_phrase_needs_words(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="expected a text with words, found ''"):
        desk.find(look(desk, tmp_path, photo(1)), "  ")


def test_a_model_without_graphs_is_refused_at_once(tmp_path: Path) -> None:
    packing.packed(tmp_path, packing.model())
    with pytest.raises(PackedError, match="expected a graph, as bitgen-export --format onnx leaves it"):
        Desk.open(tmp_path)


def test_a_damaged_file_of_names_is_refused_at_once(model: Path, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text("{")
    with pytest.raises(MemoryFileError, match="expected a file of remembered names"):
        Desk.open(model, tmp_path / "names.json")


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("127.0.0.1:7860", None, True),
        ("localhost:7860", "http://localhost:7860", True),
        ("127.0.0.1:7860", "http://127.0.0.1:7860", True),
        ("127.0.0.1:7860", "http://127.0.0.1:8000", False),
        ("127.0.0.1:7860", "https://elsewhere.example", False),
        ("127.0.0.1:7860", "null", False),
        ("elsewhere.example:7860", None, False),
        ("elsewhere.example:7860", "http://elsewhere.example:7860", False),
        ("127.0.0.1.elsewhere.example", None, False),
        ("", None, False),
    ],
)
def test_only_this_page_on_this_machine_is_answered(host: str, origin: str | None, expected: bool) -> None:
    assert is_own(host, origin) is expected
