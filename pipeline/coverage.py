"""Whether an image of an evaluation set may have been trained on, where checkpoint and set come from different builds.

A build holds out every evaluation image that it knows of, by its ids, and its datasets and the checkpoints trained on
them carry the hash of all those ids. A set is covered by a checkpoint where one of these is so:

1. "same lists": both carry one hash. A build's list has every image of its own evaluation sets.
2. "listed": the list of the checkpoint's hash is at hand (its run has it as holdout.txt), and every image of the set
   has an id on it.
3. "not trained on": all datasets that the checkpoint, and the runs that it started from, were trained on are at hand,
   and none of their images is one of the set's: by any id in the records, by the bytes as they came, and by the look.
   A build that had known the set would have left nothing else out.

The first two say nothing where a run was allowed to take datasets of different lists. Whatever else there is, is not
covered: that nobody knows of an image that was trained on is no proof that none was. A dataset that a run drew from
before its mixture was changed is in no configuration, so the third does not look at it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bitgen.evaluation.breakdown import check_counts
from bitgen.progress import progress
from bitgen.record import Sample
from bitgen.training.config import TrainConfig
from bitgen.training.folders import HOLDOUT
from pipeline.annotations.ids import ids_of_url
from pipeline.building.finished import IMAGES, read_images
from pipeline.holdout import BlockList, Looks, find_list, kept_in
from shards.files import Folder
from shards.index import ShardIndex

SAME_LISTS, LISTED, NOT_TRAINED_ON, NOT_COVERED = "same lists", "listed", "not trained on", "not covered"
_ROWS = 65536


@dataclass(frozen=True)
class Cover:
    """What is known of one evaluation set."""

    by: str
    """`SAME_LISTS`, `LISTED`, `NOT_TRAINED_ON` or `NOT_COVERED`."""
    why_not: str = ""
    """What is missing, of a set that is not covered."""


@dataclass(frozen=True)
class Trained:
    """What a checkpoint was trained on, as far as it is at hand."""

    holdout_sha256: str
    """The checkpoint's."""
    sets: Mapping[str, ShardIndex]
    gaps: tuple[str, ...]
    """Why that is not all of it."""
    is_mixed: bool
    """Whether a run was allowed to take datasets of different lists."""


def trained(
    holdout_sha256: str,
    configs: Sequence[TrainConfig],
    sets: Mapping[str, ShardIndex],
    missing: Sequence[str],
    changed: Sequence[str] = (),
) -> Trained:
    """Of a run's configuration and those of the runs that it started from, nearest first; `missing` sets are not here, and
    `changed` says why those that are here are others."""
    gaps = [*(f"{name} is not here" for name in missing), *changed]
    if configs[-1].run.init:
        gaps.append("what an earlier run was trained on is not known")
    gaps += [f"{name} has no {IMAGES} here" for name, index in sets.items() if not _has_images(index)]
    return Trained(holdout_sha256, sets, tuple(gaps), any(config.data.allow_other_holdout for config in configs))


def list_of(holdout_sha256: str, checkpoint: Path, shards: Path | None) -> BlockList | None:
    """The list of that hash, which a run has, a published model, or the folder of the datasets that were trained on; or
    those that ship; None where it is not at hand. `checkpoint` may be an export in its run's folder, `shards` is None for a URL."""
    run = checkpoint.resolve().parent
    files = [run.parent / HOLDOUT, run / HOLDOUT, checkpoint / HOLDOUT]
    return find_list(holdout_sha256, [*files, *([kept_in(shards, holdout_sha256)] if shards else [])])


