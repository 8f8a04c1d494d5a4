from pathlib import Path
from shutil import which

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
    assert "expected no-parser.jar, found none" in java_figures(CAPTIONS, REFERENCES)[1]["spice"]


@pytest.mark.soak  # half a minute
@pytest.mark.skipif(which("java") is None, reason="needs Java")
def test_meteor_is_1_of_a_caption_that_is_a_reference():
    found, missing = java_figures(CAPTIONS, REFERENCES)
    assert found["same"]["meteor"] == pytest.approx(1)
    assert found["other"]["meteor"] < 0.2
    assert list(missing) == ["spice"]
