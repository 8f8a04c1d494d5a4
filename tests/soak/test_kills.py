"""Downloads, crawls and builds that are killed 50 times each (`make soak KILLS=5` for fewer) end in the same bytes.

Compared is every file, but for those that hold times: what is left out stands beside each stage. Of a crawl it is what
it found for every address, and the shards that are built of it: which round brought an image is no part of either.
"""

import hashlib
import io
import json
import os
import random
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.build import Options, build
from pipeline.crawl import Crawled
from pipeline.manifest import read_manifest
from tests.kills import Work, different, digests, finish, rounds
from tests.noise import coco_noise, noise
from tests.servers import Page, Server, serve

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("KILLS", "50"))
CRAWL = """
import json, sys
from pathlib import Path
from pipeline.crawl import CrawlSettings, crawl
from pipeline.crawling.opener import Manners
urls, folder, port = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3]
manners = Manners(private=(f"127.0.0.1:{port}",), retries=0)
crawl(urls, folder, CrawlSettings(manners, processes=2, threads=4, per_shard=25))
"""
HALF = re.compile(r"^\..*\.tmp$|\.partial$|^_tmp$")
TABLE = """
name = "world"
licence = "CC0"
[[source]]
name = "world"
phase = "coarse"
role = "train"
split = "train"
reader = "table"
annotations = ["table.csv"]
images = ["crawl"]
crawl = true
samples_per_shard = 100
refusal_ceiling = 1.0
"""
SOURCES = """
name = "world"
licence = "CC0"
[[file]]
path = "large.bin"
urls = ["{address}/large.bin"]
[[file]]
path = "photos.zip"
urls = ["{address}/photos.zip"]
unpack = true
[[file]]
path = "more.tar.gz"
urls = ["{address}/more.tar.gz"]
unpack = true
folder = "more"
"""


@pytest.fixture
def running() -> Iterator[Server]:
    with serve() as server:
        yield server


def test_killed_builds_end_in_the_same_bytes(tmp_path: Path) -> None:
    manifest = coco_noise(tmp_path, images=300, per_shard=20)
    command = [sys.executable, "-m", "cli.build_shards", str(manifest), "--data", str(tmp_path), "--workers", "2"]
    work = Work(command, tmp_path / "shards", tmp_path / "log.txt")
    finish(work)
    whole = digests(work.output)
    assert [name for _ in rounds(work, KILLS) for name in different(whole, digests(work.output))] == []


def is_a_time_of_a_download(path: str) -> bool:
    """The note of a file's digest also holds when the file was changed."""
    return re.search(r"/\.[^/]+\.sha256\.json$", path) is not None


def test_killed_downloads_end_in_the_same_bytes(tmp_path: Path, running: Server) -> None:
    dice = random.Random(0)
    running.pages["/large.bin"] = Page(dice.randbytes(40_000_000))
    running.pages["/photos.zip"] = Page(zipped({f"photos/{i}.jpg": noise(i) for i in range(500)}))
    running.pages["/more.tar.gz"] = Page(tarred({f"{i}.txt": dice.randbytes(200_000).hex() for i in range(20)}))
    (tmp_path / "world.toml").write_text(SOURCES.format(address=running.url("")))
    data = tmp_path / "data"
    command = [sys.executable, "-m", "cli.download", str(tmp_path / "world.toml"), "--data", str(data)]
    work = Work(command, data, tmp_path / "log.txt")
    finish(work)
    whole = digests(data, is_a_time_of_a_download)
    ended = (digests(data, is_a_time_of_a_download) for _ in rounds(work, KILLS))
    assert [name for files in ended for name in different(whole, files)] == []


def test_killed_crawls_end_in_the_same_bytes(tmp_path: Path, running: Server) -> None:
    paths = [f"/{i}.jpg" for i in range(400)]
    running.pages |= {path: Page(noise(i)) for i, path in enumerate(paths) if i % 9 != 4}
    running.pages |= {path: Page(b"<html>sold") for path in paths[7::50]}
    urls = tmp_path / "urls.json"
    urls.write_text(json.dumps([running.url(path) for path in paths]))
    work = Work(
        [sys.executable, "-c", CRAWL, str(urls), str(tmp_path / "crawl"), str(running.port)],
        tmp_path / "crawl",
        tmp_path / "log.txt",
    )
    finish(work)
    whole = brought(tmp_path, urls, "whole")
    ended = (brought(tmp_path, urls, f"after-{number}") for number, _ in enumerate(rounds(work, KILLS)))
    assert [name for output in ended for name in different(whole, output)] == []


def brought(folder: Path, urls: Path, name: str) -> dict[str, str]:
    """What a crawl in `crawl` found for every URL: an outcome, or the digest of an image; what is half written; and
    every file of the shards that are built of it, but for the one that holds the times of the images' files."""
    crawled = Crawled(folder / "crawl")
    found = {url: crawled.find(url) for url in json.loads(urls.read_text())}
    said = {url: each if isinstance(each, str) else sha256(each.read_bytes()) for url, each in found.items()}
    half = {path.name: "half written" for path in (folder / "crawl").rglob("*") if HALF.search(path.name)}
    data = folder / name
    (data / "raw/world").mkdir(parents=True)
    (data / "raw/world/crawl").symlink_to(folder / "crawl")
    rows = ["url,caption", *(f"{url},a picture" for url in found)]
    (data / "raw/world/table.csv").write_text("\n".join(rows) + "\n")
    (data / "world.toml").write_text(TABLE)
    manifest = read_manifest(data / "world.toml")
    list(build([manifest], data, manifest.sources, Options()))
    shards = digests(data / "shards", lambda path: path.endswith("/stamps.parquet"))
    shutil.rmtree(data)
    return {**said, **half, **shards}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(members: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
    return file.getvalue()