def coverage(heldout: Mapping[str, ShardIndex], trained: Trained, listed: BlockList | None) -> dict[str, Cover]:
    """How each evaluation set is covered.

    Args:
        listed: the checkpoint's list, where it is at hand.

    Records are read of sets under other lists alone; those of what was trained on, once, where nothing less tells.
    Raises what reading them raises.
    """
    listed = None if trained.is_mixed else listed
    found: dict[str, Cover] = {}
    left: dict[str, _Images] = {}
    for name, index in heldout.items():
        if not trained.is_mixed and index.dataset.get("holdout_sha256") == trained.holdout_sha256:
            found[name] = Cover(SAME_LISTS)
            continue
        images = _Images(index, listed)
        if listed is not None and not images.unlisted:
            found[name] = Cover(LISTED)
        else:
            left[name] = images
    gaps = {name: trained.gaps + (() if images.is_whole else (f"it has no {IMAGES}",)) for name, images in left.items()}
    _compare([images for name, images in left.items() if not gaps[name]], trained.sets)
    for name, images in left.items():
        if not gaps[name] and not images.shown:
            found[name] = Cover(NOT_TRAINED_ON)
            continue
        on_lists = "the checkpoint's lists are not here"
        if trained.is_mixed:
            on_lists = "datasets of different lists were trained on"
        elif listed is not None:
            on_lists = f"{images.unlisted:,} of its {len(heldout[name]):,} images are on none of the checkpoint's lists"
        shown = (
            f"samples that were trained on show its images: {len(images.shown):,}, as {next(iter(images.shown), '')}"
        )
        found[name] = Cover(NOT_COVERED, f"{on_lists}; {', '.join(gaps[name]) or shown}")
    return {name: found[name] for name in heldout}


def notes_on(covers: Mapping[str, str]) -> list[str]:
    """What a reader of results must know of how sets are covered, as sentences; nothing of those under the same lists.

    Args:
        covers: by set, as `Cover.by`.
    """
    said = {
        LISTED: "each of their images is on those too",
        NOT_TRAINED_ON: "none of their images was trained on: by id, by bytes and by look",
        NOT_COVERED: "their images may have been trained on",
    }
    names = {by: ", ".join(name for name, found in covers.items() if found == by) for by in said}
    return [
        f"Built under other hold-out lists than this checkpoint's, and {said[by]}: {names[by]}."
        for by in said
        if names[by]
    ]


def account(index: ShardIndex, cover: Cover) -> dict[str, Any]:
    """What results say of an evaluation set, beside its figures.

    "holdout": how it is covered; "rows": of its official files, by outcome; "lost": what of it could not be evaluated and
    why, in words, empty where it is as large as published. Raises `bitgen.evaluation.breakdown.CountError`, before
    anything is measured, where it is of another size and the outcomes do not say why.
    """
    lost = check_counts(index.dataset, {"images": len(index), "rows": index.dataset["texts"]})
    return {"holdout": cover.by, "rows": dict(index.dataset.get("counts", {})), "lost": lost}


class _Images:
    """The images of one evaluation set, by all that one can be known by."""

    def __init__(self, index: ShardIndex, listed: BlockList | None) -> None:
        self._ids: set[str] = set()
        self._looks = Looks()
        self.unlisted = 0
        """Images without an id on the list."""
        self.shown: dict[str, None] = {}
        """Samples to train on that show one of them, as "coarse/coco-train coco-000000000042", in the order found."""
        self.is_whole = _has_images(index)
        for i in range(len(index)):
            sample = index.record(i)
            ids = _known_as(sample)
            self._ids.update(ids)
            self.unlisted += listed is not None and listed.blocking(ids) is None
        for image in read_images(index.folder) if self.is_whole else ():
            self._looks.add(image.sha256, image.look, image.key)

    def see(self, whose: str, sample: Sample) -> None:
        """A record of what was trained on."""
        if not self._ids.isdisjoint(_known_as(sample)):
            self.shown[whose] = None

    def see_all(self, name: str, folder: Path) -> None:
        """The images of a dataset that was trained on, as they came."""
        images = read_images(folder)
        while some := list(islice(images, _ROWS)):
            firsts = np.array([int(image.sha256[:16], 16) for image in some], np.uint64)
            looks = np.array([image.look for image in some], np.uint64)
            for row in np.flatnonzero(self._looks.may_match(firsts, looks)).tolist():
                if self._looks.match(some[row].sha256, some[row].look):
                    self.shown[f"{name} {some[row].key}"] = None


def _compare(wanted: Sequence[_Images], sets: Mapping[str, ShardIndex]) -> None:
    """Shows each of `wanted` everything that was trained on."""
    for name, index in sets.items() if wanted else ():
        with progress(f"{name}: compared with evaluation images", len(index), "samples") as bar:
            for i in range(len(index)):
                sample = index.record(i)
                for images in wanted:
                    images.see(f"{name} {sample.key}", sample)
                bar.update(1)
        for images in wanted:
            images.see_all(name, index.folder)


def _known_as(sample: Sample) -> tuple[str, ...]:
    return (*sample.ids, *ids_of_url(sample.url))


def _has_images(index: ShardIndex) -> bool:
    return isinstance(index.files, Folder) and (index.folder / IMAGES).is_file()
