"""What a run shows of itself: which samples, and which of them others may see."""

from dataclasses import replace
from pathlib import Path

import pytest

from bitgen.model.bitgen import BitGen
from bitgen.training.config import TrainConfig
from bitgen.training.metrics import Shown
from pipeline.roots import open_root
from pipeline.showing import shower
from tests import fakes

HASH = "0" * 64


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares that may be passed on, squares that may not, some to validate on, and one photograph in two sets."""
    root = tmp_path_factory.mktemp("data")
    fakes.write_shards(root, "coarse/free", 6)
    fakes.write_shards(root, "coarse/again", 4)
    fakes.write_shards(root, "coarse/mine", 6, first=20, licence="my own")
    fakes.write_shards(root, "eval/squares", 5, first=40, role="eval")
    return root


@pytest.fixture(scope="module")
def model() -> BitGen:
    return fakes.model().eval()


def _config(data: Path, *mixture: str, phase: str = "fine", **run: object) -> TrainConfig:
    fields = {"root": str(data), "mixture": dict.fromkeys(mixture, 1.0)}
    return fakes.config("fine" if phase == "fine" else "coarse", data=fields, run={"show_every": 1} | run)


def _shown(config: TrainConfig, model: BitGen) -> Shown:
    show = shower(config, model, HASH, open_root(config.data))
    assert show is not None
    return show(7)


def test_a_page_has_similarities_captions_retrieved_images_and_boxes(data: Path, model: BitGen) -> None:
    page = _shown(_config(data, "coarse/free"), model).page
    parts = (
        "Images (down) and texts (across)",
        "by PCA",
        "Generated caption",
        "Nearest texts",
        "Retrieved images",
        "dashed",
    )
    assert [part for part in parts if part not in page] == []
    assert "tiny: step 7" in page
    assert page.count("data:image/png;base64") == 4 + 4 + 4  # captioned and grounded images, and a heat-map of each


def test_a_phase_that_does_not_ground_shows_no_boxes(data: Path, model: BitGen) -> None:
    assert ">Grounding<" not in _shown(_config(data, "coarse/free", phase="coarse"), model).page


def test_a_photograph_is_shown_once(data: Path, model: BitGen) -> None:
    assert "6 images of coarse/free, the same" in _shown(_config(data, "coarse/free", "coarse/again"), model).page


def test_pictures_and_words_leave_by_their_licence_only(data: Path, model: BitGen) -> None:
    shown = _shown(_config(data, "coarse/free", "coarse/mine"), model)
    assert "my own" not in shown.may_leave
    assert shown.may_leave.count("CC0") >= 4
    for i in range(20, 26):
        assert f"a square {i}" not in shown.may_leave
        assert f"one colour {i}" not in shown.may_leave
    alone = _shown(_config(data, "coarse/mine"), model)
    assert "data:image" in alone.page
    assert "data:image" not in alone.may_leave
    assert alone.may_leave.count("Kept back") == 3
    assert "by PCA" in alone.may_leave


def test_what_is_found_but_may_not_leave_has_only_its_name(data: Path, model: BitGen) -> None:
    shown = _shown(_config(data, "coarse/free", "coarse/mine"), model)
    assert "kept back: square-2" in shown.may_leave
    assert "kept back" not in shown.page


def test_sets_to_validate_on_are_shown_first(data: Path, model: BitGen) -> None:
    config = _config(data, "coarse/free", validate_every=1.0)
    config = replace(config, data=replace(config.data, validation=("eval/squares",)))
    assert "5 images of eval/squares, the same" in _shown(config, model).page


def test_nothing_is_shown_unless_asked_for(data: Path, model: BitGen) -> None:
    config = _config(data, "coarse/free", show_every=0)
    assert shower(config, model, HASH, open_root(config.data)) is None
