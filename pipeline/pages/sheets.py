"""Samples of a dataset: small ones side by side, and a few beside what the model sees of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitgen.batch import Batch, BatchError, Item, choose_texts, load, whole
from bitgen.evaluation.cards import sample_card
from bitgen.evaluation.page import Html, fold, join, paragraph, text
from bitgen.evaluation.sheet import sheet, thumbnail
from bitgen.image import Transform
from bitgen.pixels import DecodeError
from bitgen.record import RecordError, Sample
from bitgen.tokens import TokenError, shared_tokenizer
from bitgen.training.config import DataConfig
from bitgen.training.phases import PHASES
from bitgen.words import Words, words_of
from pipeline.pages.world import World
from shards.format import ShardError
from shards.index import ShardIndex

TEXTS_SHOWN = 6
"""Texts of an evaluation sample, which has no number of texts a step."""
CARDS = 8
"""Datasets of which one sample is shown as the model sees it."""
OPEN = 4
"""Datasets up to which that one is open to begin with."""


@dataclass(frozen=True)
class OneSample:
    """A plan of one position, as `bitgen.batch.load` takes it."""

    positions: tuple[int, ...]
    words: Words
    text_bucket: int = 256


def sheets_section(world: World, number: int) -> Html:
    """`number` samples of each dataset as thumbnails, and of the first `CARDS` one as the model sees it."""
    parts = [
        paragraph(
            f"Chosen by seed {world.seed}. Boxes are of the text under the picture, phrases in their colours.", "muted"
        )
    ]
    for n, each in enumerate(world.datasets):
        parts += [Html(f"<h3>{text(each.name)}</h3>"), contact_sheet(each.index, number, world.seed)]
        if n < CARDS:
            head = Html(f"One of {text(each.name)} as the model sees it")
            parts.append(fold(head, sample_cards(each.index, 1, world.seed), len(world.datasets) <= OPEN))
    return join(parts)


def contact_sheet(index: ShardIndex, number: int, seed: int) -> Html:
    """Thumbnails of samples that `seed` chooses; one that cannot be read gives a line that says why."""
    return sheet([_thumbnail(index, row) for row in rows_of(index, number, seed)])


def rows_of(index: ShardIndex, number: int, seed: int) -> list[int]:
    """Numbers of at most `number` samples, chosen by `seed`, in order."""
    return sorted(random.Random(f"{seed} {index.name}").sample(range(len(index)), min(number, len(index))))


def sample_cards(index: ShardIndex, number: int, seed: int, data: DataConfig | None = None) -> Html:
    """Some samples of a dataset, chosen by `seed`, as a run with `data` trains or evaluates on them; by default its phase."""
    phase = str(index.dataset.get("phase"))
    evaluates = index.dataset.get("role") == "eval"
    if data is None:
        data = PHASES[phase]().data if phase in PHASES else DataConfig()
    cut = "whole" if data.crop_scale_min == 1 else f"crops of at least {data.crop_scale_min:.0%} of the image"
    way = (
        f"as evaluation sees them: whole, {data.image_px} px"
        if evaluates
        else f"as training sees them in its first epoch: {data.image_px} px, {data.texts_per_image} texts an "
        f"image, {cut}"
    )
    cards = [sample_view(index, row, data, seed, evaluates) for row in rows_of(index, number, seed)]
    return join((paragraph(f"Left as stored; right {way}.", "muted"), *cards))


def sample_view(index: ShardIndex, row: int, data: DataConfig, seed: int, evaluates: bool) -> Html:
    """One sample's card; a sample that cannot be read gives a line that says why."""
    tokenizer = shared_tokenizer()
    try:
        sample, image = index.read(row)
        if evaluates:
            shown = tuple(range(min(len(sample.texts), TEXTS_SHOWN)))
            cut = replace(sample, texts=sample.texts[: len(shown)])
            batch = whole([(row, cut, image)], data.image_px, tokenizer)
        else:
            shown = choose_texts(len(sample.texts), 0, data.texts_per_image)
            batch = _training_view(row, sample, image, shown, data, seed)
        return sample_card(sample, image, batch, shown, tokenizer)
    except (BatchError, DecodeError, RecordError, ShardError, TokenError) as error:
        return paragraph(f"sample {index.key(row)} cannot be shown: {error}", "warning")


def _thumbnail(index: ShardIndex, row: int) -> Html:
    try:
        return thumbnail(*index.read(row))
    except (DecodeError, RecordError, ShardError) as error:
        return paragraph(f"sample {index.key(row)} cannot be shown: {error}", "warning")


def _training_view(row: int, sample: Sample, image: bytes, shown: Sequence[int], data: DataConfig, seed: int) -> Batch:
    item = Item.of(row, sample, image)
    made = load(
        lambda position, attempt: item,
        [OneSample((row,), words_of([sample.texts[t] for t in shown], shared_tokenizer()))],
        Transform(data.image_px, data.crop_scale_min),
        seed,
        workers=0,
        max_tokens=data.max_tokens,
    )
    return next(made)
