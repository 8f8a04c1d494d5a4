"""Safe unpacking of zip, tar and tar.gz: regular files and folders only, within one folder, up to a size and a number."""

import contextlib
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tarfile import ReadError, TarFile
from typing import IO, Self

from bitgen.disk import room_for
from bitgen.progress import Task
from pipeline.downloading.room import check_room
from pipeline.files import read_json, write_json

# Annotations in JSON shrink by up to 20 in a zip; what grows a hundredfold is made to fill a disk.
GROWTH_CEILING = 100
GROWTH_FREE_BYTES = 1 << 30
MEMBERS_CEILING = 2_000_000
"""GQA's images, the most of what ships, are 148,000."""
_CHUNK_BYTES = 1 << 20
_TOP_NAMES = 1000
"""So many names at the top of an archive are noted, to be looked for later."""
_BAD_HEADERS = tuple(getattr(tarfile, f"{kind}HeaderError") for kind in ("Invalid", "Truncated", "Empty"))
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_EXTENDED_CEILING = 1 << 20
"""Bytes of one header of names and remarks, which tarfile reads into memory whole."""
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    UnicodeError,
)


class UnpackError(ValueError):
    """An archive is damaged, or holds what must not be unpacked: names the archive and the member."""


def marker_of(archive: Path) -> Path:
    """Where it is noted that `archive` has been unpacked; stays when the archive is deleted."""
    return archive.with_name(f".{archive.name}.unpacked.json")


def is_unpacked(archive: Path, folder: Path, sha256: str) -> bool:
    """Whether the archive of this digest was unpacked into `folder`, and its top-level names are still there."""
    marker = read_json(marker_of(archive))
    if marker is None or marker.get("sha256") != sha256 or marker.get("folder") != _folder_name(archive, folder):
        return False
    return all((folder / name).exists() for name in marker["top"])


def unpacked_bytes(archive: Path) -> int:
    """What a zip says that its members have; of a tar, which says nothing beforehand, its own size."""
    with contextlib.suppress(*_DAMAGED):
        if _is_zip(archive):
            with zipfile.ZipFile(archive) as opened:
                return sum(info.file_size for info in opened.infolist())
    return archive.stat().st_size


