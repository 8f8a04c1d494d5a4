"""What each task of bitgen-eval asks of a set: figures for results.json and, beside them, what two checkpoints are compared by and
what a page shows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from bitgen.batch import Batch
from bitgen.evaluation.attention import Looked, evaluate_attention
from bitgen.evaluation.attention_figures import attention_figures
from bitgen.evaluation.bootstrap import RESAMPLES, percentiles, resampled_means, stated
from bitgen.evaluation.caption_cards import Captioned, captioned, said_of, spread
from bitgen.evaluation.caption_scores import FIGURES, Scores, figures
from bitgen.evaluation.captioning import MODEL, evaluate_captioning
from bitgen.evaluation.grounding import evaluate_grounding
from bitgen.evaluation.head_figures import head_figures
from bitgen.evaluation.heads import AT_ONCE, IMAGES, evaluate_heads
from bitgen.evaluation.items import Items
from bitgen.evaluation.memory_figures import memory_figures
from bitgen.evaluation.over_sets import ends, resampled_set_means, with_grounding_intervals, with_retrieval_intervals
from bitgen.evaluation.page import Html
from bitgen.evaluation.recall import LEAST, evaluate_memory
from bitgen.evaluation.retrieval import evaluate_retrieval
from bitgen.evaluation.scored import Scored
from bitgen.evaluation.tables import mean
from bitgen.evaluation.vectors import MOST_POINTS, evaluate_vectors
from bitgen.licences import may_leave
from bitgen.model.bitgen import BitGen
from pipeline.wholes import spaced
from shards.index import ShardIndex

Task = Literal["retrieval", "grounding", "captioning", "memory", "attention", "vectors", "efficiency"]
SCORED: tuple[Task, ...] = ("retrieval", "grounding", "captioning")
"""What is compared between checkpoints and averaged over sets. The others look inside one; of sets that were kept from it."""
SHOWN = 6
"""Captions of a set on the page."""


@dataclass
class Beside:
    """What an evaluation leaves beside its figures. Filled as it goes."""

    items: dict[tuple[str, str], Items] = field(default_factory=dict)
    """By set and by kind: `t2i`, `i2t`, `grounding`, `captioning`."""
    figures: dict[str, dict[str, Html]] = field(default_factory=dict)
    """Each a `<figure>`, by set, or "" for those of the model alone, and by a name fit for a file."""
    looked: list[Looked] = field(default_factory=list)
    captions: dict[str, list[Captioned]] = field(default_factory=dict)
    """Of each set some, from the best to the worst."""
    scores: dict[str, Scores] = field(default_factory=dict)
    """Of each set all captions."""


@dataclass(frozen=True)
class Asked:
    """A set, and how it is measured."""

    name: str
    index: ShardIndex
    batches: Callable[[], Iterator[Batch]]
    """All of them, anew with every call; counted as progress."""
    some: Callable[[Sequence[int], int], Iterator[Batch]]
    """Some rows of the set, so many images a batch."""
    seed: int
    rerank: int
    max_tokens: int
    """Of a caption; beams: kept at each step."""
    beams: int
    java: bool
    """Whether METEOR and SPICE are tried."""
    targets: Tensor | None
    """What the constant box is fitted on, as `evaluate_grounding` takes it."""
    constant: str | None
    """The caption that is said of every image, from training texts."""


def tasks_of(index: ShardIndex) -> tuple[Task, ...]:
    """Captions are retrieved, written and remembered, phrases are grounded. An expression ("left man") names no image, so it is
    neither retrieved nor a caption."""
    found: list[Task] = []
    if index.dataset.get("phase") == "coarse":
        photographs = len(np.unique(np.asarray(index.image_ids)))
        found.extend(("retrieval", "captioning"))
        if photographs >= 2:
            found.append("vectors")
        if photographs >= LEAST:
            found.append("memory")
    if index.dataset.get("phrases"):
        found.extend(("grounding", "attention"))
    return tuple(found)


def measure(task: Task, model: Scored, asked: Asked, beside: Beside) -> dict[str, Any]:
    """The figures of one task on one set. Of a model that is no checkpoint's only those of `SCORED` can be had."""
    if task in _SCORES:
        return _SCORES[task](model, asked, beside)
    assert isinstance(model, BitGen)
    return _LOOKS[task](model, asked, beside)


def _retrieval(model: Scored, asked: Asked, beside: Beside) -> dict[str, Any]:
    items: dict[str, Items] = {}
    found = evaluate_retrieval(model, asked.batches(), rerank=asked.rerank or None, seed=asked.seed, items=items)
    beside.items |= {(asked.name, kind): each for kind, each in items.items()}
    return found


def _grounding(model: Scored, asked: Asked, beside: Beside) -> dict[str, Any]:
    items: dict[str, Items] = {}
    found = evaluate_grounding(model, asked.batches(), train_targets=asked.targets, seed=asked.seed, items=items)
    beside.items |= {(asked.name, kind): each for kind, each in items.items()}
    return found


