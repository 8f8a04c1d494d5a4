"""What a trained model says and remembers of scenes that it never saw.

    python -m tests.benchmarks.ablation_asked RUN DATASET REPORT

captions  F1 of the (colour, shape) pairs that its captions say, as in `learn.py`
recall    captions written under one random half of an image's patches, asked for with the other half: `memory_quality` and
          its controls, at each number of pairs to a memory. Its `own` captions, which a model that has learned to describe
          tells among others without a memory, so that `empty` and `shuffled` are far above chance; and those of an `other`
          scene of the memory, which nothing but the memory can tell
naming    pictures of one thing written under its name, and other pictures of such things asked for, of pairs of colour and
          shape that no training scene holds (`unseen`) and of as many that training scenes hold (`seen`)

Writes what it found to REPORT, as JSON. Axes: I images, N pairs, E episodes, C channels, K slots.
"""

import json
import random
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitgen import BitGen
from bitgen.evaluation.naming import named
from bitgen.evaluation.recall import Halves, encode_halves, recall_curves
from bitgen.tokens import shared_tokenizer
from bitgen.views import view
from pipeline.drawing.captions import described
from pipeline.drawing.picture import picture
from pipeline.drawing.scene import CANVAS, HELD_OUT, SEEN, SIZES, TEXTURES, Pair, Scene, Thing
from pipeline.wholes import batches
from shards.index import ShardIndex
from tests.benchmarks.learn import caption_scores

WRITES = (2, 4, 8, 16, 32, 64)
"""Pairs to a memory."""
SHOTS = (1, 2, 4, 8, 16)
"""Pictures written of each name."""
_READS = 2048
"""Of each point of the curves, at least."""
_ROUNDS = 20
_QUERIES = 8
_EXTENTS = {"small": 96, "large": 156}
_MARGIN = 4


def ask(run: Path, dataset: Path) -> dict[str, Any]:
    """All of it."""
    model = BitGen.from_pretrained(run)
    with torch.inference_mode():
        return {
            "captions": caption_scores(run, dataset),
            "recall": recall_curves(
                model.network.memory, _halves(model, ShardIndex.open(dataset)), WRITES, reads=_READS
            ),
            "naming": {name: naming(model, pairs) for name, pairs in named_pairs().items()},
        }


def named_pairs() -> dict[str, list[Pair]]:
    """The pairs of colour and shape that are given names."""
    unseen = sorted(HELD_OUT)
    return {"unseen": unseen, "seen": random.Random(0).sample(sorted(SEEN), len(unseen))}


def _halves(model: BitGen, index: ShardIndex) -> Halves:
    return encode_halves(model.network, batches(index, range(len(index)), model.side_px, model.max_tokens, 64))


def naming(model: BitGen, pairs: list[Pair]) -> dict[str, dict[str, float]]:
    """Shares of pictures that are named right, by the pictures written of each name and by who names them: those of
    `bitgen.evaluation.naming.named`, and chance, which is one of the names at random."""
    memory, names = (
        model.network.memory,
        [described(Thing(shape, colour, "", ""), frozenset()) for colour, shape in pairs],
    )
    pictures = max(SHOTS) + _QUERIES
    keys = torch.stack([_keys(model, pair, 2 * pictures) for pair in pairs])
    values = _codes(model, names)
    hits: dict[int, dict[str, list[float]]] = {shots: defaultdict(list) for shots in SHOTS}
    generator = torch.Generator().manual_seed(0)
    for _ in range(_ROUNDS):
        order = torch.stack([torch.randperm(keys.shape[1], generator=generator)[:pictures] for _ in pairs]).to(
            keys.device
        )
        drawn = keys.gather(1, order[..., None].expand(-1, -1, keys.shape[-1]))
        queries = drawn[:, max(SHOTS) :].flatten(0, 1)
        wanted = torch.arange(len(pairs)).repeat_interleave(_QUERIES)
        for shots in SHOTS:
            for who, which in named(memory, drawn[:, :shots], values, queries).items():
                hits[shots][who].append((which == wanted).double().mean().item())
    found = {
        str(shots): {who: round(statistics.mean(all_), 4) for who, all_ in each.items()} for shots, each in hits.items()
    }
    return {shots: {**each, "chance": round(1 / len(pairs), 4)} for shots, each in found.items()}


def _keys(model: BitGen, pair: Pair, count: int) -> Tensor:
    """[count, C] of pictures that show one thing of the pair, of any size, texture and place."""
    rng = random.Random(f"naming/{pair}")
    pixels = torch.stack([view(one_thing(pair, rng, model.side_px), model.side_px).pixels for _ in range(count)])
    return model.network.encode_image(pixels.to(model.device)).code.float()


def one_thing(pair: Pair, rng: random.Random, side_px: int) -> Any:
    """A picture, Pillow's, of one thing alone."""
    size, (colour, shape) = rng.choice(SIZES), pair
    half = _EXTENTS[size] // 2 + _MARGIN
    x, y = (rng.randint(half, CANVAS - half) for _ in range(2))
    thing = Thing(shape, colour, size, rng.choice(TEXTURES), x, y, _EXTENTS[size])
    return picture(Scene((thing,)), rng, side_px)


def _codes(model: BitGen, names: list[str]) -> Tensor:
    """[names, C]."""
    found = []
    for name in names:
        encoded = shared_tokenizer().encode(name, model.max_tokens)
        ids = torch.tensor([encoded.ids], device=model.device)
        found.append(model.network.encode_text(ids, torch.ones_like(ids, dtype=torch.bool)).code[0].float())
    return torch.stack(found)


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(ask(Path(sys.argv[1]), Path(sys.argv[2]))))
