"""The second pass of a build: one shard from one surveyed part."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from bitgen.record import Sample
from pipeline.decide import Plan
from pipeline.files import read_json, write_json
from pipeline.survey import Fate, inputs_of, is_turned, open_image, read_part
from shards.format import Entry, ShardError, ShardWriter, shard_name

JPEG_QUALITY = 95


@dataclass(frozen=True)
class ShardTask:
    """One shard to write."""

    part: Path
    path: Path
    """Of the shard; beside `part` it is noted that it is done."""
    kept: tuple[int, ...]
    """Which of the part's candidates go in."""
    joined: Mapping[int, tuple[str, ...]]
    """Samples of other candidates, as JSON, whose texts and ids a kept one takes in."""
    apply_orientation: bool
    shorter_side_px: int | None

    @property
    def sha256(self) -> str:
        """Of all that the shard depends on."""
        said = [
            inputs_of(self.part),
            self.path.name,
            self.kept,
            self.joined,
            self.apply_orientation,
            self.shorter_side_px,
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True)
class ShardDone:
    """A shard on disk, and the note beside its part that says so."""

    note: Path
    listed: Mapping[str, Any]
    """As `dataset.json` lists it: file, samples, bytes, sha256."""
    totals: Mapping[str, int]
    """Texts, phrases and boxes in it."""

    def entries(self) -> Iterator[Entry]:
        """Its rows of the index, from the note: those of all shards need not be in memory at once."""
        for entry in (read_json(self.note) or {})["entries"]:
            yield Entry(**entry | {"tokens": tuple(entry["tokens"]), "phrases": tuple(entry["phrases"])})


def shard_tasks(
    folder: Path, parts: Sequence[Path], plan: Plan, apply_orientation: bool, shorter_side_px: int | None
) -> Iterator[ShardTask]:
    """A task for every surveyed part that has samples, in order."""
    with_samples = [number for number, kept in enumerate(plan.kept) if kept]
    for shard, number in enumerate(with_samples):
        yield ShardTask(
            parts[number],
            folder / shard_name(shard),
            tuple(plan.kept[number]),
            {place: tuple(plan.joined[number, place]) for place in plan.kept[number] if (number, place) in plan.joined},
            apply_orientation,
            shorter_side_px,
        )


def write_shard(task: ShardTask) -> ShardDone:
    """Writes the shard of `task`, unless that was done before.

    Raises `ShardError` where an image is no longer what the survey saw, `OSError` as it comes from the disk.
    """
    note = task.part.with_name(f"{task.path.name}.json")
    if (done := _noted(note, task)) is not None:
        return done
    entries: list[Entry] = []
    with ShardWriter(task.path) as shard:
        for place, fate in _kept(task):
            sample = fate.candidate.sample
            size = (sample.width, sample.height)
            image, size = stored_bytes(_read(fate), size, task.apply_orientation, task.shorter_side_px)
            sample = join(sample, [Sample.from_json(line) for line in task.joined.get(place, ())])
            digest = hashlib.sha256(image).hexdigest()
            entries.append(shard.add(replace(sample, width=size[0], height=size[1], sha256=digest), image))
    listed = {"file": task.path.name, "samples": len(entries), "bytes": shard.size_bytes, "sha256": shard.sha256}
    totals = {
        "texts": sum(len(entry.tokens) for entry in entries),
        "phrases": sum(sum(entry.phrases) for entry in entries),
        "boxes": sum(entry.boxes for entry in entries),
    }
    said = {"task": task.sha256, "listed": listed, "totals": totals, "entries": [asdict(entry) for entry in entries]}
    write_json(note, said)
    return ShardDone(note, listed, totals)


def join(sample: Sample, others: list[Sample]) -> Sample:
    """`sample` with the texts and ids of `others`, which show the same image; a text that it has is not repeated."""
    texts = dict.fromkeys([*sample.texts, *(text for other in others for text in other.texts)])
    ids = {*sample.ids, *(id for other in others for id in other.ids)}
    return replace(sample, texts=tuple(texts), ids=tuple(sorted(ids))) if others else sample


def stored_bytes(
    data: bytes, size: tuple[int, int], apply_orientation: bool, shorter_side_px: int | None
) -> tuple[bytes, tuple[int, int]]:
    """What goes into a shard of an image of (upright) `size`, and its size there: `data`, unless turned or shrunk.

    What is re-encoded is so once, as a JPEG of quality `JPEG_QUALITY`.
    """
    is_large = min(size) > (side_px := shorter_side_px or min(size))
    if not is_large and not (apply_orientation and is_turned(data)):
        return data, size
    image = open_image(data, apply_orientation)
    if is_large:
        scale = side_px / min(size)
        size = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=JPEG_QUALITY)
    return encoded.getvalue(), size


def _noted(note: Path, task: ShardTask) -> ShardDone | None:
    """The shard as an earlier build left it, None where it has to be written."""
    known = read_json(note)
    if known is None or known["task"] != task.sha256 or not task.path.exists():
        return None
    if task.path.stat().st_size != known["listed"]["bytes"]:
        return None
    return ShardDone(note, known["listed"], known["totals"])


def _kept(task: ShardTask) -> Iterator[tuple[int, Fate]]:
    kept = set(task.kept)
    return ((place, fate) for place, fate in enumerate(read_part(task.part)) if place in kept)


def _read(fate: Fate) -> bytes:
    data = Path(fate.file).read_bytes()
    if hashlib.sha256(data).hexdigest() != fate.sha256:
        raise ShardError(f"expected the image to stay as it was, found it changed while building: {fate.file}")
    return data
