"""Room is asked of the disk that a file goes to, before its first byte."""

import shutil
from pathlib import Path

import pytest

from pipeline.downloading.room import FREE_BYTES, RoomError, check_room, rooms


def test_what_goes_to_one_disk_is_added_up(tmp_path: Path) -> None:
    found = rooms([(tmp_path / "a/b/c.zip", 100), (tmp_path / "x", 20)])
    assert [(room.place, room.needed) for room in found] == [(tmp_path, 120)]


def test_a_place_that_is_a_file_is_of_its_folders_disk(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    assert rooms([(tmp_path / "a", 1)])[0].place == tmp_path


def test_a_disk_with_too_little_room_is_refused(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(RoomError, match=rf"^expected [\d,.]+ GB free, found [\d,.]+ GB: {tmp_path}$"):
        check_room([(tmp_path / "a", free)])


def test_a_disk_with_room_is_not(tmp_path: Path) -> None:
    assert shutil.disk_usage(tmp_path).free > FREE_BYTES + 1000, "expected a test machine with room"
    check_room([(tmp_path / "a", 1000)])


def test_where_nothing_is_needed_a_full_disk_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.downloading.room.FREE_BYTES", 1 << 60)
    check_room([(tmp_path / "a", 0)])
