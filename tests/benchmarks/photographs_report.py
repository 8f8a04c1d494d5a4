"""What `RESULTS.md` says of `results/photos.json`, and the curves beside it."""

from collections.abc import Iterator, Mapping
from typing import Any

from bitgen.evaluation.plots import Series
from bitgen.evaluation.retrieval import TOP
from tests.benchmarks.plots import sheet

WAYS = {"t2i": "captions whose photograph is among the first", "i2t": "photographs with a caption among the first"}
CHARTS = {"Image-text contrast": "itc", "Next token of the caption": "text"}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A table as Markdown, line by line, without the heading."""
    counts, held = found["counts"], found["held_out"]
    yield (
        f"| | held out ({counts['held_out_photographs']} photographs, {counts['held_out_captions']:,} captions) | chance"
        f" | trained on ({counts['trained_photographs']} and {counts['trained_captions']:,}) | chance | what it is |"
    )
    yield "|---|---|---|---|---|---|"
    for way, what in WAYS.items():
        for k in TOP:
            name, figures = f"{way}_r{k}", found["figures"]
            reached = f"{found['ratios'][name]} ± {figures[f'{name}_spread']}"
            rest = " | ".join(str(figures[f"{name}_{kind}"]) for kind in ("chance", "trained", "trained_chance"))
            yield f"| {name} | {reached} | {rest} | {what} {k} |"
    yield ""
    yield "| stage | seconds | command |"
    yield "|---|---|---|"
    for name, seconds in found["seconds"].items():
        yield f"| {name} | {seconds} | {f'`{command}`' if (command := found['commands'].get(name)) else ''} |"
    yield ""
    yield f"The ids that are held out are in `results/photos.json`; one a line and in order they have the sha256 {held['sha256']}."
    yield ""
    yield "![Losses by step](results/photos.svg)"
    yield ""


def curves(found: Mapping[str, Any]) -> str:
    """The losses of the first seed, as SVG."""
    return sheet(
        {
            title: [Series(name, [(line["step"], line[name]) for line in found["curve"] if name in line])]
            for title, name in CHARTS.items()
        }
    )
