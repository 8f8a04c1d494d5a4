"""Datasets of several shards to make features of, batches of features, and what is in a folder of them."""

import hashlib
import io
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from bitgen.batch import Batch
from bitgen.features import FeatureForm
from bitgen.model.vision import VisionTower
from bitgen.record import Box, Phrase, Sample, Text
from shards.format import FORMAT_VERSION, ShardWriter, shard_name
from shards.index import write_index


def write_images(root: Path, name: str, shards: Sequence[int], damaged: Collection[int] = (), first: int = 0) -> Path:
    """A dataset below `root`/shards, shards of so many images of noise; those of `damaged` numbers do not decode.

    Args:
        first: number of the first image's noise; the records are the same but for the images' digests.
    """
    folder = root / "shards" / name
    folder.mkdir(parents=True)
    entries, listed = [], []
    for number, size in enumerate(shards):
        with ShardWriter(folder / shard_name(number)) as shard:
            for i in range(len(entries), len(entries) + size):
                image = noise(first + i)[: 400 if i in damaged else None]
                texts = (Text(f"noise {i}", (Phrase(0, 5, (Box(0.1, 0.2, 0.6, 0.9),)),)), Text("noise " * (1 + i % 7)))
                digest = hashlib.sha256(image).hexdigest()
                sample = Sample(f"noise-{i}", "noise", "train", (f"coco:{i}",), 40, 30, "CC0", "", digest, texts)
                entries.append(shard.add(sample, image))
        listed.append(
            {"file": shard.path.name, "samples": size, "bytes": shard.size_bytes, "sha256": shard.sha256},
        )
    write_index(folder, entries)
    dataset = {
        "format_version": FORMAT_VERSION,
        "name": name.partition("/")[2],
        "role": "train",
        "samples": len(entries),
    }
    (folder / "dataset.json").write_text(json.dumps({**dataset, "holdout_sha256": "0" * 64, "shards": listed}))
    return folder


def noise(number: int) -> bytes:
    """A JPEG of 40x30 pixels, another for every number."""
    coarse = torch.randint(0, 256, (6, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
    file = io.BytesIO()
    Image.fromarray(coarse.numpy()).resize((40, 30)).save(file, "JPEG")
    return file.getvalue()


def in_place_of_images(batch: Batch, tower: VisionTower, form: FeatureForm) -> Batch:
    """The batch as it would be read from stored features."""
    with torch.no_grad():
        made = form.members(tower(batch.images))
    memory = torch.zeros(len(made), *form.shape, dtype=torch.uint8)
    for member, out in zip(made, memory, strict=True):
        form.fill(member, (1, 1), out, 0, 0, 1)
    return replace(batch, **form.fields(memory))


def contents(folder: Path) -> dict[str, bytes]:
    """The digest of every file, locks apart, by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest() for path in files}
