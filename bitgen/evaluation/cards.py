"""One sample as a card: its picture as stored and as the model sees it, its words, and what a model made of them.

Every function takes a `Batch` of one image, so that what is shown is what went through the real crop, resize and
tokeniser. A phrase keeps its colour in all pictures and texts of its card.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bitgen.batch import Batch
from bitgen.boxes import aligned_overlap, enclose
from bitgen.evaluation.page import Html, count, join, size, text
from bitgen.evaluation.pictures import WHITE, Outline, framed, heat_uri, photo_uri, picture, tensor_uri
from bitgen.image import decode
from bitgen.record import Sample
from bitgen.record import Text as Words
from bitgen.tokens import Tokenizer

STORED_PX, SEEN_PX, HEAT_PX = 440, 340, 170
"""Longer sides on the page."""
HEAT_MAPS = 5
"""Phrases of a card whose heat-maps are shown, each in a picture of its own."""


@dataclass(frozen=True)
class Span:
    """Characters [start, stop) of a text in a phrase's colour."""

    start: int
    stop: int
    colour: int


@dataclass(frozen=True)
class Read:
    """A text as the model reads it: decoded from its tokens, its phrases from their token spans."""

    words: str
    spans: tuple[Span, ...]
    tokens: int


def sample_card(sample: Sample, image: bytes, batch: Batch, chosen: Sequence[int], tokenizer: Tokenizer) -> Html:
    """A sample of a dataset, beside what one draw makes of it.

    Args:
        image: the stored bytes. Raises `bitgen.image.DecodeError` where they are damaged.
        batch: the sample alone, as training or evaluation makes it.
        chosen: numbers of the sample's texts that are in `batch`, in its order.
    """
    colours = number_phrases([sample.texts[t] for t in chosen])
    stored = _stored(sample, image, chosen, colours)
    reads, outlines = _reads(batch, [sample.texts[t] for t in chosen], colours, tokenizer)
    side = batch.images.shape[-1]
    seen = picture(
        tensor_uri(batch.images[0]), side, side, outlines, says=f"{sample.key} as the model sees it", shown_px=SEEN_PX
    )
    x0, y0, x1, y1 = (f"{100 * c:.0f}" for c in batch.crops[0].tolist())
    whole = (x0, y0, x1, y1) == ("0", "0", "100", "100")
    part = "whole image" if whole else f"{x0}–{x1} % across, {y0}–{y1} % down"
    lost = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in batch.dropped.items() if n)
    caption = f"as the model sees it: {side} × {side} px, {part}" + (f"; left out: {lost}" if lost else "")
    heard = [
        Html(f"<li>{marked(read.words, read.spans)} <span class='muted'>{count(read.tokens)} tokens</span></li>")
        for read in reads
    ]
    left = join((framed(stored[0], stored[1]), stored[2]))
    right = join((framed(seen, caption), Html(f"<ul>{join(heard)}</ul>")))
    return _card(sample, f'<div class="half">{left}</div><div class="half">{right}</div>')


