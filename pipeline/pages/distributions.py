"""How images, texts, phrases, boxes and licences are distributed: over all that is trained on, then dataset by dataset."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bitgen.evaluation.histograms import (
    Axis,
    bar,
    bar_chart,
    density,
    percent,
    reach,
    short,
    spark,
    spark_axis,
    together,
)
from bitgen.evaluation.page import Html, count, grid, join, paragraph, size, text
from pipeline.pages.figures import (
    BYTES_AXIS,
    MODEL_PX,
    PIXELS_AXIS,
    SIDES_PX,
    Figures,
    Spread,
    many_axis,
)
from pipeline.pages.records import AREAS
from pipeline.pages.world import Dataset, World

AREAS_AXIS = Axis("area of a box, share of its image", lambda v: f"{100 * v:.3g}%", tuple(AREAS[::4]))
LICENCES, LICENCES_OF_ONE = 12, 4
"""Licences named of all datasets together, and of one."""

Part = Callable[[Figures], Spread]


def images_section(world: World) -> Html:
    """Sizes and bytes."""
    some = shown_of(world)
    sides = np.sum([each.figures.sides for each in some], axis=0)
    wide = Axis("width, px", PIXELS_AXIS.say, PIXELS_AXIS.marked)
    tall = Axis("height, px", PIXELS_AXIS.say, PIXELS_AXIS.marked)
    charts = (
        chart_of("Shorter side", some, lambda f: f.shorter_side, PIXELS_AXIS, "images", (MODEL_PX,)),
        chart_of("Bytes of an image", some, lambda f: f.image_bytes, BYTES_AXIS, "images"),
        density("Width and height", sides, SIDES_PX, wide, tall),
    )
    side = spark_column(world, lambda f: f.shorter_side, PIXELS_AXIS)
    weight = spark_column(world, lambda f: f.image_bytes, BYTES_AXIS)
    header = [text("dataset"), text("images"), text("median width, height"), side[0], text("median, 5 to 95 of 100")]
    header += [text(f"below {MODEL_PX} px"), weight[0], text("median"), text("formats")]
    rows = []
    for n, each in enumerate(world.datasets):
        f = each.figures
        width, height = f.middle_size
        rows.append(
            [
                text(each.name),
                text(count(f.images)),
                text(f"{count(width)} × {count(height)}"),
                side[1][n],
                middle_of(f.shorter_side),
                text(percent(f.small, f.images)),
                weight[1][n],
                text(size(f.image_bytes.middle)),
                text(_formats(f)),
            ]
        )
    lead = f"{_of(world)} Counted from every sample's line in index.arrow; {MODEL_PX} px is what the model sees by default."
    return join((paragraph(lead, "muted"), side_by_side(charts), grid(header, rows, (1, 2, 4, 5, 7))))


def phrases_section(world: World) -> Html | None:
    """Phrases and boxes; None where no dataset has any."""
    boxed = [each for each in world.datasets if each.figures.boxes.total]
    if not boxed:
        return None
    some = [each for each in boxed if not each.is_eval] or boxed
    areas = together(each.records.areas for each in some)
    charts = (
        chart_of("Phrases of an image", some, lambda f: f.phrases, many_axis("phrases"), "images"),
        chart_of("Boxes of an image", some, lambda f: f.boxes, many_axis("boxes"), "images"),
        bar_chart("Size of the boxes", areas, AREAS_AXIS, of="boxes", colour=1),
    )
    bins = reach(each.records.areas for each in boxed)
    header = [
        text(name)
        for name in (
            "dataset",
            "phrases",
            "mean of an image",
            "median, 5 to 95 of 100",
            "boxes",
            "mean of an image",
            "mean of a phrase",
        )
    ]
    header += [spark_axis(AREAS, AREAS_AXIS, bins), text("records read")]
    rows = []
    for each in boxed:
        f = each.figures
        rows.append(
            [
                text(each.name),
                text(count(f.phrases.total)),
                text(f"{f.phrases.total / f.images:.1f}"),
                middle_of(f.phrases),
                text(count(f.boxes.total)),
                text(f"{f.boxes.total / f.images:.1f}"),
                text(f"{f.boxes.total / f.phrases.total:.2f}" if f.phrases.total else "–"),
                spark(each.records.areas, bins, AREAS_AXIS.say, 1),
                text(read_of(each)),
            ]
        )
    lead = f"{_of(world)} Counts from every sample's line in index.arrow; sizes of boxes from {sampled(world, boxed)}."
    return join((paragraph(lead, "muted"), side_by_side(charts), grid(header, rows, (1, 2, 3, 4, 5, 6, 8))))


def licences_section(world: World) -> Html:
    """The licences that the records state: over all that is trained on, then by dataset."""
    some = shown_of(world)
    images = licence_images(some)
    total = sum(images.values())
    about = "" if all(each.records.is_whole for each in some) else "about "
    rows = [
        [
            text(licence or "none stated"),
            text(f"{about}{count(round(many))}"),
            text(percent(many, total)),
            bar(many, total, "s0" if licence else "s1"),
        ]
        for licence, many in _most(images, LICENCES)
    ]
    lines = [[text(each.name), _licences(each.records.licences), text(read_of(each))] for each in world.datasets]
    lead = f"As each image's record states it, from {sampled(world, world.datasets)}. {_of(world, 'first table')}"
    return join(
        (
            paragraph(lead, "muted"),
            grid([text(name) for name in ("licence", "images", "share", "")], rows, (1, 2), "licences"),
            grid([text(name) for name in ("dataset", "licences", "records read")], lines, (2,)),
        )
    )


def licence_images(some: Sequence[Dataset]) -> dict[str, float]:
    """Images of each licence: those of a dataset's records, as many times as it has more images than were read."""
    found: dict[str, float] = {}
    for each in some:
        read = each.records.licences.total()
        for licence, images in each.records.licences.items():
            found[licence] = found.get(licence, 0.0) + images * each.figures.images / read
    return found


