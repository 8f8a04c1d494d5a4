"""Where a crawl's shards are worked on."""

import importlib.util
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.crawl import Crawled, CrawlError, CrawlSettings, crawl
from pipeline.crawling.distributors import in_processes, on_ray
from pipeline.crawling.manners import Manners
from pipeline.crawling.worker import Shard, ShardWorker
from tests.noise import noise
from tests.servers import Page, Server


def test_a_cluster_without_its_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CrawlError, match=r"expected the package pyspark for .*, found none: pip install pyspark"):
        crawl(["http://127.0.0.1/a.jpg"], tmp_path, CrawlSettings(distributor="pyspark"))


@pytest.mark.soak
def test_ray_crawls_as_processes_do(tmp_path: Path, server: Server) -> None:
    ray = pytest.importorskip("ray")
    server.pages |= {f"/{number}.jpg": Page(noise(number)) for number in range(7)}
    urls = [server.url(f"/{number}.jpg") for number in range(8)]
    manners = Manners(private=(f"127.0.0.1:{server.port}",))
    ray.init(num_cpus=2)
    outcomes = crawl(urls, tmp_path, CrawlSettings(manners, threads=2, per_shard=3, distributor="ray"))
    assert outcomes == Counter(kept=7, http_404=1)
    found = Crawled(tmp_path)
    assert [Path(found.find(url)).read_bytes() for url in urls[:7]] == [noise(number) for number in range(7)]


@pytest.fixture
def failing(tmp_path: Path) -> tuple[ShardWorker, list[Shard]]:
    """A worker whose folder cannot be made, and its one shard."""
    (tmp_path / "round-0000").write_bytes(b"no folder")
    table = pa.table({"url": ["http://127.0.0.1/a.jpg"]})
    with pa.ipc.new_file(str(tmp_path / "00000.urls"), table.schema) as file:
        file.write_table(table)
    worker = ShardWorker(tmp_path / "round-0000", Manners(), max_pixels=1, threads=1, per_shard=1)
    return worker, [(0, str(tmp_path / "00000.urls"))]


def test_an_error_of_a_process_comes_as_it_is(failing: tuple[ShardWorker, list[Shard]]) -> None:
    with pytest.raises(NotADirectoryError, match="round-0000/00000"):
        list(in_processes(*failing, processes=1))


@pytest.mark.soak
def test_an_error_of_a_ray_worker_comes_as_it_is(failing: tuple[ShardWorker, list[Shard]]) -> None:
    pytest.importorskip("ray").init(num_cpus=1)
    with pytest.raises(NotADirectoryError, match="round-0000/00000"):
        list(on_ray(*failing, processes=1))
