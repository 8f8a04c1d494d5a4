"""metrics.jsonl of a run, and of the runs that it started from, as charts."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from bitgen.evaluation.page import Html, join, paragraph, text
from bitgen.evaluation.plots import Marker, Series, legend, line_chart


@dataclass(frozen=True)
class Chart:
    """Fields of the lines that share a pair of axes."""

    title: str
    fields: Mapping[str, str]
    """What each is called in the chart."""
    prefix: str = ""
    """Fields that begin so belong to it, too, and are called by what follows."""
    word: str = ""
    """What stands before that."""
    log: bool = False


def _one(field: str, title: str, log: bool = False) -> Chart:
    return Chart(title, {field: title}, log=log)


SECTIONS: Mapping[str, tuple[Chart, ...]] = {
    "Losses": (
        _one("loss", "Loss, weighted sum of all parts"),
        _one("itc", "Image-text contrast"),
        _one("itm", "Image-text matching"),
        _one("text", "Next token of the caption"),
        _one("memory_kl", "Memory, divergence from its prior"),
        _one("grounding", "Grounding, weighted sum"),
        _one("l1", "Grounding, L1 of the box"),
        _one("giou", "Grounding, 1 − GIoU of the box"),
        _one("focal", "Grounding, focal of the heat-map"),
        _one("dice", "Grounding, Dice of the heat-map"),
        _one("region", "Region-phrase contrast"),
        _one("words", "Words of phrases, from their regions"),
    ),
    "Validation": (),
    "What a step gets right": (
        Chart("Contrast, top-1 within the batch", {"acc_t2i": "text to image", "acc_i2t": "image to text"}),
        _one("itm_acc", "Matching, pairs told right"),
        _one("grounding_acc50", "Grounding, phrases with IoU ≥ 0.5"),
        _one("token_acc", "Captions, likeliest token is right"),
        _one("perplexity", "Captions, perplexity", log=True),
    ),
    "Memory and queue": (
        _one("memory_utilisation", "Memory, slots in use"),
        Chart(
            "Memory, cosine of what is recalled with what was written",
            {"memory_recall": "for the image itself", "memory_recall_others": "for others of its episode"},
        ),
        Chart(
            "Negatives, cosine with images and texts of the batch",
            {"batch_similarity": "of the batch", "queue_similarity": "of the queue"},
        ),
        _one("queue_age", "Queue, mean age of an entry in steps"),
    ),
    "Optimisation": (
        Chart("Learning rate, by group", {"lr": "base"}, prefix="lr_", log=True),
        Chart("Gradient norm before clipping", {"grad_norm": "all"}, prefix="grad_norm_", log=True),
        Chart("Temperatures", {"temperature": "image-text", "region_temperature": "region-phrase"}),
        Chart("Fusion gates, image side", {}, "gate_image_", "layer "),
        Chart("Fusion gates, text side", {}, "gate_text_", "layer "),
    ),
    "Speed": (
        _one("images_per_s", "Images a second"),
        _one("data_wait", "Share of the time without a batch"),
        _one("mfu", "Share of the device's peak arithmetic"),
    ),
    "More": (),
}
"""All charts in their order; validation figures, and fields that are not known, have one each where there is none here."""
NOT_CURVES = ("step", "epoch", "event", "token_nats")


@dataclass(frozen=True)
class Log:
    """One run's metrics."""

    name: str
    lines: tuple[dict[str, Any], ...]
    damaged: int
    """Lines that are no JSON object with a step, such as the last one of a killed run."""


def read_log(name: str, path: Path) -> Log:
    """A metrics.jsonl; empty where there is none."""
    lines: list[dict[str, Any]] = []
    damaged = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict) and _is_number(value.get("step")):
            lines.append(value)
        else:
            damaged += 1
    return Log(name, tuple(lines), damaged)