def sampled(world: World, some: Sequence[Dataset]) -> str:
    """Of which records a figure is, in words."""
    read = sum(each.records.read for each in some)
    if all(each.records.is_whole for each in some):
        return f"all {count(read)} records"
    return f"a sample of {count(read)} records (seed {world.seed}; datasets of which all were read are exact)"


def middle_of(found: Spread) -> Html:
    """The median, and what 5 and 95 of 100 do not exceed."""
    return Html(f"{found.middle:,.0f} <span class='muted range'>{found.low:,.0f}–{found.high:,.0f}</span>")


def read_of(each: Dataset) -> str:
    """How many of a dataset's records were read."""
    return "all" if each.records.is_whole else f"{short(each.records.read)} of {short(each.records.of)}"


def spark_column(world: World, of: Part, axis: Axis, colour: int = 0) -> tuple[Html, list[Html]]:
    """A column of small distributions on one axis: its head, and a cell for each dataset."""
    found = [of(each.figures).bins for each in world.datasets]
    bins = reach(found)
    return spark_axis(found[0].edges, axis, bins), [spark(each, bins, axis.say, colour) for each in found]


def chart_of(title: str, some: Sequence[Dataset], of: Part, axis: Axis, what: str, marks: Sequence[float] = ()) -> Html:
    """The distribution over several datasets."""
    return bar_chart(title, together(of(each.figures).bins for each in some), axis, of=what, marks=marks)


def side_by_side(charts: Sequence[Html]) -> Html:
    """Charts in columns."""
    return Html(f'<div class="charts">{join(charts)}</div>')


def shown_of(world: World) -> list[Dataset]:
    """What the large charts are of: that which is trained on, else all."""
    return world.of(is_eval=False) or list(world.datasets)


def _of(world: World, what: str = "charts") -> str:
    """Which datasets the large charts tell of, where there are several."""
    some, every = shown_of(world), world.datasets
    if len(every) == 1:
        return ""
    kind = "here" if some[0].is_eval else "to train on"
    whose = f"the {len(some)} datasets {kind} together" if len(some) > 1 else some[0].name
    return f"The {what} {'are' if what.endswith('s') else 'is'} of {whose}."


def _formats(f: Figures) -> str:
    return ", ".join(
        f"{name} {percent(many, f.images)}" if len(f.formats) > 1 else name for name, many in f.formats.most_common()
    )


def _licences(found: Counter[str]) -> Html:
    """The licences of a dataset in one cell."""
    return join(
        Html(f'<span class="part">{text(licence or "none stated")} <b>{text(percent(many, found.total()))}</b></span>')
        for licence, many in _most(found, LICENCES_OF_ONE)
    )


def _most(found: Mapping[str, float], most: int) -> list[tuple[str, float]]:
    """The most frequent, and what is left over as one."""
    some = sorted(found.items(), key=lambda each: (-each[1], each[0]))
    if len(some) <= most + 1:
        return some
    return [*some[:most], (f"{len(some) - most} others", sum(many for _, many in some[most:]))]
