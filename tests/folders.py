"""Data folders with ledgers, for the tests of the page that tells of them."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.ledger import Line, write_ledger
from pipeline.pages.world import World, read_world
from tests.runs import captions, sample, write_set


def rows(folder: Path, ends: Iterable[tuple[str, str]]) -> Path:
    """Gives a dataset a ledger of these outcomes and details, and the counts that go with it."""
    lines = [Line("drawn", f"rows.json#{n}", None, *end) for n, end in enumerate(ends)]
    counts = write_ledger(folder / "ledger.parquet", lines)
    return state(folder, counts=dict(counts), rows=len(lines))


def state(folder: Path, **fields: object) -> Path:
    """Changes fields of a dataset.json."""
    dataset = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(dataset | fields))
    return folder


def train(root: Path, name: str = "coarse/drawn-train", **fields: object) -> Path:
    """A dataset of two photographs, both rows of which are kept."""
    folder = write_set(root, name, [sample(n, captions(n)) for n in (1, 2)], **fields)
    return rows(folder, [("kept", "")] * 2)


def world(root: Path) -> World:
    """All of what is under `root`."""
    return read_world(root, 0, 1000)


def cells(part: str) -> list[list[str]]:
    """The tables of a part of a page, as text."""
    lines = re.findall(r"<tr>(.*?)</tr>", part)
    return [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[dh].*?>(.*?)</t[dh]>", line)] for line in lines]
