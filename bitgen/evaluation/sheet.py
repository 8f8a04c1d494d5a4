"""Contact sheets: many small pictures with their boxes, a text under each."""

import io
from base64 import b64encode
from collections.abc import Iterable

from PIL import Image

from bitgen.evaluation.cards import Span, marked, number_phrases
from bitgen.evaluation.page import Html, join, text
from bitgen.evaluation.pictures import Outline, picture
from bitgen.pixels import rgb
from bitgen.record import Sample
from bitgen.record import Text as Words

THUMBNAIL_PX = 176
"""Longer side on the page."""
_STORED_PX = 240
"""Longer side in the page's bytes, for screens of a higher density: about 10 kB."""
LONGEST = 150
"""Characters of a text that are shown."""


def sheet(pictures: Iterable[Html]) -> Html:
    """Thumbnails side by side."""
    return Html(f'<div class="sheet">{join(pictures)}</div>')


def thumbnail(sample: Sample, image: bytes) -> Html:
    """A sample's picture; under it its first text with phrases, else its first, the boxes of which are drawn.

    Raises `bitgen.pixels.DecodeError` where `image` is damaged.
    """
    chosen = next((each for each in sample.texts if each.phrases), sample.texts[0])
    colours = number_phrases([chosen])[0]
    outlines = [
        Outline((b.x0, b.y0, b.x1, b.y1), colour, chosen.text[phrase.start : phrase.stop])
        for phrase, colour in zip(chosen.phrases, colours, strict=True)
        for b in phrase.boxes
    ]
    uri, (width, height) = thumbnail_uri(image)
    more = len(sample.texts) - 1
    others = Html(f' <span class="muted">and {more} more</span>') if more else Html("")
    shown = picture(uri, width, height, outlines, says=sample.key, shown_px=THUMBNAIL_PX)
    return Html(
        f'<figure class="thumb" title="{text(sample.key)}">{shown}<figcaption>{_shortened(chosen, colours)}{others}'
        f"</figcaption></figure>"
    )


def captioned(image: bytes, says: str) -> Html:
    """A picture without boxes, and a line under it. Raises as `thumbnail` does."""
    uri, (width, height) = thumbnail_uri(image)
    shown = picture(uri, width, height, [], says=says, shown_px=THUMBNAIL_PX)
    return Html(f'<figure class="thumb">{shown}<figcaption class="muted">{text(says)}</figcaption></figure>')


def thumbnail_uri(image: bytes) -> tuple[str, tuple[int, int]]:
    """Encoded bytes as a small JPEG for a page, and its width and height in pixels. Raises `DecodeError`."""
    shown = Image.fromarray(rgb(image))
    shown.thumbnail((_STORED_PX, _STORED_PX))
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=75, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}", shown.size


def _shortened(words: Words, colours: list[int]) -> Html:
    """A text with its phrases marked; a long one is cut between words, and not within a phrase."""
    cut = len(words.text)
    if cut > LONGEST:
        cut = words.text.rfind(" ", 0, LONGEST + 1)
        cut = min([cut, *(p.start for p in words.phrases if p.start < cut < p.stop)])
        cut = cut if cut > 0 else LONGEST
    spans = [Span(p.start, p.stop, c) for p, c in zip(words.phrases, colours, strict=True) if p.stop <= cut]
    dots = "…" if cut < len(words.text) else ""
    return join((marked(words.text[:cut].rstrip(), spans), Html(dots)))
