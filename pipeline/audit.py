"""All that is built, read from its first byte to its last, and held against what it promises.

What `shards/verify.py` finds in one dataset, and beyond it: that every row is in the ledger, that evaluation sets are
as large as published, and that nothing to train on shows an evaluation image: by every id in every record, and by the
bytes of every image.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from bitgen.progress import progress
from bitgen.record import Sample
from pipeline.annotations.ids import ids_of_url
from pipeline.building.finished import IMAGES, read_images
from pipeline.holdout import SHIPPED, is_val2017, read_ids
from pipeline.ledger import LEDGER
from shards.index import DATASET, ShardIndex
from shards.verify import Report, verify

log = logging.getLogger(__name__)


class AuditError(Exception):
    """What is built is whole, but not what it should be: names the dataset, and the sample where there is one."""


@dataclass(frozen=True)
class Published:
    """A count that the authors of a dataset published, and ours."""

    what: str
    """`images` or `rows`."""
    expected: int
    found: int | None
    """None where the dataset does not say."""


@dataclass(frozen=True)
class Audited:
    """A dataset that was read, and is whole."""

    name: str
    """Its folder under `shards/`."""
    report: Report
    published: tuple[Published, ...]

    @property
    def is_evaluation(self) -> bool:
        """Whether nothing of it may be trained on."""
        return _is_evaluation(self.name)


@dataclass(frozen=True)
class Audit:
    """What was read and compared; nothing was wrong with it."""

    datasets: tuple[Audited, ...]
    listed_ids: int
    """Of the lists that ship."""
    evaluation_ids: int
    """In the records of evaluation sets."""
    linked_ids: int
    """Others of `blocked`: of the same photographs."""

    def table(self) -> str:
        """A line for every dataset: what it holds, and what was published of it."""
        import pandas as pd  # a third of a second that others do not spend

        def line(each: Audited) -> dict[str, str]:
            counts = {name: f"{getattr(each.report, name):,}" for name in ("samples", "texts", "phrases", "boxes")}
            published = ", ".join(f"{count.expected:,} {count.what}" for count in each.published)
            size = {"shards": f"{each.report.shards:,}", "MB": f"{each.report.size_bytes / 1e6:,.1f}"}
            return {"dataset": each.name} | counts | size | {"as published": published}

        return pd.DataFrame([line(each) for each in self.datasets]).to_string(index=False)

    def holdout(self) -> str:
        """One line: what of evaluation was compared with what is trained on."""
        images = [each.report.samples for each in self.datasets if each.is_evaluation]
        samples = sum(each.report.samples for each in self.datasets) - sum(images)
        linked = f", {self.linked_ids:,} more of the same photographs" if self.linked_ids else ""
        ids = f"{self.listed_ids:,} listed ids, {self.evaluation_ids:,} ids of {len(images):,} evaluation sets{linked}"
        compared = f"{ids} and the bytes of their {sum(images):,} images"
        return f"{compared} against {samples:,} training samples: none in common"


def audit(
    shards: Path,
    *,
    images: bool = True,
    blocked: Iterable[str] = (),
    lists: Path = SHIPPED,
    done: Callable[[Audited], object] | None = None,
) -> Audit:
    """Reads every dataset under `shards`, evaluation first.

    Args:
        images: decode every image too.
        blocked: further ids that may not be trained on. A record says under which ids it knows its image: that image
            7 of Visual Genome is COCO's 42 no record of GQA says, but the build's `BlockList.ids` does.
        lists: a folder of lists of evaluation images.
        done: told of each dataset once it is read.

    Raises `AuditError` at the first evaluation image among what is trained on, where a ledger or a list of images is
    not of its dataset, and, at the very end, for counts that are not as published; `ShardError` at the first damage;
    `HoldoutError` for a list that cannot be read. Memory grows with the evaluation sets alone.
    """
    folders = {path.parent.relative_to(shards).as_posix(): path.parent for path in shards.glob(f"*/*/{DATASET}")}
    if not folders:
        raise AuditError(f"expected built datasets, found none: {shards}; run bitgen-shards")
    known, audited = _Evaluation(), list[Audited]()

    def read(name: str, see: _See) -> None:
        audited.append(_read(name, folders[name], see, images))
        if done is not None:
            done(audited[-1])

    for name in sorted(name for name in folders if _is_evaluation(name)):
        read(name, known.add)
    evaluation_ids = len(known.ids)
    listed = {id: path.name for path in sorted(lists.glob("*.txt")) for id in read_ids(path)}
    known.ids = listed | known.ids
    linked = set(blocked) - known.ids.keys()
    known.ids |= dict.fromkeys(linked, "an evaluation image, by the block list")
    for name in sorted(name for name in folders if not _is_evaluation(name)):
        read(name, known.refuse)
    _check_published(audited)
    return Audit(tuple(audited), len(listed), evaluation_ids, len(linked))


def _is_evaluation(name: str) -> bool:
    return name.startswith("eval/")


class _Evaluation:
    """What nothing to train on may show."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        """Whose each is, for a person."""
        self.digests: dict[str, str] = {}
        """Likewise, of images as they came and as they are stored."""

    def add(self, whose: str, sha256: str, ids: Iterable[str] = (), url: str = "") -> None:
        """One image of an evaluation dataset."""
        self.digests.setdefault(sha256, whose)
        for id in (*ids, *ids_of_url(url)):
            self.ids.setdefault(id, whose)

    def refuse(self, whose: str, sha256: str, ids: Iterable[str] = (), url: str = "") -> None:
        """Raises `AuditError` where an image of a training dataset is an evaluation image."""
        found = [f"{id} of {self.ids[id]}" for id in (*ids, *ids_of_url(url)) if id in self.ids]
        if is_val2017((url,)):
            found.append(f"COCO val2017 at {url}")
        if sha256 in self.digests:
            found.append(f"the bytes of {self.digests[sha256]}")
        if found:
            raise AuditError(f"expected no evaluation image to train on, found {found[0]}: {whose}")


class _See(Protocol):
    """What is told of every image: whose it is ("dataset key"), its digest and, of a record, its ids and URL."""

    def __call__(self, whose: str, sha256: str, ids: Iterable[str] = (), url: str = "") -> None: ...


def _read(name: str, folder: Path, see: _See, images: bool) -> Audited:
    """Reads one dataset; `see` is told of every image twice, as it is stored and as it came."""
    index = ShardIndex.open(folder)
    with progress(f"{name}: reading", len(index), "samples") as bar:

        def seen(sample: Sample) -> None:
            see(f"{name} {sample.key}", sample.sha256, sample.ids, sample.url)
            bar.update(1)

        report = verify(folder, images, seen)
    for key, sha256 in _came(index):
        see(f"{name} {key}", sha256)
    return Audited(name, report, _published(name, index, report))


def _came(index: ShardIndex) -> Iterator[tuple[str, str]]:
    """Key and digest of every image as it came."""
    path = index.folder / IMAGES
    if not path.exists():
        log.warning("%s has no %s: its images as they came are compared with none", index.name, IMAGES)
        return
    found = -1
    try:
        for found, image in enumerate(read_images(index.folder)):
            if found >= len(index) or image.key != index.key(found):
                raise AuditError(f"expected the images of its shards in order, found {image.key}: {path}, row {found}")
            yield image.key, image.sha256
    except (pa.ArrowException, OSError) as error:
        raise AuditError(f"expected a list of images, {error}: {path}") from error
    if found + 1 != len(index):
        raise AuditError(f"expected {len(index)} images, found {found + 1}: {path}")


def _outcomes(path: Path) -> Counter[str]:
    """Rows of each outcome in a ledger."""
    counts: Counter[str] = Counter()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["outcome"]):
            counts.update(batch.column(0).to_pylist())
    return counts


def _published(name: str, index: ShardIndex, report: Report) -> tuple[Published, ...]:
    """The published counts, with those of the ledger: of an evaluation set what can be evaluated on, of a training set
    all that there is. Raises `AuditError` where the ledger, or the shards, are not what `dataset.json` says."""
    said, path = Counter(_numbers(index, "counts")), index.folder / LEDGER
    if path.exists() or said:
        try:
            outcomes = _outcomes(path)
        except (pa.ArrowException, OSError) as error:
            raise AuditError(f"expected a ledger, {error}: {path}") from error
        if outcomes != said:
            raise AuditError(
                f"expected rows {dict(sorted(said.items()))}, found {dict(sorted(outcomes.items()))}: {path}"
            )
    evaluated = said["kept"] + said["duplicate"]
    found: dict[str, int | None] = {"rows": evaluated if _is_evaluation(name) else said.total()}
    found["images"] = images = _numbers(index, "counted").get("images")
    if images is not None:
        # An image whose bytes another has too is counted, and is no sample: its rows are duplicates.
        most = report.samples + said["duplicate"] if _is_evaluation(name) else max(images, report.samples)
        if not report.samples <= images <= most:
            where = index.folder / DATASET
            raise AuditError(f"expected {report.samples} to {most} images counted, found {images}: {where}")
    published = _numbers(index, "published")
    return tuple(Published(what, expected, found.get(what)) for what, expected in published.items())


def _numbers(index: ShardIndex, field: str) -> dict[str, int]:
    """A table of `dataset.json`; empty where it has none. Raises `AuditError` for anything else."""
    table = index.dataset.get(field, {})
    if not isinstance(table, dict) or any(type(count) is not int for count in table.values()):
        raise AuditError(f"expected numbers as {field}, found {table!r:.80}: {index.folder / DATASET}")
    return table


def _check_published(audited: Iterable[Audited]) -> None:
    """Raises `AuditError` with all counts that are not as published."""
    wrong = [
        f"expected {count.expected:,} {count.what} of {each.name} as published,"
        f" found {'no count' if count.found is None else f'{count.found:,}'}"
        for each in audited
        for count in each.published
        if count.found != count.expected
    ]
    if wrong:
        raise AuditError("; ".join(wrong))
