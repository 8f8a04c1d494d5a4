import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from pipeline.crawl import CrawlSettings, crawl
from pipeline.crawl_worker import KeepBytes
from pipeline.crawled import Crawled, outcome_of
from pipeline.opener import Manners
from tests.servers import Page, Redirect, Server, Status, serve
from tests.worlds import write_photo

FAULTS = {
    "/gone.jpg": "http_404",
    "/busy.jpg": "http_503",
    "/page.html": "unknown_format",
    "/mine.jpg": "opted_out",
    "/large.png": "too_large",
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


def test_settled_urls_are_not_asked_for_again(crawled: Crawl) -> None:
    before = len(crawled.server.requests)
    assert (crawled.again(), len(crawled.server.requests)) == (crawled.outcomes, before)


@pytest.fixture(scope="module")
def asked_again(crawled: Crawl) -> set[str]:
    """What is asked for when the crawl tries again what failed; one start of img2dataset's processes takes 2 s."""
    before = len(crawled.server.requests)
    crawled.again(retry_failed=True)
    return {path for path, _ in crawled.server.requests[before:]}


def test_failed_urls_can_be_tried_again_alone(asked_again: set[str]) -> None:
    assert asked_again == {"/gone.jpg", "/busy.jpg", "/page.html", "/large.png"}


@pytest.mark.usefixtures("asked_again")
def test_the_last_try_counts(crawled: Crawl) -> None:
    assert Path(crawled.find("/busy.jpg")).read_bytes() == crawled.server.pages["/a.jpg"].body


def test_an_empty_folder_has_nothing(tmp_path: Path) -> None:
    assert Crawled(tmp_path / "none").find("http://a/b.jpg") == "not_crawled"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "kept"),
        ("http_404: Not Found", "http_404"),
        ("unknown url type: 'a b'", "bad_url"),
        ("anything else: that broke", "crawl_error"),
    ],
)
def test_an_error_of_img2dataset_becomes_an_outcome(error: str | None, outcome: str) -> None:
    assert outcome_of(error) == outcome


def test_an_image_of_too_many_pixels_is_known_by_its_header() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (10, 10)).save(buffer, "PNG")
    header = io.BytesIO(buffer.getvalue()[:41])  # signature, IHDR, and the beginning of IDAT
    assert KeepBytes(99)(header)[5] == "too_large: expected 1 to 99 pixels, found 10x10"


def test_an_unknown_distributor_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a distributor of multiprocessing, ray, pyspark, found 'slurm'"):
        CrawlSettings(distributor="slurm")


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="expected processes, threads, per_shard and max_pixels of 1 or more"):
        CrawlSettings(threads=0)