def grounding_card(sample: Sample, batch: Batch, boxes: Tensor, heat: Tensor, tokenizer: Tokenizer, label: str) -> Html:
    """What a model finds for the phrases of an image's first text with phrases.

    Args:
        batch: the whole image with all its texts.
        boxes: [P, 4] predicted, heat: [P, Q] logits, for the phrases of `batch`.
        label: of the set that the sample is from.
    """
    row = int(batch.phrase_text[0])
    asked = (batch.phrase_text == row).nonzero()[:, 0].tolist()
    side = batch.images.shape[-1]
    uri = tensor_uri(batch.images[0])
    small = photo_uri(batch.images[0])
    true = [batch.boxes[batch.box_phrase == phrase] for phrase in asked]
    iou = aligned_overlap(boxes, enclose(batch.boxes, batch.box_phrase, len(boxes)))
    ids = batch.token_ids[row].tolist()
    names = [tokenizer.decode(ids[slice(*batch.phrase_tokens[phrase].tolist())]).strip() for phrase in asked]
    outlines, maps, lines = [], [], []
    for colour, (phrase, name, targets) in enumerate(zip(asked, names, true, strict=True)):
        solid = [Outline(_corners(target), colour, name) for target in targets]
        dashed = Outline(_corners(boxes[phrase].clamp(0, 1)), colour, f"{name}, predicted", dashed=True)
        outlines += [*solid, dashed]
        hit = '<span class="yes">IoU ≥ 0.5</span>' if iou[phrase] >= 0.5 else '<span class="no">IoU &lt; 0.5</span>'
        lines.append(
            Html(
                f'<li><i class="swatch p{colour % 10}"></i>{text(name)} <span class="muted">'
                f"{iou[phrase].item():.2f}</span> {hit}</li>"
            )
        )
        if len(maps) < HEAT_MAPS:
            tint = heat_uri(heat[phrase])
            white = [Outline(_corners(target), WHITE, name) for target in targets]
            shown = picture(small, side, side, white, says=f"heat-map of {name}", shown_px=HEAT_PX, heat=tint)
            likeliest = heat[phrase].sigmoid().max().item()
            maps.append(framed(shown, f"{name}, at most {likeliest:.2f}"))
    main = picture(uri, side, side, outlines, says=f"{sample.key} with true and predicted boxes", shown_px=SEEN_PX)
    read = tokenizer.decode(ids)
    words = f"<h4>{text(read)}</h4><ul class='plain'>{join(lines)}</ul>"
    body = (
        f"<div>{framed(main, 'solid: true boxes; dashed: predicted')}</div>"
        f'<div class="words">{words}<div class="maps">{join(maps)}</div></div>'
    )
    return _card(sample, body, label)


def caption_card(
    sample: Sample, batch: Batch, caption: str, retrieved: Sequence[tuple[str, float, bool]], label: str
) -> Html:
    """What a model says of an image, and which texts of a gallery it finds for it.

    Args:
        retrieved: text, similarity and whether it is one of the image's own, best first.
    """
    side = batch.images.shape[-1]
    shown = picture(
        tensor_uri(batch.images[0]), side, side, [], says=f"{sample.key} as the model sees it", shown_px=260
    )
    own = join(Html(f"<li>{text(t.text)}</li>") for t in sample.texts[:5])
    found = join(
        Html(
            f'<li>{text(words)} <span class="muted">{score:.2f}</span> '
            f'<span class="{"yes" if right else "no"}">{"its own" if right else "another image’s"}</span></li>'
        )
        for words, score, right in retrieved
    )
    words = (
        f"<h4>Generated caption</h4><p>{text(caption) if caption.strip() else '<span class=muted>nothing</span>'}</p>"
        f"<h4>Its texts</h4><ul>{own}</ul><h4>Nearest texts</h4><ol>{found}</ol>"
    )
    return _card(sample, f'<div>{shown}</div><div class="words">{words}</div>', label)


def search_card(words: str, found: Sequence[tuple[Html, float, bool]], label: str) -> Html:
    """Which images of a gallery a model finds for a text.

    Args:
        found: a picture, its similarity and whether it is the text's own, best first.
    """
    shown = join(
        Html(
            f'<figure class="thumb">{shown}<figcaption><span class="muted">{score:.2f}</span> '
            f'<span class="{"yes" if right else "no"}">{"its own" if right else "another"}</span></figcaption></figure>'
        )
        for shown, score, right in found
    )
    return Html(
        f'<article class="card"><h3>{text(words)} <small>{text(label)}</small></h3><div class="sheet">{shown}</div></article>'
    )


def number_phrases(texts: Sequence[Words]) -> list[list[int]]:
    """A colour for every phrase of every text; phrases of the same words share one."""
    known: dict[str, int] = {}
    return [[known.setdefault(t.text[p.start : p.stop].strip().lower(), len(known)) for p in t.phrases] for t in texts]


