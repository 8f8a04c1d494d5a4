"""A dataset of noise, as large as a test wants, with some of everything that a build meets in it."""

import io
import random
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from tests.worlds import write_json


def noise(seed: int, size: tuple[int, int] = (96, 72), quality: int = 92) -> bytes:
    """A JPEG of random colours, 11 KB at its usual size; no two seeds look alike."""
    width, height = size
    pixels = random.Random(seed).randbytes(width * height * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", size, pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def coco_noise(data: Path, images: int, per_shard: int) -> Path:
    """A data folder with `images` training photographs of noise in COCO's format, a fifth as many to evaluate on, and
    some of everything that a build meets: images that are missing, damaged, of another size, twice there, or in the
    evaluation set too. Returns the manifest, `world.toml`, whose sources are `eval/world-val` and `coarse/world-train`.
    """
    raw = data / "raw/world"
    evaluated, first = images // 5, 1_000_000
    _write_noise(raw, "val", {first + i: noise(first + i) for i in range(evaluated)})
    training: dict[int, bytes | None] = {first + 100_000 + i: noise(i) for i in range(images)}
    for place, id in enumerate(training):
        if place % 23 == 5:
            training[id] = None
        if place % 29 == 6:
            training[id] = noise(place)[:-900]
        if place % 31 == 7:
            training[id] = noise(place, (72, 96))
        if place % 37 == 8:
            training[id] = noise(place - 8)
        if place % 41 == 9:
            training[id] = noise(first + place % evaluated)
    _write_noise(raw, "train", training)
    sources = [
        f'[[source]]\nname = "world"\nphase = "coarse"\nrole = "{role}"\nsplit = "{split}"\nreader = "coco"\n'
        f'annotations = ["{split}.json"]\nimages = ["{split}"]\nsamples_per_shard = {per_shard}\n'
        "refusal_ceiling = 0.5\n"
        for role, split in (("eval", "val"), ("train", "train"))
    ]
    manifest = data / "world.toml"
    manifest.write_text("\n".join(['name = "world"\nlicence = "CC0"\n', *sources]), encoding="utf-8")
    return manifest


def _write_noise(raw: Path, split: str, photographs: Mapping[int, bytes | None]) -> None:
    (raw / split).mkdir(parents=True)
    for id, photograph in photographs.items():
        if photograph is not None:
            (raw / split / f"{id}.jpg").write_bytes(photograph)
    images = [{"id": id, "file_name": f"{id}.jpg", "width": 96, "height": 72, "license": 1} for id in photographs]
    rows = [(id, caption) for id in photographs for caption in (f"the first of {id}", f"a second of {id}")]
    annotations = [{"id": i, "image_id": id, "caption": caption} for i, (id, caption) in enumerate(rows)]
    licences = [{"id": 1, "name": "CC0", "url": ""}]
    write_json(raw / f"{split}.json", {"licenses": licences, "images": images, "annotations": annotations})
