"""Which phrases are found: by their words, by the size of what they name, and by how many boxes that has.

And whether a set is as large as its authors published it: the protocol of referring expressions is all of them.
Axes: P phrases, N boxes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgen.batch import Batch
from bitgen.evaluation.bootstrap import RESAMPLES, intervals
from bitgen.evaluation.page import share
from bitgen.evaluation.tables import CONTROLS, SPLITS, Table, end_rows, ends_of
from bitgen.tokens import shared_tokenizer

SIDES = frozenset({"left", "right", "leftmost", "rightmost", "lefthand", "righthand"})
"""Words by which a side is told; "left-most" is "left" and "most"."""
SMALL, LARGE = 0.05, 0.25
"""Shares of the image: less is small, as much or more is large. The median expression of RefCOCO, + and g names 15%."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "words": ("1", "2-3", "4-6", "7+"),
    "left_right": ("with", "without"),
    "size": ("small", "medium", "large"),
    "boxes": ("1", "2", "3+"),
}
"""What phrases are parted by, and into what."""
_HEADER = ("1 word", "2-3", "4-6", "7+", "left/right", "neither", "small", "medium", "large", "1 box", "2", "3+")


class CountError(ValueError):
    """A set is not as large as published, and nothing that its build refused says why."""


class Said:
    """The words of the phrases that were asked for, batch by batch."""

    def __init__(self) -> None:
        self.texts = 0
        """Of all images; a referring expression is one."""
        self.phrases: list[str] = []
        """[P]: each as its tokens spell it, white space around it included. Tokens and not records: what was left out
        on the way to a batch is left out here too, so that rows are those of `Answers`."""

    def add(self, batch: Batch) -> None:
        """The texts and phrases of a batch."""
        self.texts += len(batch.token_ids)
        decode, ids = shared_tokenizer().decode, batch.token_ids.tolist()
        spans = zip(batch.phrase_text.tolist(), batch.phrase_tokens.tolist(), strict=True)
        self.phrases += [decode(ids[text][start:stop]) for text, (start, stop) in spans]


