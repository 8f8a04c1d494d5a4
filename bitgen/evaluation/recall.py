"""What a model remembers of photographs: as the memory fills, by name, after forgetting, and whether it knows that it knows.

A photograph is written under the code of one random half of its patches and asked for with the code of the other half, so that no
pixel is seen twice. What is written is the code of a text:

    own    the photograph's own text: a model that has learnt to describe tells it among others without a memory, so that the
           controls `empty` and `shuffled` lie far above chance
    other  the text of another photograph: nothing but the memory can tell it

Naming, forgetting and novelty are about texts of other photographs only.

Axes: I photographs, E episodes (memories), N pairs written to each, G values searched among, C channels, K slots.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgen.batch import Batch
from bitgen.evaluation.bootstrap import RESAMPLES, intervals
from bitgen.evaluation.finite import check_finite
from bitgen.evaluation.memory import is_first, means, memory_hits
from bitgen.evaluation.naming import naming
from bitgen.evaluation.novelty import apart, novelty
from bitgen.evaluation.slots import slot_use
from bitgen.model.bitgen import BitGen
from bitgen.model.memory import EpisodicMemory, MemoryState
from bitgen.objectives.memory import random_halves

READS = 1024
"""Readings behind each figure, at least: a share's standard error is 1.6% at most."""
FULL = 4
"""The longest episode in slots. What is searched among is as many whatever was written, so that a curve's chance level is one."""
LEAST = 6
"""Photographs that there must be: three episodes that share none, of two."""


@dataclass(frozen=True)
class Halves:
    """Two views of I photographs and a text of each, as the memory takes them; float32, on the model's device."""

    written: Tensor
    """[I, C], of one random half of the patches."""
    asked: Tensor
    """[I, C], of the other half."""
    values: Tensor
    """[I, C], of each photograph's first text; equal texts have equal codes."""
    text: Tensor
    """[I] int64 on the CPU, equal where the text is."""

    def __len__(self) -> int:
        return len(self.written)


