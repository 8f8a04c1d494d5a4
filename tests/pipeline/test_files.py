"""Files are replaced whole, and only files are."""

import os
import stat
from pathlib import Path

import pytest

from bitgen.disk import FullDiskError
from pipeline.files import replacing, sweep, write_text


def full(handle: int) -> None:
    """In the place of `os.fsync`."""
    raise OSError(28, "No space left on device")


def test_a_file_is_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"expected a file to replace or nothing, found .* a pipe: .*/pipe$"):
        write_text(tmp_path / "pipe", "x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_link_to_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with pytest.raises(OSError, match="expected a file to replace"):
        write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="found a folder"):
        write_text(tmp_path / "folder", "x")
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_full_disk_says_where_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        FullDiskError, match=r"^expected room on the disk, found it full; make room and run again: /.*/a$"
    ):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_other_errors_of_the_disk_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a/b", "x")


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.json.4194305.tmp").write_text("{")  # a process number beyond the largest
    (tmp_path / ".a.json.tmp").write_text("somebody else's")
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".a.json.tmp"]


def test_what_a_living_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("1")
        sweep(tmp_path)
    assert (tmp_path / "a").read_text() == "1"
