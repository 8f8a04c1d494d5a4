"""Everything that a data page tells of: the datasets under a folder, opened, measured, and held against each other."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from bitgen.progress import progress
from pipeline.building.chunks import PARTS
from pipeline.building.finished import evaluation_folders, read_images
from pipeline.holdout import SHIPPED, Looks
from pipeline.ledger import LEDGER, refused
from pipeline.manifest import ManifestError, Source, read_manifest
from pipeline.pages.figures import Figures, measure
from pipeline.pages.ledger import LedgerError, Scan, scan
from pipeline.pages.records import Records, quotas, read_records
from shards.format import ShardError
from shards.index import DATASET, ShardIndex

log = logging.getLogger(__name__)

ORDER = {"coarse": 0, "fine": 1, "eval": 2}


class PageError(Exception):
    """There is nothing here that a page could show."""


@dataclass(frozen=True)
class Dataset:
    """A finished dataset."""

    name: str
    """`coarse/coco-train`."""
    index: ShardIndex
    figures: Figures
    records: Records
    ledger: Scan | None
    problem: str
    """Why there is no ledger."""
    source: Source | None
    """As `manifests/` describes it; None for a manifest of the user's own."""

    @property
    def is_eval(self) -> bool:
        return self.index.dataset.get("role") == "eval"

    @property
    def counts(self) -> Counter[str]:
        """Rows of each outcome, as the build counted them; empty where it does not say."""
        return Counter(table_of(self.index, "counts"))

    @property
    def refused(self) -> int:
        """Rows that count against the ceiling."""
        return refused(self.counts).total()

    @property
    def ceiling(self) -> float | None:
        """Share of the rows that may be refused; None where neither the build nor `manifests/` says."""
        stated = self.index.dataset.get("refusal_ceiling")
        if isinstance(stated, int | float):
            return float(stated)
        return None if self.source is None else self.source.refusal_ceiling

    @property
    def size_bytes(self) -> int:
        """Of its shards."""
        return sum(shard["bytes"] for shard in self.index.dataset["shards"])

    @property
    def is_crawled(self) -> bool:
        """Whether its images came from URLs: `manifests/` says so, or an outcome that nothing else has."""
        return (self.source is not None and self.source.crawl) or any(is_of_crawl(each) for each in self.counts)


@dataclass(frozen=True)
class Unfinished:
    """A dataset that a build has begun."""

    shards: int
    """Shards that wait in `.parts`."""
    counts: Counter[str]
    """Rows of each outcome, where the build came as far as its ledger; a build that refused too much ends there."""


@dataclass(frozen=True)
class World:
    """A data folder."""

    path: Path
    """As the user named it."""
    shards: Path
    """Holds coarse/, fine/ and eval/."""
    datasets: tuple[Dataset, ...]
    unfinished: Mapping[str, Unfinished]
    damaged: Mapping[str, str]
    """By name, why a dataset cannot be opened."""
    missing: Mapping[str, tuple[str, ...]]
    """By manifest of `manifests/` of which something is built: its datasets that are not there."""
    looks_sha256: str
    """Of the evaluation images that are there now."""
    seed: int

    @property
    def is_root(self) -> bool:
        """Whether it is a whole data folder, not one dataset."""
        return not (self.path / DATASET).is_file()

    def of(self, is_eval: bool) -> list[Dataset]:
        """The datasets to evaluate on, or those to train on."""
        return [each for each in self.datasets if each.is_eval == is_eval]


def is_of_crawl(outcome: str) -> bool:
    """Whether only a crawl gives this outcome."""
    return outcome.startswith("http_") or outcome in CRAWL_OUTCOMES


CRAWL_OUTCOMES = (
    "timeout",
    "dns_error",
    "dns_timeout",
    "tls_error",
    "connection_error",
    "bad_url",
    "bad_answer",
    "cut_short",
    "redirects",
    "no_bytes",
    "opted_out",
    "private_address",
    "crawl_error",
    "left_alone",
    "not_crawled",
)


