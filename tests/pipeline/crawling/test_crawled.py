"""What a crawl left on the disk is found again, and what it had only begun is not."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.crawling.crawled import Crawled, CrawlError, next_round, outcome_of, settle_stopped
from pipeline.rows import url_hash


def line(url: str, key: str, error: str | None = None, size_bytes: int = 3) -> str:
    """A row of a journal."""
    status = "failed_to_download" if error else "success"
    row = {"url": url, "key": key, "status": status, "error_message": error}
    return json.dumps(row | {"size_bytes": 0 if error else size_bytes}) + "\n"


def stopped(folder: Path, rows: str, images: dict[str, bytes], name: str = "round-0000") -> Path:
    """A round whose first shard was at work when the crawl was killed."""
    round_ = folder / name
    (round_ / "00000").mkdir(parents=True)
    (round_ / "00000.jsonl").write_text(rows)
    (round_ / "00000.urls").write_bytes(b"an Arrow file")
    for key, image in images.items():
        (round_ / f"00000/{key}.jpg").write_bytes(image)
    return round_


def settled(folder: Path) -> Crawled:
    settle_stopped(folder)
    return Crawled(folder)


def test_an_empty_folder_has_nothing(tmp_path: Path) -> None:
    assert Crawled(tmp_path / "none").find("http://a/b.jpg") == "not_crawled"


def test_a_shard_at_work_is_not_seen(tmp_path: Path) -> None:
    stopped(tmp_path, line("http://a/0.jpg", "000000"), {"000000": b"one"})
    assert Crawled(tmp_path).find("http://a/0.jpg") == "not_crawled"


def test_what_a_stopped_crawl_had_is_kept(tmp_path: Path) -> None:
    round_ = stopped(
        tmp_path,
        line("http://a/0.jpg", "000000") + line("http://a/1.jpg", "000001", "http_404: Not Found"),
        {"000000": b"one"},
    )
    crawled = settled(tmp_path)
    assert [crawled.find(f"http://a/{n}.jpg") for n in range(3)] == [
        round_ / "00000/000000.jpg",
        "http_404",
        "not_crawled",
    ]


def test_a_row_that_was_half_written_does_not_count(tmp_path: Path) -> None:
    stopped(tmp_path, line("http://a/0.jpg", "000000") + line("http://a/1.jpg", "000001")[:-5], {"000000": b"one"})
    assert settled(tmp_path).find("http://a/1.jpg") == "not_crawled"


@pytest.mark.parametrize(
    "damaged",
    [
        "\0" * 300,
        "",
        "7",
        "[]",
        "{}",
        "null",
        "1" * 5000,
        '{"url": "http://a/1.jpg", "key": "000001", "status": "success", "error_message": null, "size_bytes": "3"}',
        '{"url": "http://a/1.jpg", "key": "../../x", "status": "success", "error_message": null, "size_bytes": 3}',
        '{"url": "\\ud800", "key": "000001", "status": "success", "error_message": null, "size_bytes": 3}',
        '{"url": "http://a/1.jpg", "key": "000001", "status": "success", "error_message": 404, "size_bytes": 0}',
    ],
)
def test_a_line_that_is_no_row_is_passed_over(tmp_path: Path, damaged: str) -> None:
    rows = f"{line('http://a/0.jpg', '000000')}{damaged}\n{line('http://a/2.jpg', '000002')}"
    round_ = stopped(tmp_path, rows, {"000000": b"one", "000001": b"two", "000002": b"san"})
    assert [settled(tmp_path).find(f"http://a/{n}.jpg") for n in range(3)] == [
        round_ / "00000/000000.jpg",
        "not_crawled",
        round_ / "00000/000002.jpg",
    ]


def test_a_line_that_is_no_utf8_is_passed_over(tmp_path: Path) -> None:
    round_ = stopped(tmp_path, "", {"000000": b"one"})
    (round_ / "00000.jsonl").write_bytes(b"\xff\xfe\n" + line("http://a/0.jpg", "000000").encode())
    assert settled(tmp_path).find("http://a/0.jpg") == round_ / "00000/000000.jpg"


def test_a_journal_without_its_images_keeps_what_had_none(tmp_path: Path) -> None:
    rows = line("http://a/0.jpg", "000000") + line("http://a/1.jpg", "000001", "http_404: Not Found")
    (stopped(tmp_path, rows, {}) / "00000").rmdir()
    crawled = settled(tmp_path)
    assert [crawled.find(f"http://a/{n}.jpg") for n in range(2)] == ["not_crawled", "http_404"]


def test_an_image_of_another_size_than_its_row_says_does_not_count(tmp_path: Path) -> None:
    stopped(tmp_path, line("http://a/0.jpg", "000000", size_bytes=4), {"000000": b"one"})
    assert settled(tmp_path).find("http://a/0.jpg") == "not_crawled"


def test_an_image_that_no_row_speaks_of_is_removed(tmp_path: Path) -> None:
    round_ = stopped(tmp_path, line("http://a/0.jpg", "000000"), {"000000": b"one", "000001": b"ha"})
    settle_stopped(tmp_path)
    assert sorted(path.name for path in round_.rglob("*")) == ["00000", "00000.parquet", "000000.jpg"]


def test_a_round_that_settled_nothing_is_removed(tmp_path: Path) -> None:
    (tmp_path / "round-0000/00000").mkdir(parents=True)
    (tmp_path / "round-0000/00000.urls").write_bytes(b"an Arrow file")
    settle_stopped(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_settling_again_changes_nothing(tmp_path: Path) -> None:
    round_ = stopped(tmp_path, line("http://a/0.jpg", "000000"), {"000000": b"one"})
    settle_stopped(tmp_path)
    settle_stopped(tmp_path)
    assert Crawled(tmp_path).find("http://a/0.jpg") == round_ / "00000/000000.jpg"


def test_every_row_keeps_its_status(tmp_path: Path) -> None:
    rows = line("http://a/0.jpg", "000000") + line("http://a/1.jpg", "000001", "http_404: Not Found")
    round_ = stopped(tmp_path, rows, {"000000": b"one"})
    settle_stopped(tmp_path)
    columns = ["url", "key", "status", "outcome", "error_message", "size_bytes"]
    assert pq.read_table(round_ / "00000.parquet", columns=columns).to_pylist() == [
        dict(zip(columns, ["http://a/0.jpg", "000000", "success", "kept", None, 3], strict=True)),
        dict(
            zip(
                columns,
                ["http://a/1.jpg", "000001", "failed_to_download", "http_404", "http_404: Not Found", 0],
                strict=True,
            )
        ),
    ]


def test_of_several_tries_the_last_counts(tmp_path: Path) -> None:
    stopped(tmp_path, line("http://a/0.jpg", "000000", "timeout: slow"), {})
    round_ = stopped(tmp_path, line("http://a/0.jpg", "0000000"), {"0000000": b"one"}, "round-0001")
    assert settled(tmp_path).find("http://a/0.jpg") == round_ / "00000/0000000.jpg"


def test_the_next_round_comes_after_the_last(tmp_path: Path) -> None:
    (tmp_path / "round-0009").mkdir()
    assert next_round(tmp_path) == tmp_path / "round-0010"


def test_a_lost_image_is_no_image(tmp_path: Path) -> None:
    stopped(tmp_path, line("http://a/0.jpg", "000000"), {"000000": b"one"})
    crawled = settled(tmp_path)
    (tmp_path / "round-0000/00000/000000.jpg").unlink()
    assert crawled.find("http://a/0.jpg") == "no_image"


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "round-0000").mkdir()
    (tmp_path / "round-0000/00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(CrawlError, match=r"expected a table of a crawl, found .*: .*round-0000/00000.parquet; remove"):
        Crawled(tmp_path)


def test_a_string_that_is_no_text_is_no_address(tmp_path: Path) -> None:
    assert Crawled(tmp_path).find("http://a/\ud800.jpg") == "bad_url"


def test_outcomes_are_counted_by_hash(tmp_path: Path) -> None:
    rows = [line(f"http://a/{n}.jpg", f"00000{n}", error) for n, error in enumerate([None, "timeout: 9 s", None])]
    stopped(tmp_path, "".join(rows), {"000000": b"one", "000002": b"two"})
    hashes = np.array([url_hash(f"http://a/{n}.jpg") for n in range(5)])
    assert settled(tmp_path).outcomes(hashes) == Counter(kept=2, timeout=1, not_crawled=2)


def test_nothing_is_counted_where_there_is_nothing(tmp_path: Path) -> None:
    assert Crawled(tmp_path).outcomes(np.array([1, 2])) == Counter(not_crawled=2)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "kept"),
        ("http_404: Not Found", "http_404"),
        ("unknown url type: 'a b'", "bad_url"),
        ("anything else: that broke", "crawl_error"),
    ],
)
def test_an_error_message_becomes_an_outcome(error: str | None, outcome: str) -> None:
    assert outcome_of(error) == outcome
