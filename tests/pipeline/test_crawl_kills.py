"""A crawl that is killed with all its processes, or by Ctrl-C, goes on with what is left. `make soak` has fifty kills."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pipeline.crawl import Crawled
from tests.kills import ROOT, Work, begin_anew, finish, kill_at
from tests.noise import noise
from tests.servers import Page, Server, Slow, serve

CRAWL = """
import json, sys
from pathlib import Path
from pipeline.crawl import CrawlSettings, crawl
from pipeline.crawling.manners import Manners
urls, folder, port = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3]
manners = Manners(private=(f"127.0.0.1:{port}",), retries=0)
crawl(urls, folder, CrawlSettings(manners, processes=2, threads=1, per_shard=60))
"""


@dataclass
class Crawl:
    """240 addresses, of which every tenth is gone, and the command that crawls them with two workers."""

    server: Server
    urls: list[str]
    work: Work

    def found(self) -> dict[str, str]:
        """Of every address its outcome, or its image's digest."""
        crawled = Crawled(self.work.output)
        found = {url: crawled.find(url) for url in self.urls}
        return {u: f if isinstance(f, str) else hashlib.sha256(f.read_bytes()).hexdigest() for u, f in found.items()}


@pytest.fixture(scope="module")
def crawling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crawl]:
    folder = tmp_path_factory.mktemp("kills")
    with serve() as server:
        paths = [f"/{number}.jpg" for number in range(240)]
        server.pages |= {path: Page(noise(number)) for number, path in enumerate(paths) if number % 10}
        urls = [server.url(path) for path in paths]
        (folder / "urls.json").write_text(json.dumps(urls))
        output = folder / "crawl"
        command = [sys.executable, "-c", CRAWL, str(folder / "urls.json"), str(output), str(server.port)]
        yield Crawl(server, urls, Work(command, output, folder / "log.txt"))


@pytest.fixture(scope="module")
def uninterrupted(crawling: Crawl) -> tuple[int, dict[str, str]]:
    """How many bytes an uninterrupted crawl leaves, all of which it wrote, and what it found."""
    finish(crawling.work)
    return sum(path.stat().st_size for path in crawling.work.output.rglob("*") if path.is_file()), crawling.found()


@dataclass
class Killed:
    """A crawl that was killed, and then came to its end."""

    images: int
    """That were on the disk when it was killed, one of each process perhaps half written."""
    asked: int
    """How many addresses were asked for after that."""
    found: dict[str, str]


@pytest.fixture(scope="module", params=[0.3, 0.7])
def killed(request: pytest.FixtureRequest, crawling: Crawl, uninterrupted: tuple[int, dict[str, str]]) -> Killed:
    kill_at(crawling.work, int(request.param * uninterrupted[0]))
    images, before = len(list(crawling.work.output.rglob("*.jpg"))), len(crawling.server.requests)
    finish(crawling.work)
    return Killed(images, len(crawling.server.requests) - before, crawling.found())


def test_a_killed_crawl_goes_on_to_the_same_images_and_outcomes(
    killed: Killed, uninterrupted: tuple[int, dict[str, str]]
) -> None:
    assert killed.found == uninterrupted[1]


def test_a_killed_crawl_goes_on_with_what_is_left(killed: Killed) -> None:
    assert killed.asked <= 240 - killed.images + 2


@pytest.mark.usefixtures("uninterrupted")
def test_ctrl_c_ends_a_crawl_at_once(crawling: Crawl) -> None:
    begin_anew(crawling.work)
    crawling.server.faults["/1.jpg"] = [Slow()]
    crawling.server.requests.clear()
    with crawling.work.log.open("wb") as log:
        stopped = subprocess.Popen(crawling.work.command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    with crawling.server.changed:
        assert crawling.server.changed.wait_for(lambda: len(crawling.server.requests) >= 60, 60)
    os.killpg(stopped.pid, signal.SIGINT)
    assert stopped.wait(5) != 0
    assert "KeyboardInterrupt" in crawling.work.log.read_text()