def evaluate_memory(
    model: BitGen, batches: Iterable[Batch], seed: int = 0, *, reads: int = READS, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Every figure of the memory over the photographs of `batches`; a photograph that stands twice counts once.

    Args:
        seed: of the halves, of who is written with whom, and of the intervals; resamples: of these.
        reads: readings behind each figure, at least.

    Returns {"photographs", "texts" (that differ), "slots", "width", "seed", "searched" (G of the curves), and, each by N as a
    string where it says so:
        "recall": {"own": {N: figures of `memory_quality`, "reads", "interval"}, "other": {N: ...}}
        "naming": {N: shares of `naming`, with "interval"}
        "forgetting": what `forgetting` returns
        "novelty": {N: areas of `novelty`, with "interval"}
        "slot_use": what `slot_use` returns}.
    N goes as far as a third of the photographs allows. Raises `ValueError` for fewer than `LEAST` photographs, and
    `NotFiniteError` where a code is not all numbers: what an episode reads depends on all that was written.
    """
    halves = encode_halves(model, batches, seed)
    if len(halves) < LEAST:
        raise ValueError(f"expected {LEAST} or more photographs to remember, found {len(halves)}")
    check_finite(
        "codes of photographs and their texts", torch.cat([halves.written, halves.asked, halves.values], dim=1)
    )
    memory = model.memory
    writes = [2**n for n in range((FULL * memory.slots).bit_length()) if 2**n <= FULL * memory.slots]
    distinct = first_of_each(halves.text)
    return {
        "photographs": len(halves),
        "texts": len(distinct),
        "slots": memory.slots,
        "width": memory.width,
        "seed": seed,
        "searched": min(FULL * memory.slots, len(halves) // 3),
        "recall": recall_curves(
            memory, halves, writes, seed, reads=reads, searched=FULL * memory.slots, resamples=resamples
        ),
        "naming": naming(
            memory,
            halves.written[distinct],
            halves.asked[distinct],
            halves.values[distinct],
            seed,
            reads=reads,
            resamples=resamples,
        ),
        "forgetting": forgetting(memory, halves, seed, reads=reads, resamples=resamples),
        "novelty": novelty(memory, halves.written, halves.asked, writes, seed, reads=reads, resamples=resamples),
        "slot_use": slot_use(memory, halves.written, seed, resamples),
    }


@torch.inference_mode()
def encode_halves(model: BitGen, batches: Iterable[Batch], seed: int = 0) -> Halves:
    """The codes of the photographs of `batches`, each once. Raises `ValueError` where there are none."""
    device, generator = next(model.parameters()).device, torch.Generator().manual_seed(seed)
    parts: list[tuple[Tensor, ...]] = []
    known: set[int] = set()
    said: dict[tuple[int, ...], int] = {}
    texts: list[int] = []
    for batch in batches:
        image = model.encode_image(batch.images.to(device))
        ids, mask = batch.token_ids[batch.first_text], batch.token_mask[batch.first_text]
        text = model.encode_text(ids.to(device), mask.to(device))
        halves = random_halves(torch.rand(image.dual.shape[:2], generator=generator)).to(device)
        kept = [row for row, one in enumerate(batch.image_ids.tolist()) if not (one in known or known.add(one))]
        codes = (model.image_pool(image.dual, halves), model.image_pool(image.dual, ~halves), text.code)
        parts.append(tuple(code[kept].float() for code in codes))
        for row in kept:
            words = tuple(ids[row][mask[row]].tolist())
            texts.append(said.setdefault(words, len(texts)))  # the number of the first photograph that has it
    if not texts:
        raise ValueError("expected one or more photographs to remember, found none")
    written, asked, values = (torch.cat(part) for part in zip(*parts, strict=True))
    text = torch.tensor(texts)
    return Halves(written, asked, values[text.to(device)], text)


def first_of_each(text: Tensor) -> Tensor:
    """The photographs whose text, of [I] as in `Halves`, no earlier one has; ascending."""
    return (text == torch.arange(len(text))).nonzero()[:, 0]


def recall_curves(
    memory: EpisodicMemory,
    halves: Halves,
    writes: Sequence[int],
    seed: int = 0,
    *,
    reads: int,
    searched: int = 0,
    resamples: int = 0,
) -> dict[str, dict[str, dict[str, Any]]]:
    """`memory_quality` of `own` and `other` texts by N, as {"own": {"1": {...}, ...}, "other": {...}}, rounded to 1e-4.

    Args:
        writes: N, of which those above a third of the photographs are left out.
        reads: readings behind each figure, at least.
        searched: G where N is smaller; with 0 those written alone are searched among.
        resamples: of intervals, "interval": {figure: [low, high]}, by photograph (`bootstrap.py`), beside which stand "reads", the
            readings behind a figure; with 0 there are neither.
    """
    generator, most = torch.Generator().manual_seed(seed), len(halves) // 3
    found: dict[str, dict[str, dict[str, Any]]] = {"own": {}, "other": {}}
    for pairs in writes:
        size = min(max(pairs, searched), most)
        if pairs > most or size < 2:
            continue
        rows = apart(len(halves), size, max(2, -(-reads // pairs)), generator).to(halves.values.device)
        keys, asked = halves.written[rows[:, :pairs]], halves.asked[rows[:, :pairs]]
        for kind, shift in (("own", 0), ("other", 1)):
            values = halves.values[rows].roll(shift, dims=1)
            hits = memory_hits(memory, keys, asked, values[:, :pairs], values[:, pairs:])
            quality = {name: round(value, 4) for name, value in means(hits).items()}
            found[kind][str(pairs)] = quality | _spread(hits, rows[:, :pairs].cpu(), seed, resamples)
    return found


def _spread(hits: Mapping[str, Tensor], rows: Tensor, seed: int, resamples: int) -> dict[str, Any]:
    """Intervals of all that there is of each reading, `rows` [E, N] being the photographs that are read."""
    if not resamples:
        return {}
    values = {name: each.double().flatten().cpu().numpy() for name, each in hits.items() if each.shape == rows.shape}
    return {"reads": rows.numel(), "interval": intervals(values, rows.flatten().numpy(), seed, resamples)}


@torch.no_grad()
def forgetting(
    memory: EpisodicMemory, halves: Halves, seed: int = 0, *, reads: int, resamples: int = 0
) -> dict[str, Any]:
    """What is left of the half of an episode that is forgotten, and of the half that is not.

    N pairs are written, half as many as slots where there are photographs enough; the first half is forgotten. Returns
    {"written": N, "forgotten": N // 2, "episodes": E, "searched": G, "chance",
    "recall": {"forgotten": {"before", "after", "never"}, "kept": {...}}, "known": {"forgotten": {...}, "kept": {...}},
    "distance"}: shares of the pairs of each half that are recalled, and known (`EpisodicMemory.is_known`), by the other half of
    the patches: before the forgetting, after it, and by a memory in which the forgotten were never written; with `resamples`
    each half has an "interval": {"before": [low, high], ...} too, by photograph (`bootstrap.py`). `distance` is the
    greatest of the distances between what the last two read, over what was never written's length: rounding, where forgetting
    is exact.
    """
    generator, most = torch.Generator().manual_seed(seed), len(halves) // 3
    pairs = min(max(2, memory.slots // 2), most)
    size = min(max(pairs, FULL * memory.slots), most)
    rows = apart(len(halves), size, max(2, -(-reads // pairs)), generator).to(halves.values.device)
    keys, asked = halves.written[rows[:, :pairs]], halves.asked[rows[:, :pairs]]
    values = halves.values[rows].roll(1, dims=1)
    same = (values[:, :pairs, None] == values[:, None]).all(dim=-1)
    every = torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device)
    first = every & (torch.arange(pairs, device=keys.device) < pairs // 2)
    before = memory.write(memory.empty(len(rows)), keys, values[:, :pairs], every)
    after = memory.forget(before, keys, values[:, :pairs], first)
    never = memory.write(memory.empty(len(rows)), keys, values[:, :pairs], every & ~first)
    found: dict[str, Any] = {
        "written": pairs,
        "forgotten": pairs // 2,
        "episodes": len(rows),
        "searched": size,
        "chance": same.double().mean().item(),
        "recall": {"forgotten": {}, "kept": {}},
        "known": {"forgotten": {}, "kept": {}},
    }

    kept: dict[tuple[str, str], dict[str, NDArray[np.float64]]] = defaultdict(dict)

    def look(state: MemoryState, when: str) -> Tensor:
        reading = memory.read(state, asked)
        for figure, hits in (
            ("recall", is_first(reading.values, values, same)),
            ("known", memory.is_known(reading)),
        ):
            for half, those in (("forgotten", first), ("kept", ~first)):
                kept[figure, half][when] = hits[those].double().cpu().numpy()
                found[figure][half][when] = float(kept[figure, half][when].mean())
        return reading.values

    look(before, "before")
    left, without = look(after, "after"), look(never, "never")
    for (figure, half), shares in kept.items() if resamples else ():
        photographs = rows[:, :pairs][first if half == "forgotten" else ~first].cpu().numpy()
        found[figure][half]["interval"] = intervals(shares, photographs, seed, resamples)
    apart_by = (left - without).norm(dim=-1) / without.norm(dim=-1).clamp(min=1e-12)
    return found | {"distance": apart_by.max().item()}
