"""What a run shows of itself every N steps: some samples, always the same, and what the model makes of them now."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from bitgen.batch import Batch, BatchError, whole
from bitgen.evaluation.cards import caption_card, grounding_card, search_card
from bitgen.evaluation.grounding import encode, predict
from bitgen.evaluation.page import Html, document, join, paragraph, text
from bitgen.evaluation.phrases import text_rows
from bitgen.evaluation.pictures import photo_uri, picture
from bitgen.evaluation.ranking import Gallery
from bitgen.evaluation.retrieval import embed
from bitgen.evaluation.sheet import THUMBNAIL_PX
from bitgen.evaluation.vectors import plane_figure, similarity_figure
from bitgen.licences import may_leave
from bitgen.model.bitgen import BitGen
from bitgen.record import Sample
from bitgen.tokens import shared_tokenizer
from bitgen.training.config import TrainConfig
from bitgen.training.distributed import rank
from bitgen.training.loop import Show
from bitgen.training.metrics import Shown
from pipeline.validation import open_sets
from pipeline.wholes import spaced
from shards.root import Root

log = logging.getLogger(__name__)

SAMPLES, CARDS, NEAREST, TEXTS = 32, 4, 3, 5
"""Images in all; of them those with cards; what a search finds; texts of an image at most."""


@dataclass(frozen=True)
class _Member:
    sample: Sample
    batch: Batch
    """The sample alone."""
    set_name: str
    place: int
    """Among the members of its set."""

    @property
    def label(self) -> str:
        return " · ".join(filter(None, (self.set_name, self.sample.url)))


def shower(config: TrainConfig, model: BitGen, holdout_sha256: str, root: Root) -> Show | None:
    """The function that `train` calls for pictures; None where the configuration asks for none, and on ranks other than 0.

    Its samples, of the sets that the run validates on or else of those that it trains on, are read here, once; one that does not
    decode, or whose photograph is there already, is left out. Raises as `open_sets`, and what opening a set and reading a
    sample raise.
    """
    if not config.run.show_every or rank() != 0:
        return None
    trained = [name for name, weight in config.data.mixture.items() if weight]
    indexes = open_sets(config, holdout_sha256, root) or {name: root.open(name) for name in trained}
    members: list[_Member] = []
    photographs: set[int] = set()
    for name, index in indexes.items():
        for place, row in enumerate(spaced(len(index), max(1, SAMPLES // len(indexes)))):
            sample, image = index.read(row)
            sample = replace(sample, texts=sample.texts[:TEXTS])
            try:
                item = row, sample, image
                batch = whole([item], config.data.image_px, shared_tokenizer(), max_tokens=config.data.max_tokens)
            except BatchError as error:
                log.warning("not shown: %s", error)
                continue
            if (photograph := int(batch.image_ids[0])) not in photographs:
                photographs.add(photograph)
                members.append(_Member(sample, batch, name, place))
    if not members:
        log.warning("nothing to show: no sample of %s decodes", ", ".join(indexes))
        return None
    # The first have cards: some of each set, and of one under many licences such as others may see, too.
    members.sort(key=lambda member: (not may_leave(member.sample.licence), member.place))
    return lambda step: _show(config, model, members, step)


@torch.inference_mode()
def _show(config: TrainConfig, model: BitGen, members: Sequence[_Member], step: int) -> Shown:
    gallery = embed(model, [member.batch for member in members])
    captions = [model.caption(encode(model, member.batch))[0] for member in members[:CARDS]]
    phrased = [member for member in members if len(member.batch.phrase_text)][: CARDS * bool(config.loss.grounding)]
    grounded = [predict(model, encode(model, m.batch), text_rows(m.batch)) for m in phrased]

    def page(is_seen: Callable[[Sample], bool]) -> str:
        names = [member.sample.key for member in members]
        texts = gallery.texts[_first_texts(members)]
        figures = similarity_figure(gallery.images @ texts.T, names) + plane_figure(gallery.images, texts, names)
        tokenizer = shared_tokenizer()
        shown = [n for n in range(len(captions)) if is_seen(members[n].sample)]
        found = [
            caption_card(
                members[n].sample,
                members[n].batch,
                tokenizer.decode(captions[n]),
                _nearest_texts(gallery, members, n, is_seen),
                members[n].label,
            )
            for n in shown
        ]
        searched = [
            search_card(
                members[n].sample.texts[0].text, _nearest_images(gallery, members, n, is_seen), members[n].label
            )
            for n in shown
        ]
        boxes = [
            grounding_card(m.sample, m.batch, *prediction, tokenizer, m.label)
            for m, prediction in zip(phrased, grounded, strict=True)
            if is_seen(m.sample)
        ]
        sections = [("Similarity", Html(f'<div class="charts">{figures}</div>'))]
        cards = (("Captions and retrieved texts", found), ("Retrieved images", searched), ("Grounding", boxes))
        kept = paragraph("Kept back: none of these pictures is under a licence by which it may be passed on.", "muted")
        sections += [(name, join(each) or kept) for name, each in cards if name != "Grounding" or phrased]
        sets = ", ".join(dict.fromkeys(member.set_name for member in members))
        lead = (
            f"{len(members)} images of {sets}, the same at every step; each with its first text, in dual-encoder mode"
        )
        return document(f"{config.run.name}: step {step:,}", lead, sections, "made by bitgen-train")

    return Shown(page(lambda _: True), page(lambda sample: may_leave(sample.licence)))


def _first_texts(members: Sequence[_Member]) -> list[int]:
    """The row in the gallery of each member's first text."""
    rows, start = [], 0
    for member in members:
        rows.append(start)
        start += len(member.batch.token_ids)
    return rows


def _nearest_texts(
    gallery: Gallery, members: Sequence[_Member], n: int, is_seen: Callable[[Sample], bool]
) -> list[tuple[str, float, bool]]:
    owners = [member for member in members for _ in range(len(member.batch.token_ids))]
    words = [text.text for member in members for text in member.sample.texts]
    similarity = gallery.texts @ gallery.images[n]
    best = similarity.topk(min(NEAREST, len(words))).indices.tolist()
    return [
        (
            words[i] if is_seen(owners[i].sample) else f"(kept back: {owners[i].sample.key})",
            similarity[i].item(),
            bool(gallery.text_ids[i] == gallery.image_ids[n]),
        )
        for i in best
    ]


def _nearest_images(
    gallery: Gallery, members: Sequence[_Member], n: int, is_seen: Callable[[Sample], bool]
) -> list[tuple[Html, float, bool]]:
    similarity = gallery.images @ gallery.texts[_first_texts(members)[n]]
    best = similarity.topk(min(NEAREST, len(members))).indices.tolist()
    return [
        (_thumbnail(members[i], is_seen), similarity[i].item(), bool(gallery.image_ids[i] == gallery.image_ids[n]))
        for i in best
    ]


def _thumbnail(member: _Member, is_seen: Callable[[Sample], bool]) -> Html:
    if not is_seen(member.sample):
        return Html(f'<p class="muted">kept back: {text(member.sample.key)}</p>')
    pixels = member.batch.images[0]
    side = pixels.shape[-1]
    return picture(photo_uri(pixels), side, side, [], says=member.sample.key, shown_px=THUMBNAIL_PX)
