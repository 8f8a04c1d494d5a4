"""What a model makes of some images of the sets that it was trained on and kept from, as sections of a page."""

import random
from collections.abc import Mapping
from dataclasses import replace

import torch

from bitgen.batch import BatchError
from bitgen.evaluation.cards import caption_card, grounding_card
from bitgen.evaluation.grounding import encode, predict
from bitgen.evaluation.page import Html, join, paragraph
from bitgen.evaluation.phrases import text_rows
from bitgen.evaluation.retrieval import embed
from bitgen.model.bitgen import BitGen
from bitgen.record import Sample
from bitgen.tokens import shared_tokenizer
from bitgen.training.config import TrainConfig
from pipeline.measuring import tasks_of
from pipeline.sets import Sets
from pipeline.wholes import batches, spaced
from shards.format import ShardError
from shards.index import ShardIndex

GALLERY = 256
"""Images whose texts are searched for the nearest ones; a whole COCO would take minutes for a picture."""
NEAREST = 3


def predictions(model: BitGen, config: TrainConfig, sets: Sets, samples: int, seed: int) -> list[tuple[str, Html]]:
    """Grounded phrases and captions on about `samples` images, half of them trained on; sections without any are left out."""
    parts = (("trained on", sets.train), ("held out", sets.heldout))
    grounded: list[Html] = []
    captioned: list[Html] = []
    for label, indexes in parts:
        grounded += _over(indexes, "grounding", model, config, label, samples, seed)
        captioned += _over(indexes, "retrieval", model, config, label, samples, seed)
    found = []
    if grounded:
        lead = (
            "Boxes are drawn on the image as the model sees it. A heat-map's tint is its probability over its greatest, "
            "which stands under it."
        )
        found.append(("Grounding", join((paragraph(lead, "muted"), *grounded))))
    if captioned:
        lead = (
            f"Captions are decoded greedily with an empty memory; texts are searched among those of up to {GALLERY} "
            "images of the same set, by the dual encoder alone."
        )
        found.append(("Captions and retrieval", join((paragraph(lead, "muted"), *captioned))))
    return found


def _over(
    indexes: Mapping[str, ShardIndex],
    task: str,
    model: BitGen,
    config: TrainConfig,
    label: str,
    samples: int,
    seed: int,
) -> list[Html]:
    fitting = {name: index for name, index in indexes.items() if task in tasks_of(index)}
    cards = []
    for name, index in fitting.items():
        number = max(1, samples // 4 // len(fitting))
        rows = random.Random(f"{seed} {name} {task}").sample(range(len(index)), min(number, len(index)))
        make = ground_cards if task == "grounding" else caption_cards
        try:
            cards += make(model, config, index, sorted(rows), f"{label}, {name}")
        except (BatchError, ShardError) as error:
            cards.append(paragraph(f"{name} cannot be shown: {error}", "warning"))
    return cards


def ground_cards(model: BitGen, config: TrainConfig, index: ShardIndex, rows: list[int], label: str) -> list[Html]:
    """A card for each row: the phrases of its first text that has some."""
    tokenizer = shared_tokenizer()
    cards = []
    for row, batch in zip(rows, batches(index, rows, config.data.image_px, config.data.max_tokens, 1), strict=True):
        if len(batch.phrase_text):
            boxes, heat = predict(model, encode(model, batch), text_rows(batch))
            cards.append(grounding_card(index.read(row)[0], batch, boxes, heat, tokenizer, label))
    return cards


@torch.inference_mode()
def caption_cards(model: BitGen, config: TrainConfig, index: ShardIndex, rows: list[int], label: str) -> list[Html]:
    """A card for each row: a caption, and the nearest texts of a gallery that holds the row's own."""
    tokenizer = shared_tokenizer()
    side, most = config.data.image_px, config.data.max_tokens
    members = sorted({*spaced(len(index), GALLERY), *rows})
    gallery = embed(model, batches(index, members, side, most, 64))
    samples = {row: index.read(row)[0] for row in members}
    texts = [text.text for row in members for text in samples[row].texts]
    cards = []
    for row, batch in zip(rows, batches(index, rows, side, most, 1), strict=True):
        image = encode(model, batch)
        similarity = gallery.texts @ image.embedding[0].float().cpu()
        best = similarity.topk(min(NEAREST, len(texts))).indices.tolist()
        own = batch.image_ids[0]
        retrieved = [(texts[i], similarity[i].item(), bool(gallery.text_ids[i] == own)) for i in best]
        caption = tokenizer.decode(model.caption(image)[0])
        cards.append(caption_card(_shortened(samples[row]), batch, caption, retrieved, label))
    return cards


def _shortened(sample: Sample) -> Sample:
    return replace(sample, texts=sample.texts[:5])