def marked(words: str, spans: Sequence[Span]) -> Html:
    """A text whose spans are underlined in their colours; of spans that overlap the later ones are listed after it."""
    parts, inside, done = [], [], 0
    for span in sorted(spans, key=lambda s: (s.start, -s.stop)):
        if span.start < done:
            inside.append(Html(f" {_mark(words, span)}"))
            continue
        parts += [text(words[done : span.start]), _mark(words, span)]
        done = span.stop
    return join((*parts, text(words[done:]), *inside))


def match(phrases: Sequence[str], seen: Sequence[str]) -> list[int]:
    """Which of a text's phrases each phrase seen is, both in order, some of them having been dropped on the way.

    By equal words where possible, else the next one.
    """
    found: list[int] = []
    start = 0
    for words in seen:
        same = [n for n in range(start, len(phrases)) if phrases[n].strip() == words.strip()]
        found.append(same[0] if same else min(start, len(phrases) - 1))
        start = found[-1] + 1
    return found


def _stored(
    sample: Sample, image: bytes, chosen: Sequence[int], colours: Sequence[Sequence[int]]
) -> tuple[Html, str, Html]:
    pixels = decode(image)
    height, width = pixels.shape[1:]
    outlines, lines = [], []
    for t, its_colours in zip(chosen, colours, strict=True):
        words = sample.texts[t]
        spans = [Span(p.start, p.stop, c) for p, c in zip(words.phrases, its_colours, strict=True)]
        outlines += [
            Outline((b.x0, b.y0, b.x1, b.y1), colour, words.text[phrase.start : phrase.stop])
            for phrase, colour in zip(words.phrases, its_colours, strict=True)
            for b in phrase.boxes
        ]
        lines.append(Html(f"<li>{marked(words.text, spans)}</li>"))
    rest = len(sample.texts) - len(chosen)
    more = Html(f'<li class="muted">and {rest} more</li>') if rest else Html("")
    shown = picture(photo_uri(pixels), width, height, outlines, says=f"{sample.key} as stored", shown_px=STORED_PX)
    return shown, f"stored: {width} × {height} px, {size(len(image))}", Html(f"<ul>{join(lines)}{more}</ul>")


def _reads(
    batch: Batch, texts: Sequence[Words], colours: Sequence[Sequence[int]], tokenizer: Tokenizer
) -> tuple[list[Read], list[Outline]]:
    """The texts of `batch` from their tokens, and its boxes in the colours of their phrases."""
    reads, outlines = [], []
    for row, (words, its_colours) in enumerate(zip(texts, colours, strict=True)):
        ids = batch.token_ids[row][batch.token_mask[row]].tolist()
        numbers = (batch.phrase_text == row).nonzero()[:, 0].tolist()
        tokens = [batch.phrase_tokens[n].tolist() for n in numbers]
        seen = [tokenizer.decode(ids[start:stop]) for start, stop in tokens]
        which = match([words.text[p.start : p.stop] for p in words.phrases], seen)
        spans = []
        for number, (start, stop), name, original in zip(numbers, tokens, seen, which, strict=True):
            before, through = len(tokenizer.decode(ids[:start])), len(tokenizer.decode(ids[:stop]))
            spans.append(Span(before + len(name) - len(name.lstrip()), through, its_colours[original]))
            boxes = batch.boxes[batch.box_phrase == number]
            outlines += [Outline(_corners(box), its_colours[original], name.strip()) for box in boxes]
        reads.append(Read(tokenizer.decode(ids), tuple(spans), len(ids)))
    return reads, outlines


def _corners(box: Tensor) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box.tolist()
    return x0, y0, x1, y1


def _mark(words: str, span: Span) -> Html:
    return Html(f'<mark class="p{span.colour % 10}"><span>{text(words[span.start : span.stop])}</span></mark>')


def _card(sample: Sample, body: str, label: str = "") -> Html:
    said = " · ".join(part for part in (label, sample.source, sample.licence) if part)
    return Html(
        f'<article class="card"><h3>{text(sample.key)} <small>{text(said)}</small></h3><div class="pair">{body}</div></article>'
    )
