"""bitgen-download: everything that a manifest names is there afterwards, or the command fails and says what is not."""

import hashlib
import io
import tomllib
import zipfile
from pathlib import Path

import pytest

from cli.download import main
from pipeline.files import locked
from tests.servers import Cut, Page, Server

BODY = b"annotations" * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()

SOURCE = """
[[source]]
name = "{0}"
phase = "coarse"
role = "train"
split = "train"
reader = "coco"
annotations = ["a.json"]
images = ["images"]
"""


def manifest(tmp_path: Path, *files: str, name: str = "world") -> str:
    """A manifest with these [[file]] tables and the sources `a` and `b`."""
    tables = "".join(f"[[file]]\n{file}\n" for file in files)
    path = tmp_path / f"{name}.toml"
    path.write_text(f'name = "{name}"\nlicence = "CC0"\n{tables}{SOURCE.format("a")}{SOURCE.format("b")}')
    return str(path)


def raw(tmp_path: Path) -> Path:
    return tmp_path / "data/raw/world"


def packed(members: dict[str, bytes]) -> bytes:
    """A zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def run(tmp_path: Path, *arguments: str) -> int:
    return main([*arguments, "--data", str(tmp_path / "data")])


def test_files_come_from_servers_and_from_beside_the_manifest(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/b.txt").write_text("b")
    (tmp_path / "c.txt").write_text("c")
    path = manifest(
        tmp_path,
        f'path = "a.json"\nurls = ["{server.url("/a")}"]\nsha256 = "{DIGEST}"\nbytes = {len(BODY)}',
        'path = "deep/b.txt"\nurls = ["own/b.txt"]',
        f'path = "c.txt"\nurls = ["file://{tmp_path}/c.txt"]',
    )
    assert run(tmp_path, path) == 0
    assert (raw(tmp_path) / "a.json").read_bytes() == BODY
    assert (raw(tmp_path) / "deep/b.txt").read_text() == "b"
    assert (raw(tmp_path) / "c.txt").read_text() == "c"


def test_it_ends_with_what_to_run_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.txt").write_text("c")
    path = manifest(tmp_path, 'path = "c.txt"\nurls = ["c.txt"]')
    run(tmp_path, path)
    data = tmp_path / "data"
    assert capsys.readouterr().out == f"1 files of world are in {data}/raw\nnext: bitgen-shards {path} --data {data}\n"


def test_after_weights_comes_a_run_that_starts_from_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.safetensors").write_text("w")
    path = tmp_path / "w.toml"
    file = '[[file]]\npath = "base/model.safetensors"\nurls = ["model.safetensors"]\n'
    path.write_text(f'name = "w"\nlicence = "CC0"\n{file}')
    run(tmp_path, str(path))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"next: bitgen-train --phase coarse --model.vision.model {tmp_path}/data/raw/w/base"


def test_an_unknown_flag_is_refused_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["m.toml", "--retry-fialed"])
    assert "found --retry-fialed; the nearest is --retry-failed" in capsys.readouterr().err


def test_a_second_run_asks_the_server_nothing(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    server.pages["/z"] = Page(packed({"x": b"1"}))
    path = manifest(
        tmp_path,
        f'path = "a.json"\nurls = ["{server.url("/a")}"]',
        f'path = "z.zip"\nurls = ["{server.url("/z")}"]\nunpack = true',
    )
    run(tmp_path, path)
    asked = len(server.requests)
    assert run(tmp_path, path) == 0
    assert len(server.requests) == asked == 2


def test_an_unpacked_archive_that_was_deleted_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.pages["/z"] = Page(packed({"x": b"1"}))
    path = manifest(tmp_path, f'path = "z.zip"\nurls = ["{server.url("/z")}"]\nunpack = true\nfolder = "in"')
    run(tmp_path, path)
    (raw(tmp_path) / "z.zip").unlink()
    assert run(tmp_path, path) == 0
    assert (raw(tmp_path) / "in/x").read_bytes() == b"1"
    assert len(server.requests) == 1


def test_the_first_download_without_a_checksum_is_recorded(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    run(tmp_path, manifest(tmp_path, f'path = "a.json"\nurls = ["{server.url("/a")}"]'))
    lock = tomllib.loads((tmp_path / "data/downloads.lock.toml").read_text())
    assert lock == {"world/a.json": {"bytes": len(BODY), "sha256": DIGEST}}


def test_later_downloads_are_held_to_the_first(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.pages["/a"] = Page(BODY)
    path = manifest(tmp_path, f'path = "a.json"\nurls = ["{server.url("/a")}"]')
    run(tmp_path, path)
    (raw(tmp_path) / "a.json").unlink()
    server.pages["/a"] = Page(BODY[::-1])
    assert run(tmp_path, path) == 1
    assert f"expected sha256 {DIGEST}" in capsys.readouterr().err


def test_a_recorded_checksum_leaves_the_others(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = server.pages["/b"] = Page(BODY)
    run(tmp_path, manifest(tmp_path, f'path = "a.json"\nurls = ["{server.url("/a")}"]'))
    run(tmp_path, manifest(tmp_path, f'path = "b.json"\nurls = ["{server.url("/b")}"]', name="other"))
    lock = tomllib.loads((tmp_path / "data/downloads.lock.toml").read_text())
    assert sorted(lock) == ["other/b.json", "world/a.json"]


def test_only_what_the_named_sources_need_is_fetched(tmp_path: Path) -> None:
    for name in ("a", "b", "all"):
        (tmp_path / name).write_text(name)
    path = manifest(
        tmp_path,
        'path = "a"\nurls = ["a"]\nsources = ["a"]',
        'path = "b"\nurls = ["b"]\nsources = ["b"]',
        'path = "all"\nurls = ["all"]',
    )
    assert run(tmp_path, path, "--sources", "a") == 0
    assert sorted(p.name for p in raw(tmp_path).iterdir() if not p.name.startswith(".")) == ["a", "all"]


def test_a_dry_run_fetches_nothing(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(tmp_path, f'path = "a.json"\nurls = ["{server.url("/a")}"]\nbytes = 11000')
    assert run(tmp_path, path, "--dry-run") == 0
    assert capsys.readouterr().out == f"world/a.json: 11,000 bytes from {server.url('/a')}\n"
    assert server.requests == []
    assert not (tmp_path / "data").exists()


def test_a_file_that_only_a_person_can_get_comes_with_instructions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.txt").write_text("c")
    path = manifest(tmp_path, 'path = "m.zip"\nmanual = "ask at example.org"', 'path = "c.txt"\nurls = ["c.txt"]')
    assert run(tmp_path, path) == 1
    assert f"world/m.zip: ask at example.org (put it at {raw(tmp_path)}/m.zip)" in capsys.readouterr().err
    assert (raw(tmp_path) / "c.txt").exists()


def test_a_file_that_a_person_put_there_is_unpacked(tmp_path: Path) -> None:
    path = manifest(tmp_path, 'path = "m.zip"\nmanual = "ask at example.org"\nunpack = true')
    raw(tmp_path).mkdir(parents=True)
    (raw(tmp_path) / "m.zip").write_bytes(packed({"x": b"1"}))
    assert run(tmp_path, path) == 0
    assert (raw(tmp_path) / "x").read_bytes() == b"1"


def test_a_failure_is_one_line_that_names_the_address(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, manifest(tmp_path, f'path = "a.json"\nurls = ["{server.url("/gone")}"]')) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"bitgen-download: expected a.json from one of 1 mirrors, found {server.url('/gone')}: status 404"


def test_an_archive_with_a_path_out_of_its_folder_fails(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.pages["/z"] = Page(packed({"../../../evil": b"1"}))
    assert run(tmp_path, manifest(tmp_path, f'path = "z.zip"\nurls = ["{server.url("/z")}"]\nunpack = true')) == 1
    assert "found member '../../../evil'" in capsys.readouterr().err
    assert [p.name for p in raw(tmp_path).rglob("evil")] == []


def test_a_cut_connection_is_not_seen_by_the_user(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Cut(10)]
    assert run(tmp_path, manifest(tmp_path, f'path = "a.json"\nurls = ["{server.url("/a")}"]')) == 0
    assert (raw(tmp_path) / "a.json").read_bytes() == BODY


def test_an_unknown_source_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, manifest(tmp_path), "--sources", "c") == 2
    assert capsys.readouterr().err == "bitgen-download: expected sources among a, b, found 'c'\n"


def test_a_missing_manifest_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "none.toml") == 2
    assert capsys.readouterr().err.startswith("bitgen-download: expected a manifest, found No such file")


@pytest.mark.parametrize("arguments", [["--datta", "x"], ["m.toml", "--limit", "0"], ["m.toml", "--limit", "x"], []])
def test_a_wrong_flag_is_wrong_use(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_a_damaged_lock_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/downloads.lock.toml").write_text("[x\n")
    assert run(tmp_path, manifest(tmp_path)) == 1
    assert "downloads.lock.toml" in capsys.readouterr().err


def test_two_downloads_at_once_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.txt").write_text("c")
    path = manifest(tmp_path, 'path = "c.txt"\nurls = ["c.txt"]')
    with locked(tmp_path / "data/raw"):
        assert run(tmp_path, path) == 1
    assert "expected no other process at work, found one" in capsys.readouterr().err


def test_what_another_manifest_has_to_bring_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(manifest(tmp_path))
    path.write_text(path.read_text() + 'needs = ["../coco/a.json"]\n')
    assert run(tmp_path, str(path)) == 0
    assert f"still missing, of another manifest: {tmp_path}/data/raw/coco/a.json" in capsys.readouterr().err