def unpack(archive: Path, folder: Path, sha256: str, task: Task | None = None) -> None:
    """Unpacks `archive` (of digest `sha256`) into `folder`, beside what is there; members replace their namesakes.

    Members appear in `folder` only once all of them have been read. Raises `UnpackError`, `RoomError`, what `task`
    raises, and `OSError` as it comes from the disk: a full one as `FullDiskError`.
    """
    task, temporary = task or Task(), archive.with_name(f".{archive.name}.unpacking")
    marker_of(archive).unlink(missing_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    size_bytes, ceiling = unpacked_bytes(archive), GROWTH_FREE_BYTES + GROWTH_CEILING * archive.stat().st_size
    _check_size(size_bytes, ceiling, archive)
    check_room([(temporary, size_bytes)])
    temporary.mkdir(parents=True)
    try:
        with room_for(folder):
            task.begin("unpacking", size_bytes if _is_zip(archive) else 0)
            for name, content in _members(archive, ceiling):
                _write(temporary / name, content, task, archive)
            top = sorted(p.name for p in temporary.iterdir())
            _merge(temporary, folder)
    except _DAMAGED as error:
        raise UnpackError(f"expected a whole zip or tar, found {error}: {archive}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    os.sync()  # the marker must not outlive, in a power cut, what it speaks of
    write_json(marker_of(archive), {"sha256": sha256, "folder": _folder_name(archive, folder), "top": top[:_TOP_NAMES]})


def _members(archive: Path, ceiling: int) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """(checked relative path, content) of every regular file. Raises `UnpackError` at the first unsafe member."""
    yield from _zip_members(archive, ceiling) if _is_zip(archive) else _tar_members(archive, ceiling)


def _is_zip(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")  # zipfile.is_zipfile also takes a tar that ends in a zip


def _zip_members(archive: Path, ceiling: int) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        # A member never gives more than it declares: zipfile stops there and compares the checksum.
        _check_size(sum(i.file_size for i in opened.infolist()), ceiling, archive)
        _check_count(len(opened.infolist()), archive)
        for info in opened.infolist():
            path = _checked(info.filename, archive)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UnpackError(
                    f"expected regular files and folders, found a link or device {info.filename!r}: {archive}"
                )
            if not info.is_dir():
                with opened.open(info) as content:
                    yield path, content


def _tar_members(archive: Path, ceiling: int) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    size_bytes = 0
    with _opened_tar(archive) as (opened, plain):
        for count, info in enumerate(opened, 1):
            opened.members.clear()  # type: ignore[attr-defined] (it would hold all that has passed)
            _check_count(count, archive)
            path = _checked(info.name, archive)
            if not (info.isreg() or info.isdir()):
                raise UnpackError(
                    f"expected regular files and folders, found a link or device {info.name!r}: {archive}"
                )
            size_bytes += info.size
            _check_size(size_bytes, ceiling, archive)
            content = opened.extractfile(info) if info.isreg() else None
            if content is not None:
                yield path, content
        while plain is not None and (rest := plain.read(_CHUNK_BYTES)):  # to the checksum, which comes last
            size_bytes += len(rest)
            _check_size(size_bytes, ceiling, archive)


@contextlib.contextmanager
def _opened_tar(archive: Path) -> Iterator[tuple[TarFile, IO[bytes] | None]]:
    """A tar to be read from its start to its end; of a tar.gz also its bytes, whose checksum tarfile never looks at."""
    with archive.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            with tarfile.open(archive, "r|*", tarinfo=_StrictHeader) as opened:
                yield opened, None
            return
        file.seek(0)
        with gzip.open(file) as plain, tarfile.open(fileobj=plain, mode="r|", tarinfo=_StrictHeader) as opened:
            yield opened, plain  # type: ignore[misc] (a GzipFile reads as an IO[bytes] does)


class _StrictHeader(tarfile.TarInfo):
    """A member's header: one that is damaged, cut or missing is an error, where tarfile takes it for the end."""

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> Self:
        """The next header. Raises `EOFHeaderError`, which is no damage, at the end that a whole tar has."""
        try:
            return super().fromtarfile(tarfile)
        except _BAD_HEADERS as error:
            raise ReadError(f"{error}, at byte {tarfile.offset:,}") from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The header in a block of 512 bytes."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in _EXTENDED and found.size > _EXTENDED_CEILING:
            raise ReadError(f"an extended header of {found.size:,} bytes")
        return found


def _check_size(size_bytes: int, ceiling: int, archive: Path) -> None:
    if size_bytes > ceiling:
        raise UnpackError(f"expected at most {ceiling:,} bytes unpacked, found {size_bytes:,} or more: {archive}")


def _check_count(count: int, archive: Path) -> None:
    if count > MEMBERS_CEILING:
        raise UnpackError(f"expected at most {MEMBERS_CEILING:,} members, found {count:,} or more: {archive}")


def _checked(name: str, archive: Path) -> PurePosixPath:
    """A member's name as a path that stays in its folder."""
    path = PurePosixPath(name)
    if "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name) or path.is_absolute() or ".." in path.parts:
        raise UnpackError(f"expected a relative path without .., found member {name!r}: {archive}")
    return path


def _write(path: Path, content: IO[bytes], task: Task, archive: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UnpackError(f"expected one kind of member, found a file and a folder {path.name!r}: {archive}") from error
    with file:
        while chunk := content.read(_CHUNK_BYTES):
            task.update(len(chunk))
            file.write(chunk)


def _merge(source: Path, target: Path) -> None:
    """Moves what is in `source` into `target`, folder into folder, file over file."""
    target.mkdir(parents=True, exist_ok=True)
    for each in sorted(source.iterdir()):
        if each.is_dir() and (target / each.name).is_dir():
            _merge(each, target / each.name)
        else:
            os.replace(each, target / each.name)


def _folder_name(archive: Path, folder: Path) -> str:
    return os.path.relpath(folder, archive.parent)
