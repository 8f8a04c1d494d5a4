"""Between the passes: which of the surveyed candidates go into the shards, and what the ledger says of each row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.holdout import Looks
from pipeline.ledger import Line
from pipeline.survey import Fate, read_part

Place = tuple[int, int]
"""(number of the part, number of the candidate in it)."""


@dataclass(frozen=True)
class SeenImage:
    """One image that goes in, as it came."""

    key: str
    sha256: str
    look: int


@dataclass
class Plan:
    """What goes in, and what `decide` took out."""

    kept: list[list[int]] = field(default_factory=list)
    """Of each part: the numbers of the candidates that become samples."""
    joined: dict[Place, list[str]] = field(default_factory=dict)
    """Further samples of the same bytes, as JSON, whose texts and ids the kept one takes in."""
    merged: dict[Place, str] = field(default_factory=dict)
    """Candidates that were joined to another: its key."""
    held_out: dict[Place, str] = field(default_factory=dict)
    """Candidates that show an evaluation image, and how one can tell."""
    images: list[SeenImage] = field(default_factory=list)


def decide(parts: Sequence[Path], looks: Looks | None) -> Plan:
    """The plan for surveyed `parts`: evaluation images by `looks` out, equal bytes joined to their first."""
    plan = Plan()
    first: dict[str, tuple[Place, str]] = {}
    for number, part in enumerate(parts):
        plan.kept.append([])
        for place, fate in enumerate(read_part(part)):
            sample = fate.candidate.sample
            if fate.outcome != "kept":
                continue
            if looks is not None and (match := looks.match(fate.sha256, fate.look)):
                plan.held_out[number, place] = match
            elif fate.sha256 in first:
                where, key = first[fate.sha256]
                plan.merged[number, place] = key
                plan.joined.setdefault(where, []).append(sample.to_json())
            else:
                first[fate.sha256] = (number, place), sample.key
                plan.kept[number].append(place)
                plan.images.append(SeenImage(sample.key, fate.sha256, fate.look))
    return plan


def ledger_lines(parts: Sequence[Path], plan: Plan, source: str) -> Iterator[Line]:
    """A line for every row of every candidate, in order."""
    for number, part in enumerate(parts):
        for place, fate in enumerate(read_part(part)):
            key, outcome, detail = _end(fate, (number, place), plan)
            for row in fate.candidate.rows:
                yield Line(source, row, key, outcome, detail)
            for refusal in fate.candidate.refused:
                yield Line(source, refusal.row, None, refusal.reason, refusal.detail)


def _end(fate: Fate, place: Place, plan: Plan) -> tuple[str | None, str, str]:
    """(key, outcome, detail) of the rows of a candidate."""
    if place in plan.held_out:
        return None, "held_out", plan.held_out[place]
    if place in plan.merged:
        return plan.merged[place], "duplicate", f"same bytes as {plan.merged[place]}"
    return fate.candidate.sample.key if fate.outcome == "kept" else None, fate.outcome, fate.detail
