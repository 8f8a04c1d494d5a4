"""What `RESULTS.md` says of `results/learn.json`, and the curves beside it."""

from collections.abc import Iterator, Mapping
from typing import Any

from bitgen.evaluation.plots import Point, Series
from tests.benchmarks.plots import sheet

RATIOS = {
    "grounding_acc50": ("0.80", "phrases of the test scenes whose box has an IoU of 0.5 or more with theirs"),
    "grounding_shuffled_acc50": ("at most 0.35", "likewise, given another phrase's words"),
    "retrieval_t2i_r1": ("0.50", "captions whose scene is the first of the test set's"),
    "retrieval_i2t_r1": ("0.50", "scenes of the test set for which one of their captions is the first"),
    "caption_attribute_f1": ("0.80", "F1 of the (colour, shape) pairs that the captions say"),
    "caption_shuffled_f1": ("at most 0.35", "likewise, of another scene's captions"),
    "unseen_combination_drop": (
        "at most 10",
        "points of grounding accuracy lost from phrases of trained pairs of colour and shape to those of pairs never trained on",
    ),
}
"""Of each: what was asked for, and what it is."""
CHARTS = {
    "Image-text contrast": ("itc",),
    "Image-text matching": ("itm",),
    "Next token of the caption": ("text",),
    "Region-phrase contrast": ("region",),
    "Grounding": ("l1", "giou", "dice"),
    "Fusion gates": ("gate_image_0", "gate_image_1", "gate_text_0", "gate_text_1"),
}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Tables as Markdown, line by line, without the heading."""
    yield "| figure | reached | asked for | |"
    yield "|---|---|---|---|"
    yield from (f"| {name} | {found['ratios'][name]} | {asked} | {what} |" for name, (asked, what) in RATIOS.items())
    yield ""
    yield "| beside it | |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in found["figures"].items())
    yield ""
    yield "| stage | seconds | command |"
    yield "|---|---|---|"
    for name, seconds in found["seconds"].items():
        yield f"| {name} | {seconds} | {f'`{command}`' if (command := found['commands'].get(name)) else ''} |"
    yield ""
    yield "Captions that it writes of the first test scenes, beside one that was written for them:"
    yield ""
    yield from (f"- {written}<br>*{wanted}*" for written, wanted in found["examples"])
    yield ""
    yield "![Losses and gates by step, coarse and then fine](results/learn.svg)"
    yield ""


def curves(found: Mapping[str, Any]) -> str:
    """The curves of both phases, one after the other, as SVG."""
    shift = found["curves"]["coarse"][-1]["step"]
    all_lines = [
        *found["curves"]["coarse"],
        *({**line, "step": line["step"] + shift} for line in found["curves"]["fine"]),
    ]

    def points(name: str) -> list[Point]:
        return [(line["step"], line[name]) for line in all_lines if name in line]

    drawn = {title: [Series(name, points(name)) for name in names] for title, names in CHARTS.items()}
    return sheet({title: series for title, series in drawn.items() if any(each.points for each in series)})
