"""An archive becomes files: all of them, within its folder, or none."""

import errno
import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bitgen.disk import FullDiskError
from pipeline.downloading import room
from pipeline.downloading.room import RoomError
from pipeline.downloading.unpack import UnpackError, is_unpacked, marker_of, unpack, unpacked_bytes


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


def two_members(tmp_path: Path) -> bytes:
    """A plain tar: header at 0, 700 bytes of `x` at 512, header of `y` at 1,536, its byte at 2,048, the end at 2,560."""
    with tarfile.open(tmp_path / "plain", "w") as archive:
        for name, content in (("x", bytes(700)), ("y", b"1")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    body = (tmp_path / "plain").read_bytes()
    (tmp_path / "plain").unlink()
    return body


def check_refused(tmp_path: Path, body: bytes, why: str) -> None:
    """`body` is no archive because of `why`, and leaves nothing behind."""
    archive = tmp_path / "a.tar"
    archive.write_bytes(body)
    with pytest.raises(UnpackError, match=f"expected a whole zip or tar, found {why}.*: {archive}$"):
        unpack(archive, tmp_path / "out", "s")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_a_disk_that_an_archive_fills_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = zip_of(tmp_path / "a.zip", {"x": b"1"})
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FullDiskError, match=r"found it full; make room and run again: .*/out$"):
        unpack(archive, tmp_path / "out", "s")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "out"]


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
    monkeypatch.setattr("pipeline.downloading.unpack.GROWTH_FREE_BYTES", 1000)
    monkeypatch.setattr("pipeline.downloading.unpack.GROWTH_CEILING", 1)
    with pytest.raises(UnpackError, match=r"bytes unpacked, found 9,000 or more"):
        unpack(make(tmp_path / "a"), tmp_path / "out", "s")


@pytest.mark.parametrize(
    "make", [lambda p: zip_of(p, {"x": b"", "y": b"", "z": b""}), lambda p: tar_of(p, "x", content=b"1")]
)
def test_an_archive_of_too_many_members_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path]
) -> None:
    monkeypatch.setattr("pipeline.downloading.unpack.MEMBERS_CEILING", 0)
    with pytest.raises(UnpackError, match=r"expected at most 0 members, found [13] or more: .*/a$"):
        unpack(make(tmp_path / "a"), tmp_path / "out", "s")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_an_archive_for_which_there_is_no_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FREE_BYTES", 1 << 60)
    with pytest.raises(RoomError, match=r"expected .* GB free, found"):
        unpack(zip_of(tmp_path / "a.zip", {"x": b"1"}), tmp_path / "out", "s")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


def test_a_zip_says_how_much_it_holds(tmp_path: Path) -> None:
    assert unpacked_bytes(zip_of(tmp_path / "a.zip", {"x": bytes(5000), "y": bytes(700)})) == 5700


def test_a_tar_counts_as_its_own_size(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tgz", "x", content=bytes(5000))
    assert unpacked_bytes(archive) == archive.stat().st_size


def test_what_was_killed_before_its_note_is_unpacked_again(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"in/x": b"1", "in/y": b"2"})
    unpack(archive, tmp_path, "s")
    marker_of(archive).unlink()
    (tmp_path / ".a.zip.unpacking/in").mkdir(parents=True)
    (tmp_path / "in/y").write_bytes(b"half")
    assert not is_unpacked(archive, tmp_path, "s")
    unpack(archive, tmp_path, "s")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.zip.unpacked.json", "a.zip", "in"]
    assert (tmp_path / "in/y").read_bytes() == b"2"


def test_of_many_names_at_the_top_some_are_looked_for_later(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {f"{i:04d}": b"" for i in range(1200)})
    unpack(archive, tmp_path / "out", "s")
    (tmp_path / "out/0999").unlink()
    assert not is_unpacked(archive, tmp_path / "out", "s")


def test_a_member_with_a_name_that_is_no_text_is_damage(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"\u00e4": b"1"})
    archive.write_bytes(archive.read_bytes().replace("\u00e4".encode(), b"\xff\xfe"))
    with pytest.raises(UnpackError, match="expected a whole zip or tar, found"):
        unpack(archive, tmp_path / "out", "s")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_whole_tar_of_two_members_is_unpacked(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "a.tar").write_bytes(pack(two_members(tmp_path)))
    unpack(tmp_path / "a.tar", tmp_path / "out", "s")
    assert (tmp_path / "out/x").read_bytes() == bytes(700)
    assert (tmp_path / "out/y").read_bytes() == b"1"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_flipped_bit_in_the_second_header_is_damage(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    body = bytearray(two_members(tmp_path))
    body[1540] ^= 1
    check_refused(tmp_path, pack(bytes(body)), "bad checksum, at byte 1,536")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_tar_cut_within_a_header_is_damage(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    check_refused(tmp_path, pack(two_members(tmp_path)[:1600]), "truncated header, at byte 1,536")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_tar_cut_between_members_is_damage(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    check_refused(tmp_path, pack(two_members(tmp_path)[:1536]), "empty header, at byte 1,536")


def test_a_tar_gz_that_is_cut_is_damage(tmp_path: Path) -> None:
    check_refused(tmp_path, gzip.compress(two_members(tmp_path))[:-9], "Compressed file ended before")


def test_a_tar_gz_with_another_checksum_is_damage(tmp_path: Path) -> None:
    body = bytearray(gzip.compress(two_members(tmp_path)))
    body[-8] ^= 1
    check_refused(tmp_path, bytes(body), "CRC check failed")


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.pax_headers = {"comment": "c" * 2_000_000}  # a record is "2000017 comment=ccc...\n"
    body = gzip.compress(info.tobuf(tarfile.PAX_FORMAT))
    check_refused(tmp_path, body, "an extended header of 2,000,017 bytes")


def test_a_tar_whose_first_member_begins_like_a_zip_is_a_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("PKU/x"))
    unpack(tmp_path / "a.tar", tmp_path / "out", "s")
    assert (tmp_path / "out/PKU/x").read_bytes() == b""


def test_an_empty_zip_is_a_zip(tmp_path: Path) -> None:
    unpack(zip_of(tmp_path / "a.zip", {}), tmp_path / "out", "s")
    assert list((tmp_path / "out").iterdir()) == []
