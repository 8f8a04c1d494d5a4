import inspect
import re
from pathlib import Path

import pytest

from pipeline.crawling import connections, opener
from pipeline.crawling.crawled import LEFT_ALONE, NOT_CRAWLED, outcome_of
from pipeline.pages.rows import MEANINGS, crawl_section, rows_section
from pipeline.pages.world import is_of_crawl
from tests.folders import cells, rows, train, world

SPELLED = set(re.findall(r'RefusedError\("(\w+)"', inspect.getsource(opener) + inspect.getsource(connections)))
"""Outcomes that the opener gives by name."""
OF_CRAWL = SPELLED | {name for _, name in opener.NAMED} | {"dns_timeout", LEFT_ALONE, NOT_CRAWLED, outcome_of("odd")}
"""Every outcome that a crawl can leave of a URL, but for `http_...` and those of the image itself."""


def test_reasons_stand_with_their_rows_shares_and_examples(tmp_path: Path):
    rows(train(tmp_path), [("kept", "")] * 5 + [("no_image", "a.jpg"), ("no_image", "b.jpg"), ("bad_box", "x < 0")])
    found = cells(rows_section(world(tmp_path)))
    assert found[1:] == [
        ["no_imagethe image is not among the files", "2", "25%", "", "rows.json#5 a.jpgrows.json#6 b.jpg"],
        ["bad_boxa box outside its image, or without area", "1", "12.5%", "", "rows.json#7 x &lt; 0"],
    ]


def test_datasets_of_which_every_row_was_kept_share_a_line(tmp_path: Path):
    train(tmp_path)
    train(tmp_path, "eval/drawn-val")
    assert "Every row was kept of: coarse/drawn-train, eval/drawn-val." in rows_section(world(tmp_path))


def test_a_long_detail_is_cut(tmp_path: Path):
    rows(train(tmp_path), [("kept", ""), ("bad_url", "http://" + "x" * 5000)])
    assert "x" * 200 not in rows_section(world(tmp_path))


def test_a_crawl_is_told_of_what_was_asked_for(tmp_path: Path):
    ends = [("kept", "")] * 4 + [("http_404", "u")] * 3 + [("decode_error", "d"), ("empty_text", "")]
    ends += [("held_out", "coco:9"), ("held_out", "looks like eval/a b")]
    rows(train(tmp_path), ends)
    found = crawl_section(world(tmp_path))
    assert found is not None
    assert "coarse/drawn-train: 55.6% of 9 rows have an image" in found
    assert [line[:3] for line in cells(found)[1:]] == [
        ["an image came", "5", "55.6%"],
        ["decode_error", "1", "11.1%"],
        ["http_404", "3", "33.3%"],
    ]


def test_where_nothing_was_crawled_nothing_is_told_of_a_crawl(tmp_path: Path):
    train(tmp_path)
    assert crawl_section(world(tmp_path)) is None


def test_the_opener_names_outcomes():
    assert {"bad_url", "cut_short", "opted_out", "private_address", "redirects", "too_large"} <= SPELLED


@pytest.mark.parametrize("outcome", sorted(OF_CRAWL - {"stopped"}))
def test_an_outcome_of_the_opener_has_a_meaning(outcome: str):
    assert outcome in MEANINGS


@pytest.mark.parametrize("outcome", sorted(OF_CRAWL - {"stopped", "too_large"}))
def test_an_outcome_that_only_a_crawl_gives_counts_as_a_crawls(outcome: str):
    assert is_of_crawl(outcome)
