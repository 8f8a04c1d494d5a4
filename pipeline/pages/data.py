"""Datasets on disk become a page: what was built, what became of every row, how it is distributed, what it looks like."""

from collections.abc import Mapping
from pathlib import Path

from bitgen.evaluation.page import Html, count, document, join, paragraph, size, table
from pipeline.pages.distributions import images_section, licences_section, phrases_section
from pipeline.pages.glance import glance
from pipeline.pages.heldout import heldout_section
from pipeline.pages.rows import crawl_section, rows_section
from pipeline.pages.sheets import sample_cards, sheets_section
from pipeline.pages.words import texts_section
from pipeline.pages.world import PageError, World, dataset_folders, read_world, table_of
from shards.index import ShardIndex

__all__ = ["PageError", "counts", "data_page", "dataset_folders", "refusals", "sample_cards"]

RECORDS = 20_000
"""Records read over all datasets for words, licences and sizes of boxes."""


def data_page(path: Path, samples: int, seed: int, records: int = RECORDS) -> str:
    """The page of a dataset folder, or of a data root with shards/. Raises `PageError` where no dataset can be shown.

    Args:
        samples: thumbnails of each dataset.
        seed: which samples and records, and which crops.
        records: how many are read, over all datasets.
    """
    world = read_world(path, seed, records)
    optional = (("Crawl", crawl_section(world)), ("Phrases and boxes", phrases_section(world)))
    sections = [
        ("At a glance", glance(world)),
        ("Rows", rows_section(world)),
        *((name, part) for name, part in optional[:1] if part is not None),
        ("Held out and doubles", heldout_section(world)),
        ("Images", images_section(world)),
        ("Texts and words", texts_section(world)),
        *((name, part) for name, part in optional[1:] if part is not None),
        ("Licences", licences_section(world)),
        ("Contact sheets", sheets_section(world, samples)),
        ("How it was built", built(world)),
    ]
    names = [each.name for each in world.datasets]
    title = f"Data: {names[0]}" if len(names) == 1 else f"Data: {len(names)} datasets"
    return document(title, f"{path}, seed {seed}", sections, "made by bitgen-show")


def built(world: World) -> Html:
    """What each dataset was built from, and how."""
    header = ("dataset", "manifest", "code", "images", "looked at", "limit", "shards", "hold-out", "looks", "licence")
    rows = []
    for each in world.datasets:
        said = each.index.dataset
        side = said.get("sample_side_px")
        rows.append(
            (
                each.name,
                _said(said.get("manifest")),
                _said(said.get("code_version")),
                f"shrunk to {side} px" if side else "as they came",
                _said(said.get("check")),
                _said(said.get("limit")),
                count(len(said["shards"])),
                _said(said.get("holdout_sha256"))[:12],
                _said(said.get("looks_sha256"))[:12],
                _said(said.get("licence")),
            )
        )
    return table(header, rows)


def counts(indexes: Mapping[str, ShardIndex]) -> Html:
    """A line for every dataset, for the page of a run."""
    header = ("dataset", "phase", "role", "rows", "samples", "texts", "phrases", "boxes", "shards", "size", "hold-out")
    rows = [
        (
            name,
            str(index.dataset.get("phase", "–")),
            str(index.dataset.get("role", "–")),
            count(_number(index, "rows")),
            count(len(index)),
            *(count(_number(index, field)) for field in ("texts", "phrases", "boxes")),
            count(len(index.dataset["shards"])),
            size(sum(shard["bytes"] for shard in index.dataset["shards"])),
            str(index.dataset.get("holdout_sha256", "–"))[:12],
        )
        for name, index in indexes.items()
    ]
    hashes = {str(index.dataset.get("holdout_sha256")) for index in indexes.values()}
    odd = "These datasets were built under different hold-out lists: they must not be trained and evaluated together."
    return join((table(header, rows), paragraph(odd, "warning") if len(hashes) > 1 else Html("")))


def refusals(indexes: Mapping[str, ShardIndex]) -> Html:
    """What became of every row of every annotation file, for the page of a run."""
    outcomes: dict[str, int] = {}
    for index in indexes.values():
        for outcome, rows in table_of(index, "counts").items():
            outcomes[outcome] = outcomes.get(outcome, 0) + rows
    names = sorted(outcomes, key=lambda outcome: (outcome != "kept", -outcomes[outcome], outcome))
    if not names:
        return paragraph("These datasets do not say what became of their rows.", "muted")
    rows = []
    for name, index in indexes.items():
        found = table_of(index, "counts")
        rows.append((name, *(count(found[outcome]) if outcome in found else "–" for outcome in names)))
    lead = "Every row of every annotation file has one outcome; ledger.parquet beside the shards names each row."
    return join((paragraph(lead, "muted"), table(("dataset", *(n.replace("_", " ") for n in names)), rows)))


def _number(index: ShardIndex, field: str) -> int:
    value = index.dataset.get(field)
    return value if isinstance(value, int) else 0


def _said(value: object) -> str:
    return "–" if value is None or value == "" else str(value)
