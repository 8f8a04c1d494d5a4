"""Small stand-ins for what is large: configurations of a few thousand parameters, batches of noise, shards of squares."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bitgen.batch import Batch
from bitgen.model.bitgen import BitGen
from bitgen.objectives.total import Objective
from bitgen.record import Box, Phrase, Sample, Text
from bitgen.tokens import EOT, VOCABULARY
from bitgen.training.checkpoint import State
from bitgen.training.config import LossConfig, ModelConfig, TrainConfig, VisionConfig
from bitgen.training.phases import Phase, configure
from shards.format import FORMAT_VERSION, ShardWriter, shard_name
from shards.index import write_index

SIDE = 56
"""Pixels of a fake image: 4 x 4 patches of 14."""
PATCHES = 16
WIDTH = 16
VISION = VisionConfig(
    weights="random", lora_rank=2, lora_alpha=2.0, random_width=32, random_layers=2, random_heads=2, random_patch_px=14
)
MODEL = ModelConfig(
    vision=VISION,
    width=WIDTH,
    compressor_width=24,
    heads=2,
    ffn=24,
    text_layers=2,
    fusion_layers=1,
    decoder_layers=1,
    grounding_layers=1,
    memory_slots=4,
)


def model(seed: int = 0, **fields: Any) -> BitGen:
    """A model of `MODEL` with other `fields`, its weights drawn from `seed`."""
    torch.manual_seed(seed)
    return BitGen(replace(MODEL, **fields))


def config(phase: Phase = "coarse", *, loss: dict[str, Any] | None = None, **changes: dict[str, Any]) -> TrainConfig:
    """A phase at demo size, shrunk: 8 steps of 4 images, thawed at step 4, `MODEL`; `changes` by section."""
    shrunk = configure(phase, "demo")
    data = {"image_px": SIDE, "workers": 1} | changes.get("data", {})
    optim = {"batch": 4, "accumulation": 1, "epochs": 2, "lr": 1e-3, "lora_warmup_epochs": 1.0, "warmup_steps": 2}
    optim |= changes.get("optim", {})
    run = {"log_every": 1, "checkpoint_every": 100, "device": "cpu", "name": "tiny"} | changes.get("run", {})
    losses = {"queue": 8, "episode": 4, "episode_rows": 4, "episode_share": 1.0} | (loss or {})
    return replace(
        shrunk,
        data=replace(shrunk.data, **data),
        model=replace(MODEL, **changes.get("model", {})),
        optim=replace(shrunk.optim, **optim),
        loss=replace(shrunk.loss, **losses),
        run=replace(shrunk.run, **run),
    )


def objective(config: TrainConfig, seed: int = 0) -> Objective:
    """The objective of `config`, its weights drawn from `seed`."""
    torch.manual_seed(seed)
    return Objective(BitGen(config.model), config.loss, config.data)


def losses(**weights: Any) -> LossConfig:
    """Only the losses that are named."""
    none = dict.fromkeys(("itc", "itm", "text", "grounding", "region", "words", "memory_kl"), 0.0)
    return LossConfig(**{**none, "queue": 8, "episode": 4, "episode_rows": 4, **weights})


def state(config: TrainConfig, objective: Objective, samples: int = 16) -> State:
    """The start of a run whose epoch has `samples` draws."""
    return State(0, 0, samples, config, "0" * 64, objective.model.vision.config_dict())


def unit(rows: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    """[rows, width] random unit vectors."""
    return torch.nn.functional.normalize(noise(rows, width, seed=seed), dim=1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fake_batch(
    images: int = 4,
    *,
    texts: int = 2,
    phrases: int = 2,
    tokens: int = 16,
    seed: int = 0,
    image_ids: Sequence[int] | None = None,
    position: int = 0,
) -> Batch:
    """Noise in a batch's shape: `texts` texts an image of 6 to 12 tokens, `phrases` phrases a text with a box each.

    Phrase s of a text is its tokens [1 + s, 3 + s).
    """
    generator = torch.Generator().manual_seed(seed)
    count = images * texts
    lengths = torch.randint(6, 13, (count,), generator=generator)
    mask = torch.arange(tokens) < lengths[:, None]
    token_ids = torch.randint(0, VOCABULARY - 1, (count, tokens), generator=generator)
    token_ids[:, 0] = EOT
    token_ids[torch.arange(count), lengths - 1] = EOT
    slots = torch.arange(phrases).repeat(count)
    low = torch.rand(count * phrases, 2, generator=generator) * 0.5
    first = torch.arange(images) * texts
    return Batch(
        keys=tuple(f"fake-{position + i}" for i in range(images)),
        positions=position + torch.arange(images),
        image_ids=torch.tensor(list(image_ids)) if image_ids is not None else 1000 + position + torch.arange(images),
        images=torch.randint(0, 256, (images, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator),
        token_ids=token_ids.masked_fill(~mask, EOT),
        token_mask=mask,
        text_image=torch.arange(images).repeat_interleave(texts),
        first_text=first,
        second_text=first + 1 if texts > 1 else torch.full((images,), -1),
        phrase_text=torch.arange(count).repeat_interleave(phrases),
        phrase_slot=slots,
        phrase_tokens=torch.stack([1 + slots, 3 + slots], dim=1),
        boxes=torch.cat([low, low + 0.1 + torch.rand(count * phrases, 2, generator=generator) * 0.4], dim=1),
        box_phrase=torch.arange(count * phrases),
        crops=torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(images, 1),
        sizes=torch.full((images, 2), SIDE),
        max_slots=phrases,
        dropped={},
    )


def endless(images: int = 4, position: int = 0, **fields: Any) -> Iterator[Batch]:
    """A stream of fake batches from a position on: the same samples at the same positions, wherever it starts."""
    while True:
        yield fake_batch(images, seed=position, position=position, **fields)
        position += images


def part(batch: Batch, rank: int, world: int) -> Batch:
    """The rows of one rank, as if it had loaded them itself."""
    share = len(batch.keys) // world
    start, stop = rank * share, (rank + 1) * share
    texts = (batch.text_image >= start) & (batch.text_image < stop)
    phrases = texts[batch.phrase_text]
    boxes = phrases[batch.box_phrase]
    text_row, phrase_row = texts.cumsum(0) - 1, phrases.cumsum(0) - 1
    by_image = {
        name: getattr(batch, name)[start:stop] for name in ("positions", "image_ids", "images", "crops", "sizes")
    }
    second = batch.second_text[start:stop]
    return replace(
        batch,
        keys=batch.keys[start:stop],
        **by_image,
        token_ids=batch.token_ids[texts],
        token_mask=batch.token_mask[texts],
        text_image=batch.text_image[texts] - start,
        first_text=text_row[batch.first_text[start:stop]],
        second_text=torch.where(second < 0, -1, text_row[second]),
        phrase_text=text_row[batch.phrase_text[phrases]],
        phrase_slot=batch.phrase_slot[phrases],
        phrase_tokens=batch.phrase_tokens[phrases],
        boxes=batch.boxes[boxes],
        box_phrase=phrase_row[batch.box_phrase[boxes]],
    )


def write_shards(
    root: Path,
    name: str,
    samples: int = 8,
    *,
    role: str = "train",
    holdout: str = "0" * 64,
    first: int = 0,
    licence: str = "CC0",
) -> Path:
    """A dataset of coloured squares below `root`/shards, each with two captions of one phrase."""
    folder = root / "shards" / name
    folder.mkdir(parents=True)
    entries = []
    with ShardWriter(folder / shard_name(0)) as writer:
        for i in range(first, first + samples):
            image = _square(i)
            digest = hashlib.sha256(image).hexdigest()
            texts = tuple(Text(f"{word} {i}", (Phrase(0, len(word), (Box(0.1, 0.1, 0.6, 0.7),)),)) for word in _WORDS)
            sample = Sample(f"square-{i}", "square", "train", (f"coco:{i}",), 32, 32, licence, "", digest, texts)
            entries.append(writer.add(sample, image))
    write_index(folder, entries)
    shard = {"file": writer.path.name, "samples": samples, "bytes": writer.size_bytes, "sha256": writer.sha256}
    dataset = {"format_version": FORMAT_VERSION, "name": name.partition("/")[2], "role": role, "samples": samples}
    (folder / "dataset.json").write_text(json.dumps({**dataset, "holdout_sha256": holdout, "shards": [shard]}))
    return folder


_WORDS = ("a square", "one colour")


def _square(i: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (37 * i % 256, 91 * i % 256, 151 * i % 256)).save(file, "JPEG")
    return file.getvalue()
