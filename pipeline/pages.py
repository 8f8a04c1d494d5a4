"""Datasets on disk become a page: counts, refusals by reason, samples as stored and as the model sees them."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bitgen.batch import Batch, BatchError, Item, choose_texts, load, whole
from bitgen.evaluation.cards import sample_card
from bitgen.evaluation.page import Html, count, document, facts, join, paragraph, size, table
from bitgen.image import DecodeError, Transform
from bitgen.record import RecordError
from bitgen.tokens import TokenError, shared_tokenizer
from bitgen.training.config import DataConfig
from bitgen.training.phases import PHASES
from shards.format import ShardError
from shards.index import DATASET, ShardIndex

TEXTS_SHOWN = 6
"""Texts of an evaluation sample, which has no number of texts a step."""


class PageError(Exception):
    """There is nothing here that a page could show."""


@dataclass(frozen=True)
class OneSample:
    """A plan of one position, as `bitgen.batch.load` takes it."""

    positions: tuple[int, ...]
    text_bucket: int = 256


def data_page(path: Path, samples: int, seed: int) -> str:
    """The page of a dataset folder, or of a data root with shards/.

    Args:
        samples: pictures over all datasets, at least one each.
        seed: which samples, and which crops.
    """
    folders = dataset_folders(path)
    indexes = {_name(folder): ShardIndex.open(folder) for folder in folders if (folder / DATASET).is_file()}
    unfinished = [_name(folder) for folder in folders if not (folder / DATASET).is_file()]
    if not indexes:
        raise PageError(f"expected a finished dataset ({DATASET}), found {unfinished or 'none'}: {path}")
    each = max(1, samples // len(indexes))
    sections = [
        ("Counts", join((totals(indexes), counts(indexes), _unfinished(unfinished)))),
        ("Refusals", refusals(indexes)),
        *((f"Samples of {name}", sample_cards(index, each, seed)) for name, index in indexes.items()),
    ]
    title = f"Data: {next(iter(indexes))}" if len(indexes) == 1 else f"Data: {len(indexes)} datasets"
    return document(title, f"{path}, {each} samples of each dataset, seed {seed}", sections, "made by bitgen-show")


def dataset_folders(path: Path) -> list[Path]:
    """The dataset folders that `path` means: itself, or those under its shards/. Raises `PageError` without any."""
    if (path / DATASET).is_file():
        return [path]
    root = path / "shards" if (path / "shards").is_dir() else path
    order = {"coarse": 0, "fine": 1, "eval": 2}
    found = [folder for folder in root.glob("*/*") if folder.is_dir() and folder.parent.name in order]
    if not found:
        raise PageError(f"expected a dataset folder, a folder with shards/, or a run folder, found none: {path}")
    return sorted(found, key=lambda folder: (order[folder.parent.name], folder.name))


def totals(indexes: Mapping[str, ShardIndex]) -> Html:
    values = list(indexes.values())
    return facts(
        {
            "datasets": count(len(values)),
            "samples": count(sum(len(i) for i in values)),
            "texts": count(sum(_number(i, "texts") for i in values)),
            "phrases": count(sum(_number(i, "phrases") for i in values)),
            "boxes": count(sum(_number(i, "boxes") for i in values)),
            "on disk": size(sum(_bytes(i) for i in values)),
        }
    )


def counts(indexes: Mapping[str, ShardIndex]) -> Html:
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
            size(_bytes(index)),
            str(index.dataset.get("holdout_sha256", "–"))[:12],
        )
        for name, index in indexes.items()
    ]
    hashes = {str(index.dataset.get("holdout_sha256")) for index in indexes.values()}
    odd = "These datasets were built under different hold-out lists: they must not be trained and evaluated together."
    return join((table(header, rows), paragraph(odd, "warning") if len(hashes) > 1 else Html("")))


def refusals(indexes: Mapping[str, ShardIndex]) -> Html:
    """What became of every row of every annotation file."""
    outcomes: dict[str, int] = {}
    for index in indexes.values():
        for outcome, rows in _counts(index).items():
            outcomes[outcome] = outcomes.get(outcome, 0) + rows
    names = sorted(outcomes, key=lambda outcome: (outcome != "kept", -outcomes[outcome], outcome))
    if not names:
        return paragraph("These datasets do not say what became of their rows.", "muted")
    rows = []
    for name, index in indexes.items():
        found = _counts(index)
        rows.append((name, *(count(found[outcome]) if outcome in found else "–" for outcome in names)))
    lead = "Every row of every annotation file has one outcome; ledger.parquet beside the shards names each row."
    return join((paragraph(lead, "muted"), table(("dataset", *(n.replace("_", " ") for n in names)), rows)))


def sample_cards(index: ShardIndex, number: int, seed: int, data: DataConfig | None = None) -> Html:
    """Some samples of a dataset, chosen by `seed`, as a run with `data` trains or evaluates on them; by default its phase."""
    phase = str(index.dataset.get("phase"))
    evaluates = index.dataset.get("role") == "eval"
    if data is None:
        data = PHASES[phase]().data if phase in PHASES else DataConfig()
    rows = sorted(random.Random(f"{seed} {index.name}").sample(range(len(index)), min(number, len(index))))
    cut = "whole" if data.crop_scale_min == 1 else f"crops of at least {data.crop_scale_min:.0%} of the image"
    way = (
        f"as evaluation sees them: whole, {data.image_px} px"
        if evaluates
        else f"as training sees them in its first epoch: {data.image_px} px, {data.texts_per_image} texts an "
        f"image, {cut}"
    )
    cards = [sample_view(index, row, data, seed, evaluates) for row in rows]
    return join((paragraph(f"Left as stored; right {way}.", "muted"), *cards))


def sample_view(index: ShardIndex, row: int, data: DataConfig, seed: int, evaluates: bool) -> Html:
    """One sample's card; a sample that cannot be read gives a line that says why."""
    tokenizer = shared_tokenizer()
    try:
        sample, image = index.read(row)
        if evaluates:
            shown = tuple(range(min(len(sample.texts), TEXTS_SHOWN)))
            batch = whole(
                [Item(row, 0, replace(sample, texts=sample.texts[: len(shown)]), image)], data.image_px, tokenizer
            )
        else:
            shown = choose_texts(len(sample.texts), 0, data.texts_per_image)
            batch = _training_view(index, row, data, seed)
        return sample_card(sample, image, batch, shown, tokenizer)
    except (BatchError, DecodeError, RecordError, ShardError, TokenError) as error:
        return paragraph(f"sample {index.key(row)} cannot be shown: {error}", "warning")


def _training_view(index: ShardIndex, row: int, data: DataConfig, seed: int) -> Batch:
    made = load(
        lambda position, attempt: Item(position, 0, *index.read(position)),
        [OneSample((row,))],
        Transform(data.image_px, data.crop_scale_min),
        shared_tokenizer(),
        data.texts_per_image,
        seed,
        workers=0,
        max_tokens=data.max_tokens,
    )
    return next(made)


def _name(folder: Path) -> str:
    folder = folder.resolve()
    return f"{folder.parent.name}/{folder.name}"


def _unfinished(names: list[str]) -> Html:
    if not names:
        return Html("")
    return paragraph(f"Not finished, so not shown: {', '.join(names)}. Building again goes on with them.", "warning")


def _number(index: ShardIndex, field: str) -> int:
    value = index.dataset.get(field)
    return value if isinstance(value, int) else 0


def _bytes(index: ShardIndex) -> int:
    return sum(shard["bytes"] for shard in index.dataset["shards"])


def _counts(index: ShardIndex) -> dict[str, int]:
    found = index.dataset.get("counts")
    return {str(k): v for k, v in found.items() if isinstance(v, int)} if isinstance(found, dict) else {}
