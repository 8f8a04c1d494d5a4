"""bitgen-download: everything that a manifest names is there afterwards, or the command fails and says what is not."""

import hashlib
import io
import re
import tomllib
import zipfile
from pathlib import Path

import pytest

from cli.download import main
from pipeline.files import locked
from pipeline.holdout import SHIPPED
from tests.servers import Page, Server, Status
from tests.worlds import sbu

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

CRAWLED = """
name = "world"
licence = "CC0"
[[file]]
path = "gone"
urls = ["gone"]
[[source]]
name = "world"
phase = "coarse"
role = "train"
split = "train"
reader = "sbu"
annotations = ["sbu-captions-all.json"]
images = ["crawl"]
crawl = true
links = false
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


def test_what_to_run_next_is_for_the_same_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(tmp_path)
    run(tmp_path, path, "--sources", "b")
    assert capsys.readouterr().out.splitlines()[-1] == f"next: bitgen-shards {path} --data {tmp_path}/data --sources b"


def test_after_nothing_comes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, str(SHIPPED.parent / "refcoco.toml"), "--sources", "vg") == 0
    assert capsys.readouterr().out == f"0 files of refcoco are in {tmp_path}/data/raw\n"


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


def test_a_dry_run_asks_no_server_and_writes_nothing(server: Server, tmp_path: Path) -> None:
    path = manifest(tmp_path, f'path = "a.json"\nurls = ["{server.url("/a")}"]')
    assert run(tmp_path, path, "--dry-run") == 0
    assert (server.requests, server.heads) == ([], [])
    assert not (tmp_path / "data").exists()


def test_a_dry_run_says_how_it_stands_with_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(
        tmp_path,
        f'path = "there"\nurls = ["http://x/there"]\nsha256 = "{DIGEST}"\nbytes = {len(BODY)}',
        'path = "part"\nurls = ["http://x/part"]\nbytes = 2000',
        'path = "new"\nurls = ["http://x/new", "http://y/new"]',
        'path = "again"\nurls = ["http://x/part"]\nbytes = 2000',
        'path = "person.zip"\nmanual = "ask at example.org"\nunpack = true',
        'path = "manual"\nmanual = "ask at example.org"',
    )
    raw(tmp_path).mkdir(parents=True)
    (raw(tmp_path) / "there").write_bytes(BODY)
    (raw(tmp_path) / "part.part").write_bytes(bytes(500))
    (raw(tmp_path) / "person.zip").write_bytes(packed({"x": bytes(100)}))
    assert run(tmp_path, path, "--dry-run") == 0
    streams = capsys.readouterr()
    lines = streams.out.splitlines()
    assert streams.err == "1 of 6 files are there; to get: 3, 0.0 MB and 2 of unknown size\n"
    assert lines[:7] == [
        "world/there: 11,000 bytes, there",
        "world/part: 2,000 bytes, 500 of them there, from http://x/part",
        "world/new: unknown size, not there, from http://x/new",
        "world/again: 2,000 bytes, not there, from world/part",
        "world/person.zip: unknown size, there, to be checked and unpacked",
        f"world/manual: unknown size, not there, only a person can get it: ask at example.org (put it at {raw(tmp_path)}/manual)",
        "to get: 3 files, 1,500 bytes and 2 of unknown size",
    ]
    assert re.fullmatch(
        rf"room: at least 1,600 bytes needed with what is unpacked, [\d,]+ free: {tmp_path}/data\S*", lines[7]
    )


def test_a_dry_run_names_what_is_crawled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(manifest(tmp_path))
    path.write_text(path.read_text() + "crawl = true\n")
    run(tmp_path, str(path), "--dry-run", "--limit", "1000")
    said = f"coarse/b-train: up to 1,000 images of a.json are crawled into {raw(tmp_path)}/images\n"
    assert said in capsys.readouterr().out


def test_a_file_that_only_a_person_can_get_comes_with_instructions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.txt").write_text("c")
    path = manifest(tmp_path, 'path = "m.zip"\nmanual = "ask at example.org"', 'path = "c.txt"\nurls = ["c.txt"]')
    assert run(tmp_path, path) == 1
    steps = f"world/m.zip: only a person can get it: ask at example.org (put it at {raw(tmp_path)}/m.zip)"
    assert capsys.readouterr().err.splitlines()[-1] == f"bitgen-download: {steps}"
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
    why = f"expected a.json from one of 1 mirrors, found {server.url('/gone')}: status 404"
    assert last == f"bitgen-download: world/a.json: {why}"


def test_an_archive_with_a_path_out_of_its_folder_fails(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.pages["/z"] = Page(packed({"../../../evil": b"1"}))
    assert run(tmp_path, manifest(tmp_path, f'path = "z.zip"\nurls = ["{server.url("/z")}"]\nunpack = true')) == 1
    assert "found member '../../../evil'" in capsys.readouterr().err
    assert [p.name for p in raw(tmp_path).rglob("evil")] == []


def test_a_server_that_is_busy_is_waited_for(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Status(503, {"Retry-After": "0"})]
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


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_what_another_manifest_has_to_bring_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    path = Path(manifest(tmp_path))
    path.write_text(path.read_text() + 'needs = ["../coco/a.json"]\n')
    assert run(tmp_path, str(path), *more) == 0
    assert f"still missing, of another manifest: {tmp_path}/data/raw/coco/a.json\n" in capsys.readouterr().out


def test_a_source_of_a_manifest_that_was_not_given_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, str(SHIPPED.parent / "refcoco.toml"), "--sources", "vg", "refcoco", "--dry-run") == 0
    streams = capsys.readouterr()
    assert "vg is of manifests/visual_genome.toml: not among the manifests of this command\n" in streams.err
    assert streams.out.startswith("refcoco/mdetr_annotations.tar.gz: unknown size, not there, from https://zenodo.org/")


def test_where_all_sources_are_of_other_manifests_nothing_is_to_be_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, str(SHIPPED.parent / "refcoco.toml"), "--sources", "vg", "--dry-run") == 0
    assert capsys.readouterr().out.startswith("to get: 0 files, 0 bytes")


def test_a_source_that_no_manifest_knows_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, str(SHIPPED.parent / "refcoco.toml"), "--sources", "refcocco") == 2
    assert "found 'refcocco' (did you mean 'refcoco'?)" in capsys.readouterr().err


def test_only_the_named_files_are_fetched(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    path = manifest(tmp_path, 'path = "base/a"\nurls = ["a"]', 'path = "large/b"\nurls = ["b"]')
    assert run(tmp_path, path, "--files", "base") == 0
    assert sorted(p.name for p in raw(tmp_path).iterdir()) == ["base"]


def test_a_file_that_no_manifest_names_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(tmp_path, 'path = "base/a.bin"\nurls = ["a"]')
    assert run(tmp_path, path, "--files", "base/b.bin") == 2
    expected = f"bitgen-download: expected files of {path}, found 'base/b.bin' (did you mean 'base/a.bin'?)\n"
    assert capsys.readouterr().err == expected


def test_every_file_that_failed_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b").write_text("b")
    files = [f'path = "{name}"\nurls = ["{name}"]' for name in ("a", "b", "c")]
    assert run(tmp_path, manifest(tmp_path, *files)) == 1
    streams = capsys.readouterr()
    assert streams.out == f"1 of 3 files of world are in {tmp_path}/data/raw\n"
    assert [line[:24] for line in streams.err.splitlines()[-2:]] == [
        "bitgen-download: world/a",
        "bitgen-download: world/c",
    ]


def test_a_file_of_any_filesystem_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "far").write_bytes(BODY)
    assert run(tmp_path, manifest(tmp_path, f'path = "a.json"\nurls = ["local://{tmp_path}/far"]')) == 0
    assert (raw(tmp_path) / "a.json").read_bytes() == BODY


def test_an_address_without_a_port_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["m.toml", "--allow-private", "localhost"])
    assert "expected HOST:PORT, found 'localhost'" in capsys.readouterr().err


def test_images_are_crawled_though_another_file_failed(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sbu(tmp_path / "data/raw/world", server.url(""))
    path = tmp_path / "world.toml"
    path.write_text(CRAWLED)
    allowed = ("--allow-private", f"127.0.0.1:{server.port}", "--processes", "1", "--threads", "2")
    assert run(tmp_path, str(path), *allowed) == 1
    streams = capsys.readouterr()
    assert "coarse/world-train: http_404 3\n" in streams.out
    assert "bitgen-download: world/gone: " in streams.err


def test_a_run_says_first_what_is_left_to_get_of_files_of_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = 'urls = ["http://x/a"]\nbytes = 3000000'
    path = manifest(tmp_path, f'path = "a"\n{file}', f'path = "again"\n{file}')
    raw(tmp_path).mkdir(parents=True)
    (raw(tmp_path) / "a.part").write_bytes(bytes(500_000))
    run(tmp_path, path, "--dry-run")
    streams = capsys.readouterr()
    assert streams.err == "0 of 2 files are there; to get: 1, 2.5 MB\n"
    assert "to get: 1 files, 2,500,000 bytes and 0 of unknown size\nroom: 2,500,000 bytes needed" in streams.out


def test_where_another_file_of_the_same_bytes_is_there_nothing_is_to_be_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = f'urls = ["http://x/a"]\nsha256 = "{DIGEST}"'
    path = manifest(tmp_path, f'path = "a"\n{file}', f'path = "again"\n{file}')
    raw(tmp_path).mkdir(parents=True)
    (raw(tmp_path) / "again").write_bytes(BODY)
    run(tmp_path, path, "--dry-run")
    assert capsys.readouterr().err == "1 of 2 files are there; to get: 0, 0.0 MB\n"


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_no_secret_of_a_url_is_printed(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    url = server.url("/gone?X-Amz-Signature=SECRET").replace("//", "//user:SECRET@")
    run(tmp_path, manifest(tmp_path, f'path = "a.json"\nurls = ["{url}"]'), *more)
    streams = capsys.readouterr()
    assert server.url("/gone") in streams.out + streams.err
    assert "SECRET" not in streams.out + streams.err