def _captioning(model: Scored, asked: Asked, beside: Beside) -> dict[str, Any]:
    scores: dict[str, Scores] = {}
    row_of: dict[str, int] = {}

    def references(row: int) -> list[str]:
        sample = asked.index.record(row)
        row_of.setdefault(sample.key, row)
        return [text.text for text in sample.texts]

    found = evaluate_captioning(
        model,
        asked.batches(),
        references,
        constant=asked.constant,
        max_tokens=asked.max_tokens,
        beams=asked.beams,
        java=asked.java,
        seed=asked.seed,
        scores=scores,
    )
    own = beside.scores[asked.name] = scores[MODEL]
    if len(own.keys) > 1:
        for name, each in scores.items():
            low_high = percentiles(figures(resampled_means(each.values, each.photographs, asked.seed, RESAMPLES)))
            into = found if name == MODEL else found["controls"][name]
            into["interval"] = {**dict(zip(FIGURES, low_high.tolist(), strict=True)), **into.get("interval", {})}
        found["bootstrap"] = stated(own.photographs, asked.seed, RESAMPLES)
    values = {"rouge_l": own.values[:, -2], "cider_d": own.values[:, -1]}
    beside.items[asked.name, "captioning"] = Items(own.keys, own.photographs, values)
    numbers = spread(own, SHOWN)
    rows = [row_of[own.keys[number]] for number in numbers]
    beside.captions[asked.name] = [
        captioned(asked.index.record(row), batch, own, number, asked.name)
        for number, row, batch in zip(numbers, rows, asked.some(rows, 1), strict=True)
    ]
    return found


def _memory(model: BitGen, asked: Asked, beside: Beside) -> dict[str, Any]:
    found = evaluate_memory(model, asked.batches(), asked.seed)
    _keep(asked.name, memory_figures(found), beside)
    return found


def _attention(model: BitGen, asked: Asked, beside: Beside) -> dict[str, Any]:
    found, looked = evaluate_attention(model, asked.batches(), seed=asked.seed)
    found["heads"] = evaluate_heads(model, asked.some(spaced(len(asked.index), IMAGES), AT_ONCE), asked.seed)
    _keep(asked.name, attention_figures(found) | head_figures(found["heads"]), beside)
    for each in looked:
        record = asked.index.record(each.position)
        about = said_of(record, asked.name)
        beside.looked.append(replace(each, about=about, may_leave=may_leave(record.licence)))
    return found


def _vectors(model: BitGen, asked: Asked, beside: Beside) -> dict[str, Any]:
    found, drawn = evaluate_vectors(model, asked.some(spaced(len(asked.index), MOST_POINTS), AT_ONCE), asked.seed)
    _keep(asked.name, drawn, beside)
    return found


def _keep(name: str, drawn: Mapping[str, Html], beside: Beside) -> None:
    beside.figures.setdefault(name, {}).update(drawn)


def file_name(name: str) -> str:
    """Of a set, for files that stand in one folder: `eval/coco-val` is `eval-coco-val`."""
    return name.replace("/", "-")


_SCORES: Mapping[Task, Callable[[Scored, Asked, Beside], dict[str, Any]]] = {
    "retrieval": _retrieval,
    "grounding": _grounding,
    "captioning": _captioning,
}
_LOOKS: Mapping[Task, Callable[[BitGen, Asked, Beside], dict[str, Any]]] = {
    "memory": _memory,
    "attention": _attention,
    "vectors": _vectors,
}
"""With `_SCORES` all tasks but `efficiency`, which asks nothing of a set."""


def over_sets(task: Task, found: Mapping[str, Mapping[str, Any]], beside: Beside, seed: int) -> dict[str, Any]:
    """The mean over sets, `found` by name, of a task of `SCORED`, with intervals (`bitgen.evaluation.over_sets`)."""
    averaged = mean(list(found.values()))
    if len(found) < 2:
        return averaged
    if task == "captioning":
        scored = [(beside.scores[name].values, beside.scores[name].photographs) for name in found]
        draws = resampled_set_means(scored, seed, RESAMPLES, figures)
        return {**averaged, "interval": ends(draws, FIGURES)}
    if task == "grounding":
        return with_grounding_intervals(averaged, [beside.items[name, "grounding"] for name in found], seed)
    t2i, i2t = ([beside.items[name, kind] for name in found] for kind in ("t2i", "i2t"))
    return with_retrieval_intervals(averaged, t2i, i2t, seed)


def split_tasks(tasks: Sequence[Task], split: str) -> list[Task]:
    """What is asked of the sets of a split: of those that it was trained on only what is compared with the others."""
    return [task for task in tasks if task in _SCORES or (split == "heldout" and task in _LOOKS)]
