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
from torch.nn import functional as F

from bitgen import BitGen
from bitgen.evaluation.memory import memory_quality
from bitgen.model.bitgen import BitGen as Network
from bitgen.objectives.memory import random_halves
from bitgen.recollections import Recollections
from bitgen.tokens import shared_tokenizer
from bitgen.views import view
from pipeline.drawing.captions import described
from pipeline.drawing.picture import picture
from pipeline.drawing.scene import CANVAS, HELD_OUT, SEEN, SIZES, TEXTURES, Pair, Scene, Thing
from pipeline.results import batches
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
            "recall": recall_curves(model, ShardIndex.open(dataset)),
            "naming": {name: naming(model, pairs) for name, pairs in named_pairs().items()},
        }


def named_pairs() -> dict[str, list[Pair]]:
    """The pairs of colour and shape that are given names."""
    unseen = sorted(HELD_OUT)
    return {"unseen": unseen, "seen": random.Random(0).sample(sorted(SEEN), len(unseen))}


def recall_curves(model: BitGen, index: ShardIndex) -> dict[str, dict[str, dict[str, float]]]:
    """`memory_quality` of `own` and `other` captions under halves of images, by the number of pairs to a memory."""
    network, generator = model.network, torch.Generator().manual_seed(0)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in batches(index, range(len(index)), model.side_px, model.max_tokens, 64):
        image = network.encode_image(batch.images.to(model.device))
        text = network.encode_text(batch.token_ids.to(model.device), batch.token_mask.to(model.device))
        halves = random_halves(torch.rand(image.dual.shape[:2], generator=generator)).to(model.device)
        written, asked = network.image_pool(image.dual, halves), network.image_pool(image.dual, ~halves)
        parts.append((written, asked, text.code[batch.first_text.to(model.device)].float()))
    written, asked, values = (torch.cat(part) for part in zip(*parts, strict=True))
    found: dict[str, dict[str, dict[str, float]]] = {"own": {}, "other": {}}
    for pairs in (pairs for pairs in WRITES if pairs <= len(written)):
        rows = torch.stack([_some(len(written), pairs, generator) for _ in range(max(2, -(-_READS // pairs)))])
        for kind, shift in (("own", 0), ("other", 1)):
            quality = memory_quality(network.memory, written[rows], asked[rows], values[rows].roll(shift, dims=1))
            found[kind][str(pairs)] = {name: round(value, 4) for name, value in quality.items()}
    return found


def _some(count: int, most: int, generator: torch.Generator) -> Tensor:
    """`most` of the numbers below `count`, at random."""
    return torch.randperm(count, generator=generator)[:most]


def naming(model: BitGen, pairs: list[Pair]) -> dict[str, dict[str, float]]:
    """Shares of pictures that are named right, by the pictures written of each name and by who names them:

    recall    `BitGen.recall`'s surest name: it keeps the key of every picture beside the memory
    reading   the name whose text code is nearest to what the memory alone reads: as many numbers whatever was written
    cache     the nearest key of a cache of as many numbers as the memory's state, which holds the last that were written
    nearest   the nearest key of all
    empty     `reading` of a memory in which nothing was written
    shuffled  `recall` where each picture was written under the name of the next pair
    chance    one of the names at random
    """
    network, names = model.network, [described(Thing(shape, colour, "", ""), frozenset()) for colour, shape in pairs]
    pictures = max(SHOTS) + _QUERIES
    keys = torch.stack([_keys(model, pair, 2 * pictures) for pair in pairs])
    values = _codes(model, names)
    hits: dict[int, dict[str, list[float]]] = {shots: defaultdict(list) for shots in SHOTS}
    generator = torch.Generator().manual_seed(0)
    for _ in range(_ROUNDS):
        order = torch.stack([_some(keys.shape[1], pictures, generator) for _ in pairs]).to(keys.device)
        drawn = keys.gather(1, order[..., None].expand(-1, -1, keys.shape[-1]))
        queries = drawn[:, max(SHOTS) :].flatten(0, 1)
        wanted = torch.arange(len(pairs)).repeat_interleave(_QUERIES)
        for shots in SHOTS:
            for who, named in _named(network, drawn[:, :shots], values, names, queries).items():
                hits[shots][who].append((named == wanted).double().mean().item())
    found = {
        str(shots): {who: round(statistics.mean(all_), 4) for who, all_ in each.items()} for shots, each in hits.items()
    }
    return {shots: {**each, "chance": round(1 / len(pairs), 4)} for shots, each in found.items()}


def _named(network: Network, written: Tensor, values: Tensor, names: list[str], queries: Tensor) -> dict[str, Tensor]:
    """The number of the name that each way gives to each of `queries` [Q, C]; `written` [names, shots, C]."""
    memory = network.memory
    turns = written.transpose(0, 1).flatten(0, 1)  # one picture of every name, then another of each
    of_turn = torch.arange(len(names)).repeat(written.shape[1])
    every = torch.ones(1, len(turns), dtype=torch.bool, device=turns.device)
    state = memory.write(memory.empty(1), turns[None], values[of_turn][None], every)
    held = cache_size(memory.slots, memory.width)
    return {
        "recall": _recalled(network, written, values, names, queries),
        "reading": _nearest(memory.read(state, queries[None]).values[0], values),
        "cache": of_turn[-held:][_nearest(queries, turns[-held:])],
        "nearest": of_turn[_nearest(queries, turns)],
        "empty": _nearest(memory.read(memory.empty(1), queries[None]).values[0], values),
        "shuffled": _recalled(network, written.roll(1, dims=0), values, names, queries),
    }


def cache_size(slots: int, width: int) -> int:
    """Entries of a key and the number of a name that fit into as many numbers as a memory's state, S and η, has."""
    return (slots * slots + slots * width) // (width + 1)


def _recalled(network: Network, written: Tensor, values: Tensor, names: list[str], queries: Tensor) -> Tensor:
    """The number of the surest name, -1 for none."""
    recollections = Recollections(network.memory)
    for keys, value, name in zip(written, values, names, strict=True):
        recollections.remember(keys, value, name)
    found = [next(iter(each.names), "") for each in recollections.recall(queries)]
    return torch.tensor([names.index(name) if name else -1 for name in found])


def _nearest(queries: Tensor, entries: Tensor) -> Tensor:
    """[Q], on the CPU: the entry of the highest cosine."""
    return (F.normalize(queries, dim=-1) @ F.normalize(entries, dim=-1).T).argmax(dim=1).cpu()


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
