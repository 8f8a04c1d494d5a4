"""Whether there is room on the disks for what is to come, before its first byte."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FREE_BYTES = 1 << 28
"""Left free on a disk."""


class RoomError(Exception):
    """Too little room to begin with: says how much is needed, how much is free, and where."""


@dataclass(frozen=True)
class Room:
    """What one disk has to take, and can."""

    place: Path
    """A folder on it."""
    needed: int
    """Bytes."""
    free: int
    """Bytes."""


def rooms(needs: Iterable[tuple[Path, int]]) -> list[Room]:
    """The disks that `needs`, (place, bytes), go to; a place need not be there yet."""
    found: dict[int, tuple[Path, int]] = {}
    for place, size_bytes in needs:
        folder = next(each for each in (place.absolute(), *place.absolute().parents) if each.is_dir())
        disk = folder.stat().st_dev
        first, sum_bytes = found.get(disk, (folder, 0))
        found[disk] = first, sum_bytes + size_bytes
    return [Room(place, needed, shutil.disk_usage(place).free) for place, needed in found.values()]


def check_room(needs: Iterable[tuple[Path, int]]) -> None:
    """Raises `RoomError` where a disk has less room than goes to it."""
    for room in rooms(needs):
        if room.needed and room.needed + FREE_BYTES > room.free:
            needed, free = (room.needed + FREE_BYTES) / 1e9, room.free / 1e9
            raise RoomError(f"expected {needed:,.1f} GB free, found {free:,.1f} GB: {room.place}")