def read_world(path: Path, seed: int, records: int) -> World:
    """Opens and measures what `path` means: a dataset folder, or a data folder. Raises `PageError` where no dataset
    can be shown.

    Args:
        seed: which records are read.
        records: how many of them, over all datasets.
    """
    folders = {name_of(folder): folder for folder in dataset_folders(path)}
    unfinished = {name: _begun(folder) for name, folder in folders.items() if not (folder / DATASET).is_file()}
    indexes: dict[str, ShardIndex] = {}
    damaged: dict[str, str] = {}
    for name, folder in folders.items():
        if name not in unfinished:
            try:
                indexes[name] = ShardIndex.open(folder)
            except (ShardError, OSError) as error:
                damaged[name] = str(error)
    if not indexes:
        found = "; ".join([*damaged.values(), *(f"{name} is not finished" for name in unfinished)]) or "none"
        raise PageError(f"expected a finished dataset ({DATASET}), found {found}: {path}")
    sources = shipped_sources()
    several = quotas({name: len(index) for name, index in indexes.items()}, records)
    with progress("reading datasets", len(indexes), "datasets") as bar:
        datasets: list[Dataset] = []
        for name, index in indexes.items():
            datasets.append(_dataset(name, index, several[name], seed, sources))
            bar.update(1)
    shards = next(iter(indexes.values())).folder.resolve().parent.parent
    looks = _looks_sha256(shards)
    return World(path, shards, tuple(datasets), unfinished, damaged, _missing(folders, datasets, sources), looks, seed)


def dataset_folders(path: Path) -> list[Path]:
    """The dataset folders that `path` means: itself, or those under its shards/. Raises `PageError` without any."""
    if (path / DATASET).is_file():
        return [path]
    root = path / "shards" if (path / "shards").is_dir() else path
    found = [folder for folder in root.glob("*/*") if folder.is_dir() and folder.parent.name in ORDER]
    if not found:
        raise PageError(f"expected a dataset folder, a folder with shards/, or a run folder, found none: {path}")
    return sorted(found, key=lambda folder: (ORDER[folder.parent.name], folder.name))


def name_of(folder: Path) -> str:
    """`coarse/coco-train`."""
    folder = folder.resolve()
    return f"{folder.parent.name}/{folder.name}"


def table_of(index: ShardIndex, name: str) -> dict[str, int]:
    """The whole numbers under `name` in `dataset.json`; empty where it has none."""
    found = index.dataset.get(name)
    return {str(k): v for k, v in found.items() if isinstance(v, int)} if isinstance(found, dict) else {}


def shipped_sources() -> dict[tuple[str, str], Source]:
    """By manifest and dataset: what `manifests/` describes. A manifest that cannot be read is passed over."""
    found: dict[tuple[str, str], Source] = {}
    for path in sorted(SHIPPED.parent.glob("*.toml")):
        try:
            manifest = read_manifest(path)
        except ManifestError as error:
            log.warning("passed over: %s", error)
            continue
        found |= {(manifest.name, source.dataset): source for source in manifest.sources}
    return found


def _dataset(
    name: str, index: ShardIndex, records: int, seed: int, sources: Mapping[tuple[str, str], Source]
) -> Dataset:
    ledger, problem = None, ""
    try:
        ledger = scan(index.folder / LEDGER)
    except LedgerError as error:
        problem = str(error)
    return Dataset(
        name,
        index,
        measure(index.folder),
        read_records(index.folder, records, f"{seed} {name}"),
        ledger,
        problem,
        sources.get((str(index.dataset.get("manifest")), name)),
    )


def _begun(folder: Path) -> Unfinished:
    parts = folder / PARTS
    try:
        counts = scan(parts / LEDGER).counts
    except LedgerError:
        counts = Counter[str]()
    return Unfinished(len(list(parts.glob("*.tar"))), counts)


def _missing(
    folders: Iterable[str], datasets: Iterable[Dataset], sources: Mapping[tuple[str, str], Source]
) -> dict[str, tuple[str, ...]]:
    there, built = set(folders), {each.source.manifest for each in datasets if each.source is not None}
    return {
        manifest: absent
        for manifest in sorted(built)
        if (absent := tuple(name for made_by, name in sources if made_by == manifest and name not in there))
    }


def _looks_sha256(shards: Path) -> str:
    looks = Looks()
    for folder in evaluation_folders(shards):
        try:
            for image in read_images(folder):
                looks.add(image.sha256, image.look, folder.name)
        except (OSError, pa.ArrowException) as error:
            log.warning("its images are not compared: %s: %s", error, folder)
    return looks.sha256
