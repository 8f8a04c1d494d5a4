"""A URL becomes a file, whatever the server and the process do."""

import errno
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bitgen.disk import FullDiskError
from pipeline import fetch as fetching
from pipeline.fetch import USER_AGENT, Expected, FetchError, fetch, is_right
from pipeline.unpack import UnpackError, is_unpacked, unpack
from tests.servers import Cut, Page, Redirect, Server, Status, WrongBytes

BODY = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(BODY).hexdigest()
RIGHT = Expected(len(BODY), DIGEST)


def get(server: Server, target: Path, expected: Expected = RIGHT, *paths: str) -> list[float]:
    """Fetches the mirrors `paths` (default: /a) and returns how long it would have waited between tries."""
    waited: list[float] = []
    fetch([server.url(p) for p in paths or ("/a",)], target, expected, sleep=waited.append)
    return waited


def leave_part(server: Server, target: Path, beginning: bytes, validator: str) -> None:
    """What a process leaves that is killed in the middle."""
    target.with_name(f"{target.name}.part").write_bytes(beginning)
    note = {"url": server.url("/a"), "validator": validator, "total": len(BODY)}
    target.with_name(f"{target.name}.part.json").write_text(json.dumps(note))


def test_a_file_is_fetched_whole(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_nothing_but_the_file_and_its_digest_stays(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    get(server, tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.sha256.json", "a"]


def test_a_right_file_is_known_without_asking_the_server(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    assert is_right(tmp_path / "a", RIGHT)


def test_a_file_with_a_changed_byte_is_not_right(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" + BODY[1:])
    assert not is_right(tmp_path / "a", RIGHT)


def test_a_file_that_is_changed_after_it_was_checked_is_not_right(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    get(server, tmp_path / "a")
    (tmp_path / "a").write_bytes(b"x" + BODY[1:])
    os.utime(tmp_path / "a", (1, 1))
    assert not is_right(tmp_path / "a", RIGHT)


def test_the_tool_names_itself(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    get(server, tmp_path / "a")
    assert server.asked("/a", "User-Agent") == [USER_AGENT]
    assert "bitgen" in USER_AGENT


def test_a_cut_connection_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Cut(300_000)]
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked("/a", "Range") == [None, "bytes=300000-"]
    assert server.asked("/a", "If-Range") == [None, '"1"']


@pytest.mark.parametrize("arrived", [1, 2, 255, 65_536, len(BODY) - 1])
def test_a_later_process_goes_on_from_any_byte(server: Server, tmp_path: Path, arrived: int) -> None:
    server.pages["/a"] = Page(BODY)
    leave_part(server, tmp_path / "a", BODY[:arrived], '"1"')
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked("/a", "Range") == [f"bytes={arrived}-"]


def test_a_complete_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    leave_part(server, tmp_path / "a", BODY, '"1"')
    get(server, tmp_path / "a", Expected())
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.requests == []


def test_a_file_that_changed_on_the_server_is_fetched_from_its_start(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY, etag='"2"')
    leave_part(server, tmp_path / "a", b"old" * 1000, '"1"')
    get(server, tmp_path / "a", Expected())
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_server_without_ranges_sends_the_file_again(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY, has_ranges=False), [Cut(300_000)]
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_without_validator_and_checksum_a_beginning_is_not_trusted(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY, etag="")
    leave_part(server, tmp_path / "a", b"old" * 1000, "")
    get(server, tmp_path / "a", Expected())
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked("/a", "Range") == [None]


def test_a_wrong_beginning_is_found_by_the_checksum_and_fetched_again(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    leave_part(server, tmp_path / "a", b"wrong", '"1"')
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_failures_of_the_server_are_waited_out(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Status(500), Status(502), Status(503)]
    assert get(server, tmp_path / "a") == [1.0, 2.0, 4.0]


def test_the_server_says_how_long_to_wait(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Status(429, {"Retry-After": "17"})]
    assert get(server, tmp_path / "a") == [17.0]


def test_a_date_to_wait_for_that_has_passed_is_no_wait(server: Server, tmp_path: Path) -> None:
    late = Status(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    server.pages["/a"], server.faults["/a"] = Page(BODY), [late]
    assert get(server, tmp_path / "a") == [0.0]


def test_a_server_that_always_fails_is_given_up(server: Server, tmp_path: Path) -> None:
    server.faults["/a"] = [Status(500)] * 20
    with pytest.raises(FetchError, match="status 500, 6 times in a row"):
        get(server, tmp_path / "a")
    assert len(server.requests) == fetching.TRIES


def test_tries_are_not_used_up_while_bytes_arrive(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Cut(50_000)] * 10
    assert get(server, tmp_path / "a") == [1.0] * 10


def test_a_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    server.pages["/b"], server.faults["/a"] = Page(BODY), [Redirect("/b")]
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_the_next_mirror_is_asked_when_the_first_has_no_file(server: Server, tmp_path: Path) -> None:
    server.pages["/b"] = Page(BODY)
    get(server, tmp_path / "a", RIGHT, "/gone", "/b")
    assert (tmp_path / "a").read_bytes() == BODY
    assert len(server.requests) == 2


def test_a_mirror_with_other_bytes_of_the_same_size_is_passed_over(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.pages["/b"], server.faults["/a"] = Page(BODY), Page(BODY), [WrongBytes()]
    get(server, tmp_path / "a", RIGHT, "/a", "/b")
    assert (tmp_path / "a").read_bytes() == BODY


def test_wrong_bytes_name_both_digests_and_leave_no_file(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [WrongBytes()]
    zeros = hashlib.sha256(bytes(len(BODY))).hexdigest()
    with pytest.raises(FetchError, match=f"expected sha256 {DIGEST}, found {zeros}"):
        get(server, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_file_of_another_size_is_refused_before_it_is_fetched(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    with pytest.raises(FetchError, match="expected 7 bytes, found 1,048,576"):
        get(server, tmp_path / "a", Expected(7))


def test_a_body_without_a_stated_length_is_cut_off_at_the_expected_size(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY, has_length=False)
    with pytest.raises(FetchError, match="expected 7 bytes, found more"):
        get(server, tmp_path / "a", Expected(7))


def test_a_body_without_a_stated_length_is_fetched(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY, has_length=False)
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_compressed_bytes_are_refused(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY, headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchError, match="expected plain bytes, found Content-Encoding gzip"):
        get(server, tmp_path / "a")


def test_a_closed_port_is_tried_again_then_named(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"http://127.0.0.1:9/a: connection failed"):
        fetch(["http://127.0.0.1:9/a"], tmp_path / "a", RIGHT, sleep=lambda s: None)


def test_a_local_file_is_copied(tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(BODY)
    fetch([tmp_path / "from"], tmp_path / "deep" / "a", RIGHT)
    assert (tmp_path / "deep" / "a").read_bytes() == BODY


def test_a_local_folder_is_copied_whole(tmp_path: Path) -> None:
    (tmp_path / "from" / "in").mkdir(parents=True)
    (tmp_path / "from" / "in" / "x").write_text("1")
    fetch([tmp_path / "from"], tmp_path / "a", Expected())
    assert (tmp_path / "a" / "in" / "x").read_text() == "1"


def test_a_local_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="nowhere: no such file or folder"):
        fetch([tmp_path / "nowhere"], tmp_path / "a", RIGHT)


def test_too_little_room_is_said_before_anything_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["/a"] = Page(BODY)
    monkeypatch.setattr(fetching, "FREE_BYTES", 1 << 60)
    with pytest.raises(FetchError, match=r"expected 1152921504\.\d GB free"):
        get(server, tmp_path / "a")
    assert not (tmp_path / "a.part").exists()


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "from").write_bytes(BODY)
    monkeypatch.setattr(shutil, "copyfile", fill)
    with pytest.raises(FullDiskError, match=r"expected room on the disk, found it full; .*: .*/out/a$"):
        fetch([tmp_path / "from"], tmp_path / "out" / "a", RIGHT)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_killed_download_goes_on(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Cut(300_000), Status(503, {"Retry-After": "300"})]
    code = (
        "import os, pathlib, sys; from pipeline.fetch import *;"
        "fetch([sys.argv[1]], pathlib.Path(sys.argv[2]), Expected(), sleep=lambda s: s > 100 and os.kill(os.getpid(), 9))"
    )
    killed = subprocess.run([sys.executable, "-c", code, server.url("/a"), str(tmp_path / "a")], check=False)
    assert killed.returncode == -9
    get(server, tmp_path / "a", Expected())
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked("/a", "Range") == [None, "bytes=300000-", "bytes=300000-"]


def test_a_disk_that_an_archive_fills_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = zip_of(tmp_path / "a.zip", {"x": b"1"})
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FullDiskError, match=r"found it full; make room and run again: .*/out$"):
        unpack(archive, tmp_path / "out", DIGEST)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "out"]


def zip_of(path: Path, members: dict[str, bytes], mode: int = 0) -> Path:
    """A zip of `members`, all with the Unix file `mode`."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def tar_of(path: Path, name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"") -> Path:
    """A tar.gz with one member."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(info, io.BytesIO(content))
    return path


def test_a_zip_is_unpacked(tmp_path: Path) -> None:
    unpack(zip_of(tmp_path / "a.zip", {"in/x": b"1", "y": b"2"}), tmp_path / "out", "s")
    assert (tmp_path / "out/in/x").read_bytes() == b"1"
    assert (tmp_path / "out/y").read_bytes() == b"2"


def test_a_tar_gz_is_unpacked(tmp_path: Path) -> None:
    unpack(tar_of(tmp_path / "a.tar.gz", "in/x", content=b"1"), tmp_path / "out", "s")
    assert (tmp_path / "out/in/x").read_bytes() == b"1"


def test_two_archives_share_a_folder(tmp_path: Path) -> None:
    unpack(zip_of(tmp_path / "a.zip", {"in/x": b"1"}), tmp_path, "s")
    unpack(zip_of(tmp_path / "b.zip", {"in/y": b"2"}), tmp_path, "s")
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["x", "y"]


def test_what_was_unpacked_is_known_when_the_archive_is_gone(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"x": b"1"})
    unpack(archive, tmp_path, "s")
    archive.unlink()
    assert is_unpacked(archive, tmp_path, "s")


def test_what_was_unpacked_and_deleted_is_not_there(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"x": b"1"})
    unpack(archive, tmp_path, "s")
    (tmp_path / "x").unlink()
    assert not is_unpacked(archive, tmp_path, "s")


@pytest.mark.parametrize("name", ["../x", "/x", "in/../../x", "..\\x", "C:/x"])
def test_a_zip_cannot_write_outside_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnpackError, match="expected a relative path without"):
        unpack(zip_of(tmp_path / "a.zip", {"good": b"", name: b"1"}), tmp_path / "deep" / "out", "s")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


@pytest.mark.parametrize("name", ["../x", "/x"])
def test_a_tar_cannot_write_outside_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnpackError, match="expected a relative path without"):
        unpack(tar_of(tmp_path / "a.tgz", name), tmp_path / "out", "s")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnpackError, match="found a link or device 'x'"):
        unpack(zip_of(tmp_path / "a.zip", {"x": b"/etc/passwd"}, stat.S_IFLNK | 0o777), tmp_path / "out", "s")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_tar_holds_regular_files_only(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(UnpackError, match="found a link or device 'x'"):
        unpack(tar_of(tmp_path / "a.tgz", "x", kind), tmp_path / "out", "s")


def test_a_damaged_zip_leaves_nothing(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"x": bytes(range(256)) * 100})
    archive.write_bytes(archive.read_bytes()[:60] + b"\0\0\0" + archive.read_bytes()[63:])
    with pytest.raises(UnpackError, match=r"expected a whole zip or tar, found .*a.zip"):
        unpack(archive, tmp_path / "out", "s")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


def test_a_cut_tar_gz_leaves_nothing(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tgz", "x", content=os.urandom(5000))
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(UnpackError, match="expected a whole zip or tar"):
        unpack(archive, tmp_path / "out", "s")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tgz"]


def test_a_page_of_html_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("<html>sign in</html>")
    with pytest.raises(UnpackError, match="expected a whole zip or tar"):
        unpack(tmp_path / "a.zip", tmp_path / "out", "s")


@pytest.mark.parametrize(
    "make", [lambda p: zip_of(p, {"x": bytes(9000)}), lambda p: tar_of(p, "x", content=bytes(9000))]
)
def test_an_archive_that_grows_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path]
) -> None:
    monkeypatch.setattr("pipeline.unpack.GROWTH_FREE_BYTES", 1000)
    monkeypatch.setattr("pipeline.unpack.GROWTH_CEILING", 1)
    with pytest.raises(UnpackError, match=r"bytes unpacked, found 9,000 or more"):
        unpack(make(tmp_path / "a"), tmp_path / "out", "s")
