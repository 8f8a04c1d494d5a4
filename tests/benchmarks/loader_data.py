"""What the loaders read: two datasets of ours, and the same JPEGs and a caption of each for those with another format.

A folder of it holds

    shards/coarse/bench-train   half of the photographs, five captions each
    shards/fine/bench-train     the other half, seven texts with phrases and boxes each
    photos/all/KEY.jpg          all of them, as files
    captions.json               [[KEY, first text], ...]
"""

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

import simplejpeg

from bitgen.record import Box, Phrase, Sample, Text
from shards.format import FORMAT_VERSION, ShardWriter, shard_name
from shards.index import DATASET, write_index
from tests.benchmarks import photos
from tests.benchmarks.loader_terms import COARSE, FINE

EXPRESSIONS, SENTENCES, SENTENCE_PHRASES = 4, 3, 4
"""Of each image of the fine source: as many as RefCOCO has of the one, and MDETR's mixed annotations of the other."""


def write(photographs: Sequence[bytes], folder: Path, count: int, per_shard: int) -> int:
    """Fills `folder` from distinct copies of `photographs`, every second one in the fine source. Returns their bytes."""
    (folder / "photos/all").mkdir(parents=True)
    captions: list[tuple[str, str]] = []
    size_bytes = 0

    def photograph(number: int) -> bytes:
        return photos.distinct(photographs[number % len(photographs)], number)

    for name, start, texts in ((COARSE, 0, _captions), (FINE, 1, _grounded)):
        dice = random.Random(start)
        numbers = range(start, count, 2)
        samples = (_sample(number, photograph(number), texts(dice)) for number in numbers)
        target = folder / "shards" / name
        target.mkdir(parents=True)
        entries, listed = [], []
        for shard, first in enumerate(range(0, len(numbers), per_shard)):
            with ShardWriter(target / shard_name(shard)) as writer:
                for number in numbers[first : first + per_shard]:
                    sample, image = next(samples), photograph(number)
                    entries.append(writer.add(sample, image))
                    captions.append((sample.key, sample.texts[0].text))
                    (folder / f"photos/all/{sample.key}.jpg").write_bytes(image)
                    size_bytes += len(image)
            listed.append(
                {
                    "file": shard_name(shard),
                    "samples": writer.samples,
                    "bytes": writer.size_bytes,
                    "sha256": writer.sha256,
                }
            )
        write_index(target, entries)
        write_dataset(target, name, listed)
    (folder / "captions.json").write_text(json.dumps(captions))
    return size_bytes


def write_dataset(folder: Path, name: str, listed: Sequence[dict[str, object]]) -> None:
    """The `dataset.json` of training data with these shards."""
    dataset = {
        "format_version": FORMAT_VERSION,
        "name": Path(name).name,
        "role": "train",
        "holdout_sha256": "0" * 64,
        "samples": sum(int(str(shard["samples"])) for shard in listed),
        "shards": list(listed),
    }
    (folder / DATASET).write_text(json.dumps(dataset))


def _sample(number: int, image: bytes, texts: tuple[Text, ...]) -> Sample:
    height, width, *_ = simplejpeg.decode_jpeg_header(image)
    id = photos.FIRST_ID + number
    digest = hashlib.sha256(image).hexdigest()
    return Sample(
        f"bench-{id:012d}", "bench", "train", (f"coco:{id}",), int(width), int(height), "CC BY", "", digest, texts
    )


def _captions(dice: random.Random) -> tuple[Text, ...]:
    return tuple(Text(photos.caption(dice)) for _ in range(photos.CAPTIONS))


def _grounded(dice: random.Random) -> tuple[Text, ...]:
    """Referring expressions of a phrase with a box each, and sentences of several phrases with a box or two each."""
    texts = []
    for _ in range(EXPRESSIONS):
        words = photos.caption(dice, 2, 6)
        texts.append(Text(words, (Phrase(0, len(words), (_box(dice),)),)))
    for _ in range(SENTENCES):
        text, phrases = "", []
        for _ in range(SENTENCE_PHRASES):
            words = photos.caption(dice, 2, 5)
            boxes = tuple(_box(dice) for _ in range(dice.randint(1, 2)))
            phrases.append(Phrase(len(text), len(text) + len(words), boxes))
            text += f"{words} {photos.caption(dice, 1, 3)} "
        texts.append(Text(text.strip(), tuple(phrases)))
    return tuple(texts)


def _box(dice: random.Random) -> Box:
    x, y = dice.uniform(0, 0.6), dice.uniform(0, 0.6)
    return Box(x, y, x + dice.uniform(0.05, 0.4), y + dice.uniform(0.05, 0.4))
