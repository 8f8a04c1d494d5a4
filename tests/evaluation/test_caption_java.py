import sys
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from bitgen.evaluation import caption_java
from bitgen.evaluation.caption_java import java_figures

REFERENCES = [[("a", "red", "dog"), ("the", "dog")], [("two", "cats", "sleep")]]
CAPTIONS = {"same": [("a", "red", "dog"), ("two", "cats", "sleep")], "other": [("two", "cats", "sleep"), ()]}


@pytest.fixture(autouse=True)
def _no_parser(monkeypatch: pytest.MonkeyPatch):
    """SPICE is never run by a test: its parser takes 400 MB."""
    monkeypatch.setattr(caption_java, "PARSER", ("no-parser.jar",))


def test_without_java_the_result_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found, missing = java_figures(CAPTIONS, REFERENCES)
    assert found == {"same": {}, "other": {}}
    assert missing == dict.fromkeys(("meteor", "spice"), "expected a program java, found none")


def test_a_java_that_ends_at_once_is_a_figure_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found, missing = java_figures(CAPTIONS, REFERENCES)
    assert found == {"same": {}, "other": {}}
    assert missing["meteor"].startswith("expected a figure from its program in Java, found ")


def test_a_parser_that_is_not_there_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    said = java_figures(CAPTIONS, REFERENCES)[1]["spice"]
    assert said.startswith("expected no-parser.jar in the package pycocoevalcap, found none (")
    assert "/" not in said  # it stands in results, which name no place on this machine


STAND_IN = """#!{python}
import json, sys
if sys.argv[1:3] != ["-jar", "-Xmx8G"]:  # METEOR: two counts of each image, texts and captions; then from their sums a score
    for line in sys.stdin:
        kind, *rest = line.rstrip("\\n").split(" ||| ")
        if kind == "EVAL":
            texts, images = (sum(float(each.split()[n]) for each in rest) for n in (0, 1))
            print("0.5\\n" * len(rest) + str(texts / (10 * images)), flush=True)
        else:
            print(len(rest), 1, *21 * [0], flush=True)
else:  # SPICE
    asked = json.load(open(sys.argv[4]))
    scores = [{{"All": {{"f": 0.25 * len(each["refs"])}}}} for each in asked]
    {spice}
    json.dump(found, open(sys.argv[sys.argv.index("-out") + 1], "w"))
"""
FOUND = 'found = [{"image_id": each["image_id"], "scores": own} for each, own in zip(asked, scores)]'


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spice: str) -> None:
    """A `java` that speaks to pycocoevalcap as METEOR and SPICE do, and a parser that is there."""
    (tmp_path / "java").write_text(STAND_IN.format(python=sys.executable, spice=spice))
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(caption_java, "PARSER", ("spice-1.0.jar",))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "spice-1.0.jar").touch()
    monkeypatch.setattr(caption_java, "LIBRARY", str(tmp_path / "lib"))
    for name in ("TEMP_DIR", "CACHE_DIR"):
        monkeypatch.setattr(f"pycocoevalcap.spice.spice.{name}", str(tmp_path / name))
    monkeypatch.setattr("pycocoevalcap.spice.spice.get_stanford_models", lambda: None)


def test_figures_of_both_programs_are_those_that_they_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stand_in(tmp_path, monkeypatch, FOUND)
    found, missing = java_figures(CAPTIONS, REFERENCES)
    # Two references of the first image and one of the second.
    assert (found, missing) == ({name: {"meteor": 0.25, "spice": 0.375} for name in CAPTIONS}, {})


def test_both_figures_have_intervals_by_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stand_in(tmp_path, monkeypatch, FOUND)
    found, _ = java_figures(CAPTIONS, REFERENCES, seed=1, resamples=100)
    # METEOR's stand-in gives 0.3 for the first image and 0.2 for the second, SPICE's 0.5 and 0.25: of both, or of one twice.
    for each in found.values():
        assert each["interval"] == {"meteor": pytest.approx([0.2, 0.3]), "spice": [0.25, 0.5]}
    alone, _ = java_figures({"one": [("a", "dog")]}, REFERENCES[:1], seed=1, resamples=100)
    assert "interval" not in alone["one"]


@pytest.mark.parametrize(
    ("spice", "said"),
    [
        ("raise SystemExit(1)", "found CalledProcessError: Command"),
        ('found = [{"image_id": 0, "scores": scores[0]}]', "found KeyError: 1"),
        ('found = [{"image_id": 0}]', "found KeyError: 'scores'"),
        ("sys.exit(0)", "found JSONDecodeError: Expecting value: line 1 column 1"),
    ],
)
def test_a_parser_that_fails_leaves_the_other_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spice: str, said: str
):
    stand_in(tmp_path, monkeypatch, spice)
    found, missing = java_figures(CAPTIONS, REFERENCES)
    assert found == {name: {"meteor": 0.25} for name in CAPTIONS}
    assert missing["spice"].startswith(f"expected a figure from its program in Java, {said}")


@pytest.mark.soak  # ten seconds
@pytest.mark.skipif(which("java") is None, reason="needs Java")
def test_meteor_is_1_of_a_caption_that_is_a_reference():
    found, missing = java_figures(CAPTIONS, REFERENCES)
    assert found["same"]["meteor"] == pytest.approx(1)
    assert found["other"]["meteor"] < 0.2
    assert list(missing) == ["spice"]


@pytest.mark.soak  # ten seconds
@pytest.mark.skipif(which("java") is None, reason="needs Java")
def test_meteor_of_a_resample_is_that_of_its_images_as_the_package_has_it(monkeypatch: pytest.MonkeyPatch):
    from pycocoevalcap.meteor.meteor import Meteor

    program, said = Meteor(), [("a", "red", "dog"), ("two", "cats", "on", "a", "bed")]
    values = []
    for images in ([0, 0], [0, 1], [1, 1]):
        meant = {n: [" ".join(text) for text in REFERENCES[image]] for n, image in enumerate(images)}
        values.append(program.compute_score(meant, {n: [" ".join(said[image])] for n, image in enumerate(images)})[0])
    monkeypatch.setattr(caption_java, "percentiles", lambda draws: [np.unique(draws.round(9))])
    found, _ = java_figures({"one": said}, REFERENCES, seed=0, resamples=20)
    assert found["one"]["meteor"] == pytest.approx(values[1])
    assert found["one"]["interval"]["meteor"] == pytest.approx(sorted(values))
