"""Bombs, halves, animations and other oddities: each ends in the ledger with its reason, crawled or found on disk."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipeline.build import Options, build
from pipeline.crawl import CrawlSettings, crawl
from pipeline.crawling.opener import Manners
from pipeline.ledger import Line, read_ledger
from pipeline.manifest import read_manifest
from shards.index import ShardIndex
from tests.bad_images import CASES
from tests.noise import noise
from tests.servers import Cut, Drop, Lie, Page, Redirect, serve

TOML = """
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
crawl = {crawl}
orientation = "ignore"
refusal_ceiling = 1.0
"""
FAULTS = {
    "private.jpg": ([Redirect("http://10.0.0.1/private.jpg")], "private_address"),
    "loopback.jpg": ([Redirect("http://127.0.0.1:1/loopback.jpg")], "private_address"),
    "hung_up.jpg": ([Cut(2000)], "cut_short"),
    "dropped.jpg": ([Drop()], "connection_error"),
    "said_more.jpg": ([Lie(500)], "cut_short"),
    "said_less.jpg": ([Lie(-500)], "decode_error"),
}
"""What else a server does with a whole photograph, and the outcome."""


def ledger(data: Path, images: list[str], crawled: bool) -> dict[str, Line]:
    """Builds a table of `images` and gives the ledger's line of each, by the last part of its name."""
    column = "url" if crawled else "path"
    rows = [f"{column},caption", *(f"{image},a picture" for image in images)]
    (data / "raw/world/table.csv").write_text("\n".join(rows) + "\n")
    (data / "world.toml").write_text(TOML.format(crawl=str(crawled).lower()))
    manifest = read_manifest(data / "world.toml")
    list(build([manifest], data, manifest.sources, Options()))
    lines = {line.row: line for line in read_ledger(data / "shards/coarse/world-train")}
    return {image.rpartition("/")[2]: lines[f"table.csv#{i}"] for i, image in enumerate(images, 1)}


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Line]]:
    """The ledger after a crawl of all of them and a build of what it brought."""
    data = tmp_path_factory.mktemp("crawled")
    folder = data / "raw/world/crawl"
    with serve() as server:
        server.pages |= {f"/{name}": Page(case.make()) for name, case in CASES.items()}
        server.pages |= {f"/{name}": Page(noise(i)) for i, name in enumerate(FAULTS)}
        server.faults |= {f"/{name}": list(faults) for name, (faults, _) in FAULTS.items()}
        urls = [server.url(f"/{name}") for name in (*CASES, *FAULTS)]
        manners = Manners(private=(f"127.0.0.1:{server.port}",), retries=0)
        crawl(urls, folder, CrawlSettings(manners, processes=1, threads=4))
        yield ledger(data, urls, crawled=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with all of them on disk, not yet built."""
    data = tmp_path_factory.mktemp("on_disk")
    (data / "raw/world/crawl").mkdir(parents=True)
    for name, case in CASES.items():
        (data / "raw/world/crawl" / name).write_bytes(case.make())
    return data


@pytest.fixture(scope="module")
def on_disk(folder: Path) -> dict[str, Line]:
    """The ledger of a build of them."""
    return ledger(folder, list(CASES), crawled=False)


@pytest.mark.parametrize("name", CASES)
def test_an_image_that_was_crawled_ends_in_the_ledger_with_its_outcome(crawled: dict[str, Line], name: str) -> None:
    assert crawled[name].outcome == CASES[name].crawled


@pytest.mark.parametrize("name", FAULTS)
def test_an_image_that_a_server_spoiled_ends_in_the_ledger_with_its_outcome(
    crawled: dict[str, Line], name: str
) -> None:
    assert crawled[name].outcome == FAULTS[name][1]


@pytest.mark.parametrize("name", CASES)
def test_an_image_on_disk_ends_in_the_ledger_with_its_outcome(on_disk: dict[str, Line], name: str) -> None:
    assert on_disk[name].outcome == CASES[name].built


@pytest.mark.usefixtures("on_disk")
def test_what_is_kept_is_stored_as_it_came(folder: Path) -> None:
    index = ShardIndex.open(folder / "shards/coarse/world-train")
    stored = {index.read(i)[1] for i in range(len(index))}
    assert stored == {case.make() for case in CASES.values() if case.built == "kept"}


@pytest.mark.usefixtures("on_disk")
def test_the_stored_size_is_the_images_own(folder: Path) -> None:
    index = ShardIndex.open(folder / "shards/coarse/world-train")
    samples = [index.read(i) for i in range(len(index))]
    assert [(s.width, s.height) for s, _ in samples] == [Image.open(io.BytesIO(data)).size for _, data in samples]
