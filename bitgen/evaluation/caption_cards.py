"""Captions beside their images and what people wrote: some of the worst, of the middle and of the best of a set."""

import numpy as np

from bitgen.batch import Batch
from bitgen.evaluation.caption_scores import Scores, rouge_l, words
from bitgen.evaluation.page import Html, join, text
from bitgen.evaluation.pictures import photo_uri, picture
from bitgen.record import Sample

SHOWN_PX = 260
"""Of the longer side of a picture."""
TEXTS = 5
"""Of an image, at most."""


def spread(scores: Scores, count: int) -> list[int]:
    """Numbers of `count` images, or of all, evenly spaced from the highest to the lowest CIDEr-D; of equals the first first."""
    order = np.argsort(-scores.values[:, -1], kind="stable")
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)].tolist()


def scored_card(sample: Sample, batch: Batch, scores: Scores, number: int, label: str) -> Html:
    """What was said of an image and what it scored; the image's own texts, each with its ROUGE-L to the caption.

    Args:
        batch: the sample alone.
        number: of the image in `scores`.
        label: of the set.
    """
    caption = scores.captions[number]
    _, _, *_, rouge, cider = scores.values[number].tolist()
    said = words(caption)
    lines = join(
        Html(f'<li>{text(own.text)} <span class="muted">{rouge_l(said, [meant]):.2f}</span></li>')
        for own in sample.texts[:TEXTS]
        if (meant := words(own.text))
    )
    side = batch.images.shape[-1]
    shown = picture(
        photo_uri(batch.images[0]), side, side, [], says=f"{sample.key} as the model sees it", shown_px=SHOWN_PX
    )
    body = (
        f"<h4>Generated caption</h4><p>{text(caption) if said else '<span class=muted>nothing</span>'}</p>"
        f'<p class="muted">CIDEr-D × 100: {100 * cider:.0f}, ROUGE-L × 100: {100 * rouge:.0f}</p>'
        f"<h4>Its texts, with the ROUGE-L of each</h4><ul>{lines}</ul>"
    )
    about = text(" · ".join(part for part in (label, sample.source, sample.licence) if part))
    return Html(
        f'<article class="card"><h3>{text(sample.key)} <small>{about}</small></h3>'
        f'<div class="pair"><div>{shown}</div><div class="words">{body}</div></div></article>'
    )
