"""Datasets and files as a store has them, for tests of what reads them through a cache."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

from fsspec.implementations.memory import MemoryFileSystem

from shards.remote.arriving import Wanted
from shards.remote.patience import Patience
from tests.servers import Page, Server

HASTY = Patience(tries=3, backoff_s=0.0, timeout_s=5.0)
"""Asks again at once."""


def serve_folder(server: Server, folder: Path, has_ranges: bool = True) -> str:
    """Every file below the folder by HTTP; the URL of the folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            server.pages[f"/{path.relative_to(folder)}"] = Page(path.read_bytes(), has_ranges=has_ranges)
    return server.url("")


def remember_folder(folder: Path) -> str:
    """Likewise in fsspec's memory, for this process alone."""
    store = MemoryFileSystem()
    for path in folder.rglob("*"):
        if path.is_file():
            store.pipe_file(f"/data/{path.relative_to(folder)}", path.read_bytes())
    return "memory://data"


def wanted(server: Server, path: str, body: bytes) -> Wanted:
    """A file that the server has from now on."""
    server.pages[path] = Page(body)
    digest = hashlib.sha256(body).hexdigest()
    return Wanted(server.url(path), f"{digest}-{len(body)}.tar", len(body), digest)


def gets(server: Server, path: str) -> int:
    """How often it was asked for."""
    return len(server.asked(path, "Range"))


def wait_until(is_so: Callable[[], bool]) -> None:
    """Until a claim holds that another thread or process makes true."""
    pause, until = Event(), time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < until, "waited in vain"
        pause.wait(0.005)
