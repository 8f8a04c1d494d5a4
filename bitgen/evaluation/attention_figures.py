"""What `evaluate_attention` found: a card for each phrase, the same as PNG, and how much of each head's look lies in the box."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from math import isqrt
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bitgen.evaluation.attention import Looked
from bitgen.evaluation.charts import matrix_chart
from bitgen.evaluation.letters import wrapped
from bitgen.evaluation.page import Html, figure, join, share, text
from bitgen.evaluation.pictures import WHITE, Outline, framed, heat_uri, photo_uri, picture, tensor_uri

_SEEN_PX, _MAP_PX = 300, 132
_SHEET_PX, _GAP_PX, _LINE_PX = 176, 10, 20
"""Of a picture in a PNG, between two, and of a line of words."""
_RED, _BOX = (255, 40, 0), (255, 255, 255)


def attention_figures(found: Mapping[str, Any]) -> dict[str, Html]:
    """Each a `<figure>`, by a name fit for a file."""
    ways = found["ways"]
    heads = max(len(figures["in_box"]) for figures in ways.values())
    lines = [[*figures["in_box"], *[None] * (heads - len(figures["in_box"]))] for figures in ways.values()]
    controls = []
    for name in ("in_box", "shuffled"):
        several = [value for figures in ways.values() for value in figures.get(name, [])]
        controls.append(share(sum(several) / max(1, len(several))))
    small = f"percent; everywhere alike {share(found['area'])}, mean {controls[0]}, with other words {controls[1]}"
    title = f"Attention that lies in a phrase's boxes, of {found['phrases']:,} phrases"
    columns = [f"head {head}" for head in range(heads)]
    return {"attention-in-box": matrix_chart(title, lines, list(ways), columns, small=small, say=share, most=1)}


def attention_cards(looked: Sequence[Looked]) -> Html:
    """A card for each phrase: the image with the phrase's boxes, and each head's attention over it, a line for each way."""
    return join(_card(each) for each in looked)


def _card(looked: Looked) -> Html:
    side = looked.image.shape[-1]
    outlines = [Outline((x0, y0, x1, y1), WHITE, looked.phrase) for x0, y0, x1, y1 in looked.boxes.tolist()]
    uri, small = tensor_uri(looked.image), photo_uri(looked.image)
    main = framed(
        picture(uri, side, side, outlines, says=looked.key, shown_px=_SEEN_PX), f"“{looked.phrase}” in: {looked.words}"
    )
    lines = []
    for way, weights in looked.maps.items():
        maps = [
            framed(
                picture(small, side, side, outlines, says=f"{way}, head {head}", shown_px=_MAP_PX, heat=_tint(one)),
                f"head {head}, at most {figure(one.max().item(), '.2f')}",
            )
            for head, one in enumerate(weights)
        ]
        lines.append(Html(f'<h4>{text(way)}</h4><div class="maps heads">{join(maps)}</div>'))
    return Html(
        f'<article class="card"><h3>{text(looked.key)} <small>{text(looked.about)}</small></h3>'
        f'<div class="pair"><div class="asked">{main}</div><div class="words">{join(lines)}</div></div></article>'
    )


def _tint(weights: Tensor) -> str:
    """Attention [N] as a tint: the opacity is a patch's weight over the greatest one."""
    return heat_uri(weights.clamp(1e-12, 1 - 1e-7).logit())


def attention_png(looked: Looked) -> bytes:
    """The card as PNG."""
    heads = max(len(weights) for weights in looked.maps.values())
    step = _SHEET_PX + _GAP_PX
    width, font = _GAP_PX + (heads + 1) * step, ImageFont.load_default(size=13)
    said = (f"{looked.key} · {looked.about}", f"“{looked.phrase}” in: {looked.words}")
    rows = [row for each in said for row in wrapped(each, font, width - 2 * _GAP_PX)]
    top = (len(rows) + 1) * _LINE_PX
    paper = Image.new("RGB", (width, top + len(looked.maps) * (step + _LINE_PX) + _GAP_PX), "white")
    pen = ImageDraw.Draw(paper)
    for number, row in enumerate(rows):
        pen.text((_GAP_PX, 8 + number * _LINE_PX), row, fill="black", font=font)
    paper.paste(_drawn(looked, None), (_GAP_PX, top + _LINE_PX))
    for row, (way, weights) in enumerate(looked.maps.items()):
        y = top + row * (step + _LINE_PX)
        pen.text((_GAP_PX, y), way, fill="black", font=font)
        for head, one in enumerate(weights):
            x = _GAP_PX + (head + 1) * step
            pen.text((x, y), f"head {head}, at most {figure(one.max().item(), '.2f')}", fill="black", font=font)
            paper.paste(_drawn(looked, one), (x, y + _LINE_PX))
    file = BytesIO()
    paper.save(file, "PNG", optimize=True)
    return file.getvalue()


def _drawn(looked: Looked, weights: Tensor | None) -> Image.Image:
    """The image with the phrase's boxes, and under them a head's attention."""
    size = (_SHEET_PX, _SHEET_PX)
    shown = Image.fromarray(looked.image.permute(1, 2, 0).contiguous().numpy()).resize(size)
    if weights is not None:
        side = isqrt(len(weights))
        weights = weights.nan_to_num(0.0)
        opacity = (185 * weights / weights.max().clamp(min=1e-12)).reshape(side, side).round().to(torch.uint8)
        mask = Image.fromarray(opacity.numpy()).resize(size, Image.Resampling.BILINEAR)
        shown = Image.composite(Image.new("RGB", size, _RED), shown.convert("L").convert("RGB"), mask)
    pen = ImageDraw.Draw(shown)
    for box in looked.boxes.tolist():
        corners = [_SHEET_PX * each for each in box]
        pen.rectangle(corners, outline=(60, 60, 60), width=4)
        pen.rectangle(corners, outline=_BOX, width=2)
    return shown
