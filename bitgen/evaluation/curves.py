"""metrics.jsonl of a run, and of the runs that it started from, as charts."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from bitgen.evaluation.page import Html, join, paragraph, text
from bitgen.evaluation.plots import Marker, Series, legend, line_chart

LOSSES = {
    "loss": "Loss, weighted sum of all parts",
    "itc": "Image-text contrast",
    "itm": "Image-text matching",
    "text": "Next token of the caption",
    "memory_kl": "Memory, divergence from its prior",
    "grounding": "Grounding, weighted sum",
    "l1": "Grounding, L1 of the box",
    "giou": "Grounding, 1 − GIoU of the box",
    "focal": "Grounding, focal of the heat-map",
    "dice": "Grounding, Dice of the heat-map",
    "region": "Region-phrase contrast",
}
OTHERS = {
    "lr": "Learning rate",
    "temperature": "Temperature of the contrast",
    "memory_utilisation": "Memory, slots in use",
    "grad_norm": "Gradient norm before clipping",
    "images_per_s": "Images a second",
    "data_wait": "Share of the time without a batch",
}
GROUPS = {"gate_image": "Fusion gates, image side", "gate_text": "Fusion gates, text side"}
"""Fields that begin so share a chart."""
NOT_CURVES = ("step", "epoch", "event")


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

    def by_run(title: str, field: str) -> str:
        series = [Series(log.name, points(field, n), colour=n) for n, log in enumerate(logs)]
        return line_chart(title, series, markers, x_range=x_range, with_legend=False)

    def through_runs(title: str, names: Sequence[str]) -> str:
        series = [Series(name, [p for n in range(len(logs)) for p in points(name, n)]) for name in names]
        return line_chart(title, series, markers, x_range=x_range)

    grouped = {prefix: [f for f in fields if f.startswith(prefix)] for prefix in GROUPS}
    alone = [f for f in fields if not any(f in names for names in grouped.values())]
    losses = [f for f in LOSSES if f in alone]
    validation = [f for f in alone if f.startswith("validation_")]
    others = sorted((f for f in alone if f not in losses and f not in validation), key=_order)
    gates = [through_runs(GROUPS[prefix], names) for prefix, names in grouped.items() if names]
    sections = (
        ("Losses", [by_run(LOSSES[f], f) for f in losses]),
        ("Validation", [by_run(_title(f.removeprefix("validation_")), f) for f in validation]),
        ("Learning rate, gates and more", [by_run(OTHERS.get(f, _title(f)), f) for f in others] + gates),
    )
    damaged = sum(log.damaged for log in logs)
    note = paragraph(f"{damaged} damaged lines of metrics.jsonl were left out.", "warning") if damaged else Html("")
    drawn = [
        Html(f'<h3>{text(heading)}</h3><div class="charts">{"".join(charts)}</div>')
        for heading, charts in sections
        if charts
    ]
    return join((note, _key(logs, markers), *drawn))


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


def _order(field: str) -> tuple[int, str]:
    known = list(OTHERS)
    return (known.index(field) if field in OTHERS else len(known), field)


def _title(field: str) -> str:
    return field.replace("_", " ").capitalize()
