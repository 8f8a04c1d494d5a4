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
from tests.kills import ROOT, Work, begin_anew, finish, kill, kill_at
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
class Stopped:
    """A crawl that Ctrl-C ended, that was then killed, and then came to its end."""

    code: int
    """With which Ctrl-C ended it."""
    said: str
    """By then."""
    images: int
    """That were on the disk when it was killed, one of each process perhaps half written."""
    asked: int
    """How many addresses were asked for after that."""
    found: dict[str, str]


@pytest.fixture(scope="module")
def stopped(crawling: Crawl, uninterrupted: tuple[int, dict[str, str]]) -> Stopped:
    work, server = crawling.work, crawling.server
    begin_anew(work)
    server.faults["/1.jpg"] = [Slow()]
    server.requests.clear()
    with work.log.open("wb") as log:
        process = subprocess.Popen(work.command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    with server.changed:
        assert server.changed.wait_for(lambda: len(server.requests) >= 60, 60)
    os.killpg(process.pid, signal.SIGINT)
    code, said = process.wait(5), work.log.read_text()
    if not kill(work, moment := uninterrupted[0] // 3):
        kill_at(work, moment)  # the machine was so busy that the moment passed unseen
    images, before = len(list(work.output.rglob("*.jpg"))), len(server.requests)
    finish(work)
    return Stopped(code, said, images, len(server.requests) - before, crawling.found())


def test_ctrl_c_ends_a_crawl_at_once(stopped: Stopped) -> None:
    assert stopped.code != 0
    assert "KeyboardInterrupt" in stopped.said


def test_a_stopped_and_killed_crawl_goes_on_to_the_same_images_and_outcomes(
    stopped: Stopped, uninterrupted: tuple[int, dict[str, str]]
) -> None:
    assert stopped.found == uninterrupted[1]


def test_a_killed_crawl_goes_on_with_what_is_left(stopped: Stopped) -> None:
    assert 0 < stopped.asked <= 240 - stopped.images + 2
