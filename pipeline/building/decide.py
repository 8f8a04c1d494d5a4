"""Between a chunk and its shard: which samples show an evaluation image, or one that an earlier sample has.

What is held of a sample is 16 bytes of a digest and its look, so millions of them fit in memory.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.building.chunks import ending, read_table
from pipeline.holdout import Looks
from pipeline.ledger import End

PLACEHOLDER_DOUBLES = 50
"""Where so many further images of a source have the bytes of one, they show what a host gives for photographs that are
gone, and none goes in: their texts speak of other pictures."""
Place = tuple[int, int]
"""(number of the part, row in it)."""


@dataclass
class Change:
    """What differs between a part and its shard."""

    dropped: set[int] = field(default_factory=set)
    """Rows that do not go in."""
    joined: dict[int, list[Place]] = field(default_factory=dict)
    """By row: later samples of the same bytes, whose texts and ids it takes in."""
    ends: dict[str, End] = field(default_factory=dict)
    """By key: what the ledger says of the rows of a dropped sample."""


@dataclass
class Plan:
    """What goes in."""

    samples: list[int]
    """Of each part: how many."""
    changes: dict[int, Change]
    """By number of the part; most have none."""
    firsts: NDArray[np.uint64]
    """[samples]: the first 8 bytes of each image's sha256, as it came."""

    def counted(self, role: str, counts: Counter[str], candidates: int) -> dict[str, int]:
        """Images and rows as the authors of a dataset count them: of an evaluation set those that can be evaluated on,
        of a training set all that its annotation files name."""
        if role == "train":
            return {"images": candidates, "rows": counts.total()}
        doubles = sum(end[1] == "duplicate" for change in self.changes.values() for end in change.ends.values())
        return {"images": sum(self.samples) + doubles, "rows": counts["kept"] + counts["duplicate"]}


def decide(parts: Sequence[Path], looks: Looks | None, keep_lookalikes: bool = False) -> Plan:
    """The plan for `parts`: evaluation images by `looks` out, equal bytes joined to their first.

    With `keep_lookalikes`, what only looks like an evaluation image goes in, and the ledger says so.
    """
    changes: dict[int, Change] = {}
    counts, digests = [], [np.empty((0, 2), np.uint64)]
    for number, part in enumerate(parts):
        table = read_table(ending(part, ".arrow"))
        came = np.frombuffer(b"".join(table.column("came").to_pylist()), ">u8").reshape(-1, 4)
        counts.append(table.num_rows)
        digests.append(came[:, :2].astype(np.uint64))
        if looks is None:
            continue
        seen = np.array(table.column("look").to_pylist(), np.uint64)
        for row in np.flatnonzero(looks.may_match(digests[-1][:, 0], seen)).tolist():
            equal = looks.equal(came[row].tobytes().hex())
            if not (match := equal or looks.alike(int(seen[row]))):
                continue
            key, change = table.column("key")[row].as_py(), changes.setdefault(number, Change())
            if equal or not keep_lookalikes:
                change.dropped.add(row)
                change.ends[key] = None, "held_out", match
            else:
                change.ends[key] = key, "kept", match
    all_digests, starts = np.concatenate(digests), np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    is_in = np.ones(len(all_digests), bool)
    for number, change in changes.items():
        is_in[starts[number] + np.array(sorted(change.dropped), np.int64)] = False
    doubles = _doubles(all_digests, is_in)
    keys = _keys(parts, {_place(each, starts) for pair in doubles for each in pair})
    often = {first: n for first, n in Counter(first for _, first in doubles).items() if n >= PLACEHOLDER_DOUBLES}
    for place, first in [*doubles, *((first, first) for first in often)]:
        is_in[place] = False
        if first in often:
            end = None, "placeholder", f"{often[first] + 1:,} images have these bytes"
            _drop(changes, _place(place, starts), keys, end)
        else:
            _join(changes, _place(place, starts), _place(first, starts), keys)
    samples = [int(is_in[a:b].sum()) for a, b in pairwise(starts)]
    return Plan(samples, changes, all_digests[is_in, 0])


def _doubles(digests: NDArray[np.uint64], is_in: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(sample, first sample of the same bytes) of every sample that is in and is not the first, in order."""
    places = np.flatnonzero(is_in)
    order = places[np.lexsort((places, digests[places, 1], digests[places, 0]))]
    same = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    group = np.concatenate([[0], np.cumsum(~same)])
    firsts = order[np.concatenate([[True], ~same])] if len(order) else order
    again = np.flatnonzero(np.concatenate([[False], same]))
    return sorted((int(order[i]), int(firsts[group[i]])) for i in again)


def _place(place: int, starts: NDArray[np.int64]) -> Place:
    number = int(np.searchsorted(starts, place, side="right")) - 1
    return number, place - int(starts[number])


def _keys(parts: Sequence[Path], places: set[Place]) -> dict[Place, str]:
    found: dict[Place, str] = {}
    column, opened = None, -1
    for number, row in sorted(places):
        if number != opened:
            column, opened = read_table(ending(parts[number], ".arrow")).column("key"), number
        assert column is not None
        found[number, row] = column[row].as_py()
    return found


def _drop(changes: dict[int, Change], place: Place, keys: dict[Place, str], end: End) -> None:
    change = changes.setdefault(place[0], Change())
    change.dropped.add(place[1])
    change.ends[keys[place]] = end


def _join(changes: dict[int, Change], place: Place, first: Place, keys: dict[Place, str]) -> None:
    _drop(changes, place, keys, (keys[first], "duplicate", f"same bytes as {keys[first]}"))
    changes.setdefault(first[0], Change()).joined.setdefault(first[1], []).append(place)
