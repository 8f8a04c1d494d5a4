"""bitgen-download is killed or stopped in the middle: the next run goes on, and ends as if nothing had happened."""

import io
import random
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cli.download import main
from tests.kills import ROOT, digests
from tests.servers import Page, Server, Slow

BODY = random.Random(0).randbytes(1_000_000)
SENT = 700_000
"""Bytes after which the server waits: at least half a million of them are on the disk then."""


def packed() -> bytes:
    """A zip of two files, as large as `BODY`, the same at every call."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("photos/1.jpg"), BODY[:600_000])
        archive.writestr(zipfile.ZipInfo("photos/2.jpg"), BODY[600_000:])
    return file.getvalue()


def manifest(folder: Path, server: Server) -> str:
    """Two files without checksums: one of them an archive."""
    server.pages["/large.bin"], server.pages["/photos.zip"] = Page(BODY), Page(packed())
    path = folder / "world.toml"
    path.write_text(
        f'name = "world"\nlicence = "CC0"\n[[file]]\npath = "large.bin"\nurls = ["{server.url("/large.bin")}"]\n'
        f'[[file]]\npath = "photos.zip"\nurls = ["{server.url("/photos.zip")}"]\nunpack = true\n'
    )
    return str(path)


@contextmanager
def in_the_middle(folder: Path, server: Server, path: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, when half a million bytes of the file at `path` are on the disk."""
    server.faults[path] = [Slow(SENT)]
    command = [sys.executable, "-m", "cli.download", manifest(folder, server), "--data", str(folder / "data")]
    part = folder / f"data/raw/world{path}.part"
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            while process.poll() is None and not (part.exists() and part.stat().st_size >= 500_000):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.001)
            yield process
        finally:
            process.kill()
            server.release.set()


def kill(folder: Path, server: Server, path: str) -> int:
    """Kills the command in the middle of a file; bytes of it that are there."""
    with in_the_middle(folder, server, path) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    return (folder / f"data/raw/world{path}.part").stat().st_size


def is_a_time(path: str) -> bool:
    """The note of a file's digest also holds when the file was changed."""
    return re.search(r"/\.[^/]+\.sha256\.json$", path) is not None


def whole(folder: Path, server: Server) -> dict[str, str]:
    """What a run leaves that nobody disturbs."""
    assert main([manifest(folder, server), "--data", str(folder / "undisturbed")]) == 0
    server.requests.clear()
    return dict(digests(folder / "undisturbed", is_a_time))


def test_a_killed_download_goes_on_with_the_rest_and_ends_in_the_same_bytes(server: Server, tmp_path: Path) -> None:
    undisturbed = whole(tmp_path, server)
    size = kill(tmp_path, server, "/large.bin")
    assert main([manifest(tmp_path, server), "--data", str(tmp_path / "data")]) == 0
    assert server.asked("/large.bin", "Range") == [None, f"bytes={size}-"]
    assert digests(tmp_path / "data", is_a_time) == undisturbed


def test_a_killed_archive_goes_on_with_the_rest_and_ends_in_the_same_bytes(server: Server, tmp_path: Path) -> None:
    undisturbed = whole(tmp_path, server)
    size = kill(tmp_path, server, "/photos.zip")
    assert main([manifest(tmp_path, server), "--data", str(tmp_path / "data")]) == 0
    assert server.asked("/photos.zip", "Range") == [None, f"bytes={size}-"]
    assert digests(tmp_path / "data", is_a_time) == undisturbed


def test_ctrl_c_ends_at_once_though_a_server_is_silent_and_keeps_what_has_arrived(
    server: Server, tmp_path: Path
) -> None:
    with in_the_middle(tmp_path, server, "/large.bin") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=6) == 1
        assert process.stderr is not None
        assert process.stderr.read().endswith("bitgen-download: stopped; the same command goes on from here\n")
    left = (tmp_path / "data/raw/world/large.bin.part").read_bytes()
    assert len(left) >= 500_000
    assert BODY.startswith(left)
