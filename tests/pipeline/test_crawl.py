"""A list of URLs becomes image files and outcomes, through img2dataset and a local server."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path

import pytest

from pipeline.crawl import Crawled, CrawlError, CrawlSettings, crawl, settings_for
from pipeline.crawling.manners import Crawling, Manners
from pipeline.manifest import Source
from tests.servers import Drop, Page, Redirect, Server, Slow, Status, serve
from tests.worlds import write_photo

FAULTS = {
    "/gone.jpg": "http_404",
    "/busy.jpg": "http_503",
    "/page.html": "unknown_format",
    "/mine.jpg": "opted_out",
    "/large.png": "too_large",
    "/empty.jpg": "no_bytes",
    "/inside.jpg": "private_address",
    "/out.jpg": "bad_url",
}


@dataclass
class Crawl:
    """A finished crawl of four images, one of them a redirect, and of what FAULTS names, in shards of three."""

    server: Server
    folder: Path
    urls: list[str]
    outcomes: Counter[str]

    @property
    def settings(self) -> CrawlSettings:
        manners = Manners(private=(f"127.0.0.1:{self.server.port}",), back_off_s=0.0, retries=1)
        return CrawlSettings(manners, processes=1, threads=4, per_shard=3, max_pixels=80 * 60)

    def again(self, retry_failed: bool = False) -> Counter[str]:
        return crawl(self.urls, self.folder, self.settings, retry_failed)

    def find(self, path: str) -> Path | str:
        return Crawled(self.folder).find(self.server.url(path))


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crawl]:
    folder = tmp_path_factory.mktemp("crawl")
    with serve() as server:
        for number, name in enumerate(("a.jpg", "b.png", "c.webp")):
            server.pages[f"/{name}"] = Page(write_photo(folder / "made" / name, number))
        server.pages["/d.jpg"] = server.pages["/a.jpg"]
        server.faults["/d.jpg"] = [Redirect("/a.jpg")]
        server.faults["/busy.jpg"] = [Status(503)] * 2
        server.pages["/busy.jpg"] = server.pages["/a.jpg"]
        server.pages["/page.html"] = Page(b"<html>not found, but 200</html>")
        server.pages["/mine.jpg"] = Page(server.pages["/a.jpg"].body, headers={"X-Robots-Tag": "noai"})
        server.pages["/large.png"] = Page(write_photo(folder / "made/large.png", 5, size=(81, 60)))
        server.pages["/empty.jpg"] = Page(b"")
        server.faults["/inside.jpg"] = [Redirect("http://127.0.0.1:9/secret")] * 2
        server.faults["/out.jpg"] = [Redirect("ftp://example.org/a.jpg")] * 2
        paths = ["/a.jpg", "/b.png", "/c.webp", "/d.jpg", *FAULTS, "/a.jpg"]
        done = Crawl(server, folder / "crawl", [server.url(path) for path in paths], Counter())
        done.outcomes = done.again()
        yield done


def test_every_url_has_one_outcome(crawled: Crawl) -> None:
    assert crawled.outcomes == Counter(FAULTS.values()) + Counter(kept=4)


@pytest.mark.parametrize("path", ["/a.jpg", "/b.png", "/c.webp"])
def test_bytes_are_kept_as_they_came(crawled: Crawl, path: str) -> None:
    assert Path(crawled.find(path)).read_bytes() == crawled.server.pages[path].body


def test_an_image_behind_a_redirect_is_kept_under_the_url_in_the_list(crawled: Crawl) -> None:
    assert Path(crawled.find("/d.jpg")).read_bytes() == crawled.server.pages["/a.jpg"].body


@pytest.mark.parametrize(("path", "outcome"), FAULTS.items())
def test_a_url_without_an_image_has_its_reason(crawled: Crawl, path: str, outcome: str) -> None:
    assert crawled.find(path) == outcome


def test_a_url_that_was_never_in_the_list_is_not_crawled(crawled: Crawl) -> None:
    assert crawled.find("/z.jpg") == "not_crawled"


def test_a_url_that_stands_twice_is_asked_for_once(crawled: Crawl) -> None:
    assert len(crawled.server.asked("/b.png", "Host")) == 1


def test_every_request_says_who_is_asking(crawled: Crawl) -> None:
    assert {headers["User-Agent"] for _, headers in crawled.server.requests} == {Manners().user_agent}


def test_an_image_is_one_file(crawled: Crawl) -> None:
    assert len([path for path in crawled.folder.glob("round-*/*/*") if path.is_file()]) == 4


def test_settled_urls_are_not_asked_for_again(crawled: Crawl) -> None:
    before = len(crawled.server.requests)
    assert (crawled.again(), len(crawled.server.requests)) == (crawled.outcomes, before)


@pytest.fixture(scope="module")
def asked_again(crawled: Crawl) -> set[str]:
    """What is asked for when the crawl tries again what failed, and one file was lost."""
    Path(crawled.find("/c.webp")).unlink()
    before = len(crawled.server.requests)
    crawled.again(retry_failed=True)
    return {path for path, _ in crawled.server.requests[before:]}


def test_failed_and_lost_urls_can_be_tried_again_alone(asked_again: set[str]) -> None:
    assert asked_again == {"/gone.jpg", "/busy.jpg", "/page.html", "/large.png", "/empty.jpg", "/c.webp"}


@pytest.mark.usefixtures("asked_again")
@pytest.mark.parametrize(("path", "page"), [("/busy.jpg", "/a.jpg"), ("/c.webp", "/c.webp")])
def test_the_last_try_counts(crawled: Crawl, path: str, page: str) -> None:
    assert Path(crawled.find(path)).read_bytes() == crawled.server.pages[page].body


def crawl_in_turn(server: Server, folder: Path, paths: list[str]) -> Counter[str]:
    """All paths, one after the other."""
    manners = Manners(private=(f"127.0.0.1:{server.port}",), back_off_s=0.0)
    urls = [server.url(path) for path in paths]
    return crawl(urls, folder, CrawlSettings(manners, processes=1, threads=1))


PATHS = [f"/{number}.jpg" for number in range(16)]


@pytest.fixture
def sixteen(server: Server, tmp_path: Path) -> Server:
    """A server of sixteen images."""
    photo = Page(write_photo(tmp_path / "made/a.jpg", 1))
    server.pages |= dict.fromkeys(PATHS, photo)
    return server


def test_a_host_that_wants_one_rest_loses_no_image(sixteen: Server, tmp_path: Path) -> None:
    sixteen.faults["/3.jpg"] = [Status(429, {"Retry-After": "1"})]
    assert crawl_in_turn(sixteen, tmp_path / "crawl", PATHS) == Counter(kept=16)


def test_a_host_that_is_silent_for_a_moment_loses_no_image(sixteen: Server, tmp_path: Path) -> None:
    sixteen.faults |= {path: [Drop(), Drop()] for path in PATHS[1:]}
    assert crawl_in_turn(sixteen, tmp_path / "crawl", PATHS) == Counter(kept=16)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long this process would have slept, in s; it does not."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def test_what_a_long_rest_leaves_alone_is_asked_for_after_it(
    sixteen: Server, tmp_path: Path, waits: list[float]
) -> None:
    sixteen.faults["/3.jpg"] = [Status(429, {"Retry-After": "1800"})]
    assert crawl_in_turn(sixteen, tmp_path / "crawl", PATHS) == Counter(kept=15, http_429=1)
    assert waits == [pytest.approx(1800, abs=30)]


def test_a_host_that_gives_nothing_is_left_to_the_next_crawl(
    sixteen: Server, tmp_path: Path, waits: list[float]
) -> None:
    sixteen.faults["/0.jpg"] = [Status(503, {"Retry-After": "3600"})]
    first = crawl_in_turn(sixteen, tmp_path / "crawl", PATHS)
    assert (first, waits) == (Counter(http_503=1, left_alone=15), [])
    assert crawl_in_turn(sixteen, tmp_path / "crawl", PATHS) == Counter(http_503=1, kept=15)


def test_a_string_that_is_no_text_is_passed_over(tmp_path: Path) -> None:
    assert crawl(["http://a/\ud800.jpg"], tmp_path) == Counter()


def test_a_worker_that_is_killed_is_an_error(tmp_path: Path, server: Server) -> None:
    server.pages["/a.jpg"], server.faults["/a.jpg"] = Page(b"image"), [Slow()]
    settings = CrawlSettings(Manners(private=(f"127.0.0.1:{server.port}",)), processes=1, threads=1)
    others = set(active_children())
    with ThreadPoolExecutor(1) as thread:
        crawling = thread.submit(crawl, [server.url("/a.jpg")], tmp_path, settings)
        with server.changed:
            assert server.changed.wait_for(lambda: server.requests, 60)
        [worker] = set(active_children()) - others
        os.kill(worker.pid or 0, signal.SIGKILL)
        with pytest.raises(CrawlError, match="expected an answer of a worker process, found it killed"):
            crawling.result(60)


def source(**crawling: object) -> Source:
    """A source of a manifest with this [crawl] table."""
    table = Crawling(**crawling)  # type: ignore[arg-type] (values of many kinds)
    return Source("s", "coarse", "train", "train", "table", ("a.csv",), ("crawl",), crawl=True, crawling=table)


def test_a_source_is_crawled_as_its_manifest_says() -> None:
    asked = source(user_agent="me (me@example.org)", deadline_s=7.0, max_pixels=99, threads=3, per_shard=11)
    settings = settings_for(asked, processes=1)
    assert settings.manners == Manners(user_agent="me (me@example.org)", deadline_s=7.0)
    assert (settings.max_pixels, settings.threads, settings.per_shard) == (99, 3, 11)


def test_threads_may_be_another_number_than_the_manifests() -> None:
    assert settings_for(source(threads=3), processes=1, threads=5).threads == 5


@pytest.mark.parametrize(("processes", "per_host"), [(1, 8), (3, 2), (16, 1)])
def test_processes_share_what_is_asked_of_a_host(processes: int, per_host: int) -> None:
    assert settings_for(source(per_host=8), processes=processes).manners.per_host == per_host


def test_a_private_address_is_allowed_by_a_flag_alone() -> None:
    assert settings_for(source(), processes=1, private=["127.0.0.1:80"]).manners.private == ("127.0.0.1:80",)


def test_an_unknown_distributor_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a distributor of multiprocessing, ray, pyspark, found 'slurm'"):
        CrawlSettings(distributor="slurm")


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="expected processes, threads, per_shard and max_pixels of 1 or more"):
        CrawlSettings(threads=0)
