"""Two processes that fill one cache and are killed 50 times (`make soak KILLS=5` for fewer) end in the same files.

Both want the same files, from a store that fails now and then; whatever the moment, the next pair finds nothing half
under a good name, waits for nobody who is gone, and leaves nothing but what was wanted.
"""

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.remote.arriving import Wanted
from tests.kills import Work, different, digests, finish, rounds
from tests.servers import Cut, Server, Status, serve
from tests.stores import wanted

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("KILLS", "50"))
FILES, SIZE_BYTES = 12, 4_000_000
FETCH = """
import json, subprocess, sys
from pathlib import Path
from shards.remote.arriving import Wanted
from shards.remote.cache import Cache
from shards.remote.patience import Patience
from shards.remote.prefetch import Prefetcher
other = None if sys.argv[4:] else subprocess.Popen([sys.executable, *sys.orig_argv[1:], "other"])
prefetcher = Prefetcher(Cache(Path(sys.argv[1]), int(sys.argv[3]), patience=Patience(backoff_s=0.01)))
for file in [Wanted(*each) for each in json.loads(Path(sys.argv[2]).read_text())]:
    assert len(prefetcher.wait(file)) == file.size_bytes
    prefetcher.cache.keep([])
prefetcher.close()
sys.exit(0 if other is None else other.wait())
"""


@pytest.fixture
def running() -> Iterator[Server]:
    with serve() as server:
        yield server


@pytest.fixture
def files(running: Server) -> list[Wanted]:
    dice = random.Random(0)
    return [wanted(running, f"/{i}.tar", dice.randbytes(SIZE_BYTES)) for i in range(FILES)]


def filling(tmp_path: Path, files: list[Wanted], limit_bytes: int) -> Work:
    asked = tmp_path / "files.json"
    asked.write_text(json.dumps([[file.url, file.name, file.size_bytes, file.sha256] for file in files]))
    command = [sys.executable, "-c", FETCH, str(tmp_path / "cache"), str(asked), str(limit_bytes)]
    return Work(command, tmp_path / "cache", tmp_path / "log.txt")


def test_killed_processes_end_in_the_same_files(tmp_path: Path, running: Server, files: list[Wanted]) -> None:
    work = filling(tmp_path, files, 10**9)
    finish(work)
    whole = digests(work.output)
    assert sorted(whole) == sorted(["room.lock", *(file.name for file in files)])
    failing = [Status(500), Cut(1_000_000)]
    for _ in rounds(work, KILLS):
        assert different(whole, digests(work.output)) == []
        running.faults = {f"/{i}.tar": list(failing) for i in (2, 7)}


def test_killed_processes_keep_within_their_limit(tmp_path: Path, files: list[Wanted]) -> None:
    limit_bytes = 5 * SIZE_BYTES
    work = filling(tmp_path, files, limit_bytes)
    good = {file.name: file.sha256 for file in files}
    for _ in rounds(work, KILLS):
        found = {name: digest for name, digest in digests(work.output).items() if name != "room.lock"}
        assert {name: good.get(name) for name in found} == found
        assert len(found) <= 5
