"""Captions beside their images and what people wrote: some of the worst, of the middle and of the best of a set."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bitgen.batch import Batch
from bitgen.evaluation.caption_scores import Scores, rouge_l, words
from bitgen.evaluation.letters import wrapped
from bitgen.evaluation.page import Html, join, text
from bitgen.evaluation.pictures import photo_uri, picture
from bitgen.licences import may_leave
from bitgen.record import Sample

SHOWN_PX = 260
"""Of the longer side of a picture."""
TEXTS = 5
"""Of an image, at most."""
_PNG_PX, _SIDE_PX, _GAP_PX, _TEXT_PX = 1120, 400, 24, 22
"""Of a PNG: its width, the side of the picture in it, what lies between things, and the height of letters."""
_INK, _MUTED = (27, 31, 36), (95, 107, 122)


@dataclass(frozen=True)
class Captioned:
    """What was said of an image, what people wrote, and what the caption scored."""

    key: str
    about: str
    """Its set, source and licence."""
    image: Tensor
    """[3, S, S] uint8, as the model sees it."""
    caption: str
    """Empty where it has no word."""
    cider_d: float
    rouge_l: float
    texts: tuple[tuple[str, float], ...]
    """The image's own, `TEXTS` at most, each with its ROUGE-L to the caption."""
    may_leave: bool
    """Whether its licence lets anybody pass the picture on (`bitgen.licences`)."""

    @property
    def scores(self) -> str:
        return f"CIDEr-D × 100: {100 * self.cider_d:.0f}, ROUGE-L × 100: {100 * self.rouge_l:.0f}"


def spread(scores: Scores, count: int) -> list[int]:
    """Numbers of `count` images, or of all, evenly spaced from the highest to the lowest CIDEr-D; of equals the first first."""
    order = np.argsort(-scores.values[:, -1], kind="stable")
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)].tolist()


def captioned(sample: Sample, batch: Batch, scores: Scores, number: int, label: str) -> Captioned:
    """What was said of an image, and what it scored.

    Args:
        batch: the sample alone.
        number: of the image in `scores`.
        label: of the set.
    """
    *_, rouge, cider = scores.values[number].tolist()
    said = words(scores.captions[number])
    own = [(each.text, meant) for each in sample.texts[:TEXTS] if (meant := words(each.text))]
    return Captioned(
        key=sample.key,
        about=said_of(sample, label),
        image=batch.images[0],
        caption=scores.captions[number] if said else "",
        cider_d=cider,
        rouge_l=rouge,
        texts=tuple((words_, rouge_l(said, [meant])) for words_, meant in own),
        may_leave=may_leave(sample.licence),
    )


def said_of(sample: Sample, label: str) -> str:
    """Its set by `label`, its source and its licence."""
    return " · ".join(part for part in (label, sample.source, sample.licence) if part)


def caption_card(found: Captioned) -> Html:
    """For a page."""
    side = found.image.shape[-1]
    says = f"{found.key} as the model sees it"
    shown = picture(photo_uri(found.image), side, side, [], says=says, shown_px=SHOWN_PX)
    lines = join(Html(f'<li>{text(own)} <span class="muted">{score:.2f}</span></li>') for own, score in found.texts)
    body = (
        f"<h4>Generated caption</h4><p>{text(found.caption) or '<span class=muted>nothing</span>'}</p>"
        f'<p class="muted">{text(found.scores)}</p>'
        f"<h4>Its texts, with the ROUGE-L of each</h4><ul>{lines}</ul>"
    )
    return Html(
        f'<article class="card"><h3>{text(found.key)} <small>{text(found.about)}</small></h3>'
        f'<div class="pair"><div>{shown}</div><div class="words">{body}</div></div></article>'
    )


def caption_png(found: Captioned) -> bytes:
    """The card as PNG, as high as its words need, in Pillow's own font."""
    font = ImageFont.load_default(size=_TEXT_PX)
    left, line = 2 * _GAP_PX + _SIDE_PX, round(1.45 * _TEXT_PX)
    parts = [("Generated caption", _MUTED), (found.caption or "nothing", _INK), (found.scores, _MUTED), ("", _INK)]
    parts.append(("Its texts, with the ROUGE-L of each", _MUTED))
    parts += [(f"{own} ({score:.2f})", _INK) for own, score in found.texts]
    rows = [(row, colour) for said, colour in parts for row in wrapped(said, font, _PNG_PX - left - _GAP_PX)]
    heads = [(row, _MUTED) for row in wrapped(f"{found.key} · {found.about}", font, _PNG_PX - 2 * _GAP_PX)]
    top = 2 * _GAP_PX + line * len(heads)
    paper = Image.new("RGB", (_PNG_PX, top + max(_SIDE_PX, line * len(rows)) + _GAP_PX), "white")
    shown = Image.fromarray(found.image.permute(1, 2, 0).contiguous().cpu().numpy())
    paper.paste(shown.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC), (_GAP_PX, top))
    pen = ImageDraw.Draw(paper)
    for x, y, written in ((_GAP_PX, _GAP_PX, heads), (left, top, rows)):
        for number, (row, colour) in enumerate(written):
            pen.text((x, y + number * line), row, fill=colour, font=font)
    file = BytesIO()
    paper.save(file, "PNG", optimize=True)
    return file.getvalue()