def breakdown(
    hits: Tensor,
    targets: Tensor,
    box_phrase: Tensor,
    said: Said,
    photographs: Tensor | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    controls: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> dict[str, Any]:
    """Accuracy over the phrases of each group of `GROUPS`, and how many those are; a group without any is left out.

    Args:
        hits: [P] bool, whether the overlap with the merged box is at least 0.5.
        targets: [P, 4], the merged boxes, corners in fractions of the image.
        box_phrase: [N] int64, the phrase of each box.
        photographs: [P], of intervals by photograph; without them there are none. seed, resamples: of these.
        controls: by name, `hits` [P'] of a control, and the numbers [P'] of the phrases that it was asked for.

    Returns {"texts": T, "words": {"1": {"phrases": n, "acc50": 0..1, "interval": {"acc50": [low, high]}}, ...}, "left_right": ...,
    "size": ..., "boxes": ...}; with `controls` each group has "controls": {NAME: the same of the control}. Phrases that lie beyond
    the token limit are in none of the groups: their words are not known here.
    """
    x0, y0, x1, y1 = targets.unbind(dim=1)
    areas = ((x1 - x0) * (y1 - y0)).tolist()
    boxes = torch.bincount(box_phrase, minlength=len(hits)).tolist()
    groups = {
        "words": [_by_words(phrase) for phrase in said.phrases],
        "left_right": ["with" if tells_a_side(phrase) else "without" for phrase in said.phrases],
        "size": ["small" if area < SMALL else "medium" if area < LARGE else "large" for area in areas],
        "boxes": [f"{n}" if n < 3 else "3+" for n in boxes],
    }
    ids = None if photographs is None else photographs.numpy()
    found: dict[str, Any] = {"texts": said.texts}
    for by, of in groups.items():
        group_of = np.array(of, dtype=str)
        found[by] = _accuracies(hits.double().numpy(), group_of, GROUPS[by], ids, seed, resamples)
        for name, (their_hits, rows) in (controls or {}).items():
            own = rows.numpy()
            their_ids = None if ids is None else ids[own]
            theirs = _accuracies(their_hits.double().numpy(), group_of[own], GROUPS[by], their_ids, seed, resamples)
            for group, accuracy in theirs.items():
                found[by][group].setdefault("controls", {})[name] = accuracy
    return found


def words_in(phrase: str) -> int:
    """What stands between white space and has a letter or a digit: "the man's hat ." has three."""
    return sum(any(c.isalnum() for c in piece) for piece in phrase.split())


def tells_a_side(phrase: str) -> bool:
    """Whether it has a word of `SIDES`, as a whole, in any case."""
    return not SIDES.isdisjoint(re.findall(r"[a-z]+", phrase.lower()))


def check_counts(dataset: Mapping[str, Any], found: Mapping[str, int]) -> str:
    """What of a set could not be evaluated, and for which reasons; empty where it is as large as published.

    Args:
        dataset: its `dataset.json`: "published", as the manifest has it, and "counts", rows by outcome.
        found: what was evaluated: "images", and "rows", which are texts.

    Raises `CountError` where there is more than was published, or less and the build has not refused, or joined to
    another of the same bytes, as many rows as are missing: then the files are not the whole set's. A row with several
    boxes may be refused box by box, so the rows refused may be more than the texts missing.
    """
    name, lost = dataset["name"], {k: n for k, n in dataset.get("counts", {}).items() if k != "kept"}
    reasons = ", ".join(f"{outcome} {n:,}" for outcome, n in sorted(lost.items()))
    said = []
    for what, expected in dataset.get("published", {}).items():
        missing = expected - found[what]
        if not 0 <= missing <= sum(lost.values()):
            raise CountError(
                f"expected {expected:,} {what} of {name} as published, found {found[what]:,}; rows that could not be "
                f"used: {reasons or 'none'}"
            )
        if missing:
            said.append(f"{missing:,} of {expected:,} {what}")
    return f"{name}: {' and '.join(said)} could not be evaluated ({reasons})." if said else ""


def check_measured(entry: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    """Raises `CountError` where an entry of results.json is not over all texts and phrases that `dataset.json` says there are."""
    grounding = entry.get("grounding", {})
    measured = [
        ("retrieval", "texts", entry.get("retrieval", {}).get("texts")),
        ("grounding", "texts", grounding.get("breakdown", {}).get("texts")),
        ("grounding", "phrases", grounding.get("phrases")),
    ]
    for task, what, found in measured:
        if found not in (None, dataset[what]):
            raise CountError(f"expected {task} over {dataset[what]:,} {what} of {dataset['name']}, found {found:,}")


def breakdown_table(results: Mapping[str, Any]) -> Table:
    """Accuracies in percent by group, a line for every set of `results.json`; under each stand the ends of their intervals, the
    controls, and how many phrases there are."""
    rows: list[tuple[str, ...]] = []
    lesser: list[int] = []
    for split, label in SPLITS.items():
        for name, found in results.get(split, {}).get("datasets", {}).items():
            if not (parts := found.get("grounding", {}).get("breakdown")):
                continue
            cells = [parts[by].get(group) for by, groups in GROUPS.items() for group in groups]
            under = end_rows([ends_of(cell, ["acc50"])[0] if cell else None for cell in cells])
            rows.append((f"{label}: {name}", *(share(cell["acc50"]) if cell else "" for cell in cells)))
            controls = [name for name in CONTROLS if any(name in (cell or {}).get("controls", {}) for cell in cells)]
            under += [(CONTROLS[name], *(_control(cell, name) for cell in cells)) for name in controls]
            lesser += range(len(rows), len(rows) + len(under) + 1)
            rows += [*under, ("phrases", *(f"{cell['phrases']:,}" if cell else "0" for cell in cells))]
    return Table(("IoU ≥ 0.5, %", *_HEADER), tuple(rows), tuple(lesser))


def _control(cell: Mapping[str, Any] | None, name: str) -> str:
    found = (cell or {}).get("controls", {}).get(name)
    return share(found["acc50"]) if found else ""


def _by_words(phrase: str) -> str:
    words = words_in(phrase)
    return "1" if words < 2 else "2-3" if words < 4 else "4-6" if words < 7 else "7+"


def _accuracies(
    hits: NDArray[np.float64],
    of: NDArray[np.str_],
    groups: Sequence[str],
    photographs: NDArray[np.int64] | None,
    seed: int,
    resamples: int,
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        own = of == group
        if not own.any():
            continue
        found[group] = {"phrases": int(own.sum()), "acc50": float(hits[own].mean())}
        if photographs is not None:
            found[group]["interval"] = intervals({"acc50": hits[own]}, photographs[own], seed, resamples)
    return found
