"""A shard's images and rows are written whole, or the shard ends."""

import errno
import io
import json
from pathlib import Path
from typing import Any

import pytest

from bitgen.disk import FullDiskError
from pipeline.crawling.connections import RefusedError
from pipeline.crawling.crawled import Crawled
from pipeline.crawling.manners import Manners
from pipeline.crawling.opener import PoliteOpener
from pipeline.crawling.worker import ImageFiles, KeepBytes
from tests.bad_images import CASES, bomb_jpeg
from tests.noise import noise
from tests.servers import Server


def meta(key: str, error: str | None = None) -> dict[str, Any]:
    """What img2dataset says of a row."""
    status = "failed_to_download" if error else "success"
    return {"url": f"http://a/{key}.jpg", "key": key, "status": status, "error_message": error, "width": 1}


def files(folder: Path, opener: PoliteOpener | None = None) -> ImageFiles:
    """As img2dataset makes them."""
    return ImageFiles(opener or PoliteOpener(Manners()), 7, str(folder), False, 5, None, "jpg")


def test_a_row_is_in_the_journal_when_its_image_is_whole(tmp_path: Path) -> None:
    files(tmp_path).write(b"one", "000070", None, meta("000070"))
    row = json.loads((tmp_path / "00007.jsonl").read_text())
    assert (row["size_bytes"], (tmp_path / "00007/000070.jpg").read_bytes()) == (3, b"one")


def test_a_closed_shard_can_be_found(tmp_path: Path) -> None:
    writer = files(tmp_path / "round-0000")
    writer.write(b"one", "000070", None, meta("000070"))
    writer.write(None, "000071", None, meta("000071", "timeout: 9 s"))
    writer.close()
    crawled = Crawled(tmp_path)
    assert crawled.find("http://a/000070.jpg") == tmp_path / "round-0000/00007/000070.jpg"
    assert crawled.find("http://a/000071.jpg") == "timeout"


def test_nothing_but_images_and_a_table_is_left(tmp_path: Path) -> None:
    writer = files(tmp_path)
    writer.write(b"one", "000070", None, meta("000070"))
    writer.close()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["00007", "00007.parquet", "000070.jpg"]


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A folder in which the journal of shard 7 has no room."""
    (tmp_path / "00007.jsonl").symlink_to("/dev/full")
    return tmp_path


def test_a_full_disk_ends_the_shard(full: Path) -> None:
    writer = files(full)
    writer.write(b"one", "000070", None, meta("000070"))
    with pytest.raises(FullDiskError, match="expected room on the disk, found it full") as caught:
        writer.close()
    assert caught.value.errno == errno.ENOSPC


def test_a_full_disk_ends_the_asking(full: Path, server: Server) -> None:
    opener = PoliteOpener(Manners(private=(f"127.0.0.1:{server.port}",)))
    files(full, opener).write(b"one", "000070", None, meta("000070"))
    with pytest.raises(RefusedError, match="stopped"):
        opener.open(server.url("/a.jpg"))
    assert server.requests == []


def test_nothing_is_written_after_what_failed(full: Path) -> None:
    writer = files(full)
    writer.write(b"one", "000070", None, meta("000070"))
    writer.write(b"two", "000071", None, meta("000071"))
    assert [p.name for p in (full / "00007").iterdir()] == ["000070.jpg"]


def test_bytes_of_an_image_are_kept_as_they_came() -> None:
    photo = noise(1)
    assert KeepBytes(10_000)(io.BytesIO(photo)) == (photo, 96, 72, 96, 72, None)


def test_an_image_of_too_many_pixels_is_known_by_its_header() -> None:
    header = io.BytesIO(noise(1)[:700])
    assert KeepBytes(6911)(header)[5] == "too_large: expected 1 to 6911 pixels, found 96x72"


def test_pixels_are_not_decoded() -> None:
    claims_3_600_megapixels = io.BytesIO(bomb_jpeg(60_000))
    assert KeepBytes(60_000**2)(claims_3_600_megapixels)[1:3] == (60_000, 60_000)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("bomb.png", "too_large"),
        ("bomb.jpg", "too_large"),
        ("moving.gif", "unknown_format"),
        ("page.jpg", "unknown_format"),
        ("cut.jpg", "kept"),
        ("cut.png", "kept"),
        ("moving.webp", "kept"),
        ("moving.png", "kept"),
        ("print.jpg", "kept"),
        ("grey16.png", "kept"),
        ("colour16.png", "kept"),
        ("wide.jpg", "kept"),
    ],
)
def test_a_header_is_kept_or_refused_for_what_it_says(name: str, outcome: str) -> None:
    error = KeepBytes(64_000_000)(io.BytesIO(CASES[name].make()))[5]
    assert (error or "kept").partition(":")[0] == outcome
