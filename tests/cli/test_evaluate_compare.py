"""`bitgen-eval --compare`: two checkpoints on the same items, as a table, as comparison.json and as a page."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cli.evaluate import main
from tests.runs import captions, run_config, sample, write_run, write_set, write_world


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    return write_run(run_config(write_world(folder / "data"), folder / "runs"))


@pytest.fixture(scope="module")
def short(run: Path) -> Path:
    """A run that cuts its texts after "the red thing 10 and"."""
    config = run_config(run.parent.parent / "data", run.parent, "short")
    return write_run(replace(config, data=replace(config.data, max_tokens=7)))


def compare(a: Path, b: Path, out: Path, *more: str) -> dict[str, Any]:
    assert main(["--compare", str(a), str(b), "--out", str(out), *more]) == 0
    return json.loads(out.read_text())


def test_a_checkpoint_beside_itself_differs_in_nothing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sets = compare(run, run, tmp_path / "comparison.json", "--task", "retrieval", "captioning")["sets"]
    assert {name: set(kinds) for name, kinds in sets.items()} == {"eval/drawn-captions": {"t2i", "i2t", "captioning"}}
    figures = [figure for kinds in sets.values() for kind in kinds.values() for figure in kind["figures"].values()]
    assert {(figure["difference"], figure["p"], *figure["interval"]) for figure in figures} == {(0.0, 1.0, 0.0, 0.0)}
    assert "eval/drawn-captions text→image: R@1" in capsys.readouterr().out


def test_a_comparison_and_its_page_go_beside_the_second(run: Path, short: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--compare", str(run), str(short), "--task", "grounding"]) == 0
    found = json.loads((short / "comparison.json").read_text())
    assert (found["a"]["run"], found["b"]["run"]) == ("tiny", "short")
    assert list(found["sets"]) == ["eval/drawn-phrases"]
    assert f"wrote {short / 'comparison.json'} and {short / 'comparison.page/index.html'}" in capsys.readouterr().out


def test_phrases_that_one_of_them_cuts_off_are_its_misses_and_are_counted(
    run: Path, short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    # Of each of four images three phrases, of which one begins beyond the seventh token.
    found = compare(run, short, tmp_path / "one.json", "--task", "grounding")
    kind = found["sets"]["eval/drawn-phrases"]["grounding"]
    assert [kind[name] for name in ("items", "only_a", "only_b", "neither")] == [12, 4, 0, 0]
    for who, folder in (("a", run), ("b", short)):  # as each has it by itself
        assert (
            main([str(folder), "--task", "grounding", "--split", "heldout", "--out", str(tmp_path / "own.json")]) == 0
        )
        own = json.loads((tmp_path / "own.json").read_text())["heldout"]["grounding"]
        assert {name: each[who] for name, each in kind["figures"].items()} == pytest.approx(
            {name: own[name] for name in kind["figures"]}
        )
    said = (
        "eval/drawn-phrases, grounding: of 12 phrases 4 that only tiny reads count as misses of short, 0 that only short reads as "
        "misses of tiny, and 0 that both cut off as misses of both."
    )
    assert said in found["notes"]
    printed = capsys.readouterr().out
    assert said in printed
    assert "items  only tiny" in printed
    page = (tmp_path / "one.page/index.html").read_text()
    assert said in page
    assert ">only tiny</th>" in page


def test_a_page_has_a_chart_of_the_differences_as_png_too(run: Path, short: Path, tmp_path: Path):
    compare(run, short, tmp_path / "two.json")
    charts = sorted((tmp_path / "two.page").glob("*.png"))
    assert [path.stem for path in charts] == [
        "eval-drawn-captions-differences-retrieval",
        "eval-drawn-phrases-differences-grounding",
    ]
    assert min(Image.open(path).width for path in charts) > 200
    page = (tmp_path / "two.page/index.html").read_text()
    assert page.count("<svg") == 2
    assert "Retrieval: short less tiny" in page


def test_a_note_on_one_of_them_names_it(run: Path, tmp_path: Path):
    config = run_config(run.parent.parent / "data", tmp_path / "runs", "untaught")
    other = write_run(replace(config, loss=replace(config.loss, grounding=0.0)))
    notes = compare(run, other, tmp_path / "notes.json", "--task", "grounding")["notes"]
    assert "untaught: The grounding head of this model has not been trained: the fine phase does that." in notes
    assert [note for note in notes if note.startswith("This model was trained on 6 images")]  # which is so of both


def test_what_the_second_lacks_is_said_before_the_first_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = write_world(tmp_path / "data")
    broken = b"\xff\xd8\xff\xe0 not a photograph"  # which measuring the first would end at
    write_set(root, "eval/broken", [sample(30, captions(30), image=broken)], images=[broken])
    config = run_config(root, tmp_path / "runs")
    matching = write_run(replace(config, loss=replace(config.loss, itm=0.5), run=replace(config.run, name="matching")))
    assert main(["--compare", str(matching), str(write_run(config)), "--rerank", "4"]) == 1
    assert "expected a checkpoint of a run that trains the matching head to re-rank by" in capsys.readouterr().err
    assert main(["--compare", str(matching), str(matching), "--rerank", "4"]) == 1
    assert "drawn-30" in capsys.readouterr().err


def test_two_without_a_set_in_common_are_not_compared(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_set(tmp_path / "data", "coarse/drawn-train", [sample(1, captions(1))])
    write_set(tmp_path / "data", "eval/others", [sample(20, captions(20))])
    config = run_config(tmp_path / "data", tmp_path / "runs", "elsewhere")
    mixture = {"coarse/drawn-train": 1.0}
    other = write_run(replace(config, data=replace(config.data, mixture=mixture)))
    assert main(["--compare", str(run), str(other)]) == 1
    assert "expected a held-out set that both can be measured on, found none" in capsys.readouterr().err


def test_two_sets_of_one_name_that_differ_are_not_compared(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    # A smaller gallery is an easier one.
    for name, numbers in (
        ("coarse/drawn-train", (0, 1)),
        ("fine/drawn-train", (0, 1)),
        ("eval/drawn-captions", (10, 11)),
    ):
        write_set(tmp_path / "data", name, [sample(n, captions(n)) for n in numbers])
    other = write_run(run_config(tmp_path / "data", tmp_path / "runs", "elsewhere"))
    assert main(["--compare", str(run), str(other)]) == 1
    assert "expected one eval/drawn-captions for both, found two that differ" in capsys.readouterr().err
    found = compare(run, other, tmp_path / "both.json", "--data", str(run.parent.parent / "data"))
    assert found["sets"]["eval/drawn-captions"]["t2i"]["items"] == 8
