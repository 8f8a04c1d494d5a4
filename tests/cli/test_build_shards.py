"""bitgen-shards: from downloads to datasets, in one command that can be run again."""

import os
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest

from cli import building
from cli.build_shards import main
from cli.download import main as download
from pipeline.files import locked
from shards.index import ShardIndex
from tests import worlds

TOML = """
name = "world"
licence = "CC0"

[[source]]
name = "world"
phase = "coarse"
role = "train"
split = "train"
reader = "coco"
annotations = ["annotations/captions_train2017.json"]
images = ["train2017"]
refusal_ceiling = {ceiling}

[[source]]
name = "other"
phase = "fine"
role = "train"
split = "train"
reader = "coco"
annotations = ["annotations/captions_train2017.json"]
images = ["train2017"]
refusal_ceiling = 1.0
"""


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    """A manifest beside data/, where its files are."""
    worlds.coco(tmp_path / "data/raw/world")
    (tmp_path / "world.toml").write_text(TOML.format(ceiling=1.0))
    return str(tmp_path / "world.toml")


def run(tmp_path: Path, *arguments: str) -> int:
    return main([*arguments, "--data", str(tmp_path / "data"), "--workers", "1"])


def test_every_source_becomes_a_dataset(manifest: str, tmp_path: Path) -> None:
    assert run(tmp_path, manifest) == 0
    found = sorted(p.parent.relative_to(tmp_path / "data/shards") for p in (tmp_path / "data").rglob("dataset.json"))
    assert list(map(str, found)) == ["coarse/world-train", "fine/other-train"]


def test_it_ends_with_a_table_and_what_to_run_next(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, manifest)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["rows", "of", "kept"],
        ["coarse/world-train", "5"],
        ["fine/other-train", "5"],
    ]
    assert lines[-1] == f"next: bitgen-train --phase coarse --mixture coarse/world-train --data.root {tmp_path}/data"


def test_after_the_sample_comes_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = str(building.MANIFESTS / "sample.toml")
    download([sample, "--data", str(tmp_path / "data")])
    run(tmp_path, sample)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"next: bitgen-train --phase coarse --preset demo --data.root {tmp_path}/data"


def test_whole_datasets_are_verified_in_a_line_each(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, manifest)
    capsys.readouterr()
    assert run(tmp_path, "--verify") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [
        ["dataset", "samples"],
        ["coarse/world-train", "3"],
        ["fine/other-train", "3"],
    ]
    assert lines[3].startswith(
        "16,549 listed ids, 0 ids of 0 evaluation sets and the bytes of their 0 images against 6 t"
    )
    assert lines[4].startswith(f"2 datasets in {tmp_path}/data/shards are whole")


def test_verifying_ends_at_the_first_damage_and_names_it(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, manifest)
    shard = tmp_path / "data/shards/fine/other-train/000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert run(tmp_path, "--verify") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("bitgen-shards: expected sha256 ")
    assert last.endswith(str(shard))


def test_nothing_to_verify_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--verify") == 1
    assert "expected built datasets, found none" in capsys.readouterr().err


def test_verifying_some_manifests_is_wrong_use(manifest: str, tmp_path: Path) -> None:
    assert run(tmp_path, manifest, "--verify") == 2


def test_an_unknown_flag_is_refused_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--limmit", "3"])
    assert "found --limmit; the nearest is --limit" in capsys.readouterr().err


def test_an_unknown_source_is_refused_with_the_nearest_name(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, manifest, "--sources", "wrold")
    assert "found 'wrold' (did you mean 'world'?)" in capsys.readouterr().err


def test_only_the_named_sources_are_built(manifest: str, tmp_path: Path) -> None:
    assert run(tmp_path, manifest, "--sources", "other") == 0
    assert not (tmp_path / "data/shards/coarse").exists()


def test_without_arguments_what_is_downloaded_is_built(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "MANIFESTS", tmp_path)
    assert run(tmp_path) == 0
    assert len(ShardIndex.open(tmp_path / "data/shards/coarse/world-train")) == 3


def test_without_downloads_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 1
    assert "found none" in capsys.readouterr().err.splitlines()[-1]


def test_a_named_manifest_that_is_not_downloaded_is_an_error(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.unlink(tmp_path / "data/raw/world/annotations/captions_train2017.json")
    assert run(tmp_path, manifest) == 1
    assert (
        capsys.readouterr().err.splitlines()[-1].endswith("captions_train2017.json for coarse/world-train, found none")
    )


def test_a_dry_run_builds_nothing(manifest: str, tmp_path: Path) -> None:
    assert run(tmp_path, manifest, "--dry-run") == 0
    assert not (tmp_path / "data/shards").exists()


def test_a_limit_is_kept(manifest: str, tmp_path: Path) -> None:
    assert run(tmp_path, manifest, "--limit", "1") == 0
    assert len(ShardIndex.open(tmp_path / "data/shards/coarse/world-train")) == 1


def test_too_many_refusals_are_an_error_that_names_the_reason(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(manifest).write_text(TOML.format(ceiling=0.0))
    os.unlink(tmp_path / "data/raw/world/train2017/000000000009.jpg")
    assert run(tmp_path, manifest) == 1
    assert "no_image 2" in capsys.readouterr().err.splitlines()[-1]


def test_damaged_annotations_are_an_error_that_names_the_file(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data/raw/world/annotations/captions_train2017.json").write_text('{"images": [')
    assert run(tmp_path, manifest) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("bitgen-shards: expected whole JSON")
    assert last.endswith("captions_train2017.json")


def test_an_unknown_source_is_wrong_use(manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, manifest, "--sources", "cocoa") == 2
    assert "expected sources among other, world, found 'cocoa'" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [["--shorter-side", "0"], ["--workers", "x"], ["--limmit", "3"]])
def test_a_wrong_flag_is_wrong_use(flag: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(flag)
    assert stopped.value.code == 2


def test_two_builds_at_once_are_refused(manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path / "data/shards"):
        assert run(tmp_path, manifest) == 1
    assert "expected no other process at work, found one" in capsys.readouterr().err


def test_a_full_disk_is_said_in_one_line(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run(tmp_path, manifest) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("bitgen-shards: expected room on the disk, found it full; make room and run again: /")


def test_it_runs_as_a_module(manifest: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.build_shards", manifest, "--data", str(tmp_path / "data"), "--dry-run"]
    assert subprocess.run(command, check=False).returncode == 0


def test_ctrl_c_before_anything_is_built_is_answered_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(forkserver, "ensure_running", interrupt)
    assert main(["--data", str(tmp_path), "--workers", "2"]) == 1
    assert capsys.readouterr() == ("", "bitgen-shards: stopped; the same command goes on from here\n")
