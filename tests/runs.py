"""Tiny datasets with every field of dataset.json, and a run's folder with a checkpoint, for evaluation and pages."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from bitgen.record import Box, Phrase, Sample, Text
from bitgen.training.checkpoint import save
from bitgen.training.config import TrainConfig
from shards.format import FORMAT_VERSION, ShardWriter, shard_name
from shards.index import write_index
from tests import fakes

HOLDOUT = "ab" * 32
LEFT, RIGHT = Box(0.1, 0.2, 0.4, 0.8), Box(0.6, 0.2, 0.9, 0.8)


def photo(number: int, size: tuple[int, int] = (48, 32)) -> bytes:
    """A JPEG of two rectangles, at LEFT and RIGHT, whose colours depend on `number`."""
    width, height = size
    image = Image.new("RGB", size, (20 * number % 256, 120, 90))
    draw = ImageDraw.Draw(image)
    for box, colour in ((LEFT, (250, 40 * number % 256, 20)), (RIGHT, (20, 60, 77 * number % 256))):
        draw.rectangle((box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height), fill=colour)
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def sample(number: int, texts: Sequence[Text], *, source: str = "drawn", image: bytes = b"") -> Sample:
    """The sample of `photo(number)` or of `image`."""
    digest = hashlib.sha256(image or photo(number)).hexdigest()
    return Sample(f"drawn-{number}", source, "train", (f"coco:{number}",), 48, 32, "CC0", "", digest, tuple(texts))


def captions(number: int) -> tuple[Text, ...]:
    """Two captions of a photo."""
    return Text(f"two rectangles, number {number}"), Text(f"picture {number} of a red and a blue thing")


def sentences(number: int) -> tuple[Text, ...]:
    """A sentence with two phrases, one box each, and an expression with one phrase of two boxes."""
    name = f"the red thing {number}"
    both = f"{name} and the blue thing"
    return (
        Text(both, (Phrase(0, len(name), (LEFT,)), Phrase(len(name) + 5, len(both), (RIGHT,)))),
        Text("both things", (Phrase(0, 11, (LEFT, RIGHT)),)),
    )


def write_set(root: Path, name: str, samples: Sequence[Sample], *, images: Sequence[bytes] = (), **fields: Any) -> Path:
    """A finished dataset at `root`/shards/`name`; its images are those of `photo` unless given; `fields` of the JSON."""
    folder = root / "shards" / name
    folder.mkdir(parents=True)
    entries = []
    with ShardWriter(folder / shard_name(0)) as writer:
        for number, each in enumerate(samples):
            image = images[number] if images else photo(int(each.key.rpartition("-")[2]))
            entries.append(writer.add(each, image))
    write_index(folder, entries)
    phrases = [phrase for each in samples for text in each.texts for phrase in text.phrases]
    dataset = {
        "format_version": FORMAT_VERSION,
        "name": Path(name).name,
        "source": "drawn",
        "split": "train",
        "phase": "fine" if phrases else "coarse",
        "role": "eval" if name.startswith("eval/") else "train",
        "holdout_sha256": HOLDOUT,
        "counts": {"kept": len(samples), "held_out": 3},
        "rows": len(samples) + 3,
        "samples": len(samples),
        "texts": sum(len(each.texts) for each in samples),
        "phrases": len(phrases),
        "boxes": sum(len(phrase.boxes) for phrase in phrases),
        "shards": [
            {"file": shard_name(0), "samples": len(samples), "bytes": writer.size_bytes, "sha256": writer.sha256}
        ],
    }
    (folder / "dataset.json").write_text(json.dumps({**dataset, **fields}))
    return folder


def write_world(root: Path) -> Path:
    """The four datasets of a small world below `root`: photographs 0 to 5 are trained on, 10 to 13 held out."""
    write_set(root, "coarse/drawn-train", [sample(n, captions(n)) for n in range(6)])
    write_set(root, "fine/drawn-train", [sample(n, sentences(n)) for n in range(6)])
    write_set(root, "eval/drawn-captions", [sample(n, captions(n)) for n in range(10, 14)])
    write_set(root, "eval/drawn-phrases", [sample(n, sentences(n)) for n in range(10, 14)])
    return root


def run_config(root: Path, runs: Path, name: str = "tiny", init: str = "") -> TrainConfig:
    """A fine run over the world at `root`."""
    data = {"root": str(root), "mixture": {"fine/drawn-train": 1.0, "coarse/drawn-train": 0.5}}
    return fakes.config("fine", data=data, run={"name": name, "runs": str(runs), "init": init})


def write_run(
    config: TrainConfig, holdout: str = HOLDOUT, lines: Sequence[dict[str, Any]] = (), stream: str = ""
) -> Path:
    """The folder of a run with one checkpoint of random weights, and `lines` as its metrics."""
    folder = Path(config.run.runs) / config.run.name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json())
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    objective = fakes.objective(config)
    state = fakes.state(config, objective)
    optimizer = torch.optim.AdamW(objective.parameters())
    save(
        folder,
        objective,
        optimizer,
        type(state)(**{**state.__dict__, "holdout_sha256": holdout, "step": 8, "stream": stream}),
        {},
    )
    return folder