def curves(logs: Sequence[Log]) -> Html:
    """Charts of the logs laid end to end, the oldest ancestor first; each run has its colour, events are markers."""
    fields = list(dict.fromkeys(f for log in logs for line in log.lines for f in line if f not in NOT_CURVES))
    # What batches left out is only of interest where they left something out.
    fields = [
        f for f in fields if not f.startswith("dropped_") or any(line.get(f) for log in logs for line in log.lines)
    ]
    if not fields:
        return paragraph("No metrics have been written yet.", "muted")
    starts = _starts(logs)
    markers = _markers(logs, starts)
    x_range = 0.0, starts[-1] + _steps(logs[-1])

    def points(field: str, number: int) -> list[tuple[float, float]]:
        lines = [line for line in logs[number].lines if _is_number(line.get(field))]
        return [(starts[number] + line["step"], float(line[field])) for line in lines]

    def drawn(chart: Chart) -> str:
        names = dict(chart.fields) | {
            f: chart.word + f.removeprefix(chart.prefix) for f in fields if chart.prefix and f.startswith(chart.prefix)
        }
        there = [name for name in names if name in fields]
        if len(there) == 1:  # a colour for each run
            series = [Series(log.name, points(there[0], n), colour=n) for n, log in enumerate(logs)]
            return line_chart(chart.title, series, markers, log=chart.log, x_range=x_range, with_legend=False)
        lines: dict[tuple[tuple[float, float], ...], list[str]] = {}  # curves that lie on each other are one
        for name in there:
            lines.setdefault(tuple(p for n in range(len(logs)) for p in points(name, n)), []).append(names[name])
        series = [Series(", ".join(called), along) for along, called in lines.items()]
        return line_chart(chart.title, series, markers, log=chart.log, x_range=x_range) if series else ""

    known = [chart for charts in SECTIONS.values() for chart in charts]
    rest = [
        f
        for f in fields
        if not any(f in chart.fields or (chart.prefix and f.startswith(chart.prefix)) for chart in known)
    ]
    validation = [f for f in rest if f.startswith("validation_")]
    found = {
        "Validation": [_one(f, _title(f.removeprefix("validation_"))) for f in validation],
        "More": [_one(f, _title(f)) for f in sorted(rest) if f not in validation],
    }
    sections = {
        heading: [drawn(chart) for chart in (*charts, *found.get(heading, ()))] for heading, charts in SECTIONS.items()
    }
    damaged = sum(log.damaged for log in logs)
    note = paragraph(f"{damaged} damaged lines of metrics.jsonl were left out.", "warning") if damaged else Html("")
    shown = [
        Html(f'<h3>{text(heading)}</h3><div class="charts">{"".join(charts)}</div>')
        for heading, charts in sections.items()
        if any(charts)
    ]
    return join((note, _key(logs, markers), *shown))


def _starts(logs: Sequence[Log]) -> list[float]:
    """Where each log begins on the common axis."""
    starts = [0.0]
    for log in logs[:-1]:
        starts.append(starts[-1] + _steps(log))
    return starts


def _steps(log: Log) -> float:
    return max((line["step"] for line in log.lines), default=0.0)


def _markers(logs: Sequence[Log], starts: Sequence[float]) -> list[Marker]:
    begun = [Marker(start, f"{log.name} starts") for log, start in zip(logs, starts, strict=True) if start]
    events = [
        Marker(start + line["step"], f"{log.name}: {line['event']}" if len(logs) > 1 else str(line["event"]))
        for log, start in zip(logs, starts, strict=True)
        for line in log.lines
        if "event" in line
    ]
    return sorted(begun + events, key=lambda marker: marker.x)


def _key(logs: Sequence[Log], markers: Sequence[Marker]) -> Html:
    """What the colours and the numbers in all charts mean, once."""
    lead = paragraph("Steps run from left to right; a run that started from another stands at its end.", "muted")
    series = [Series(log.name, (), colour=n) for n, log in enumerate(logs)]
    return Html(f'{lead}<p class="legend">{legend(series if len(logs) > 1 else (), markers)}</p>')


def training_time_s(log: Log, images_per_step: int) -> float:
    """Seconds spent on steps: the images between two lines over their speed; lines without a speed count nothing."""
    seconds, before = 0.0, 0.0
    for line in log.lines:
        speed = line.get("images_per_s")
        if _is_number(speed) and speed > 0:
            seconds += (line["step"] - before) * images_per_step / speed
            before = line["step"]
    return seconds


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def _title(field: str) -> str:
    return field.replace("_", " ").capitalize()
