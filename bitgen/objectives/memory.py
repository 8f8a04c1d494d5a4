"""Episodes: write a caption under one half of an image's patches, recall it with the other half.

An episode is up to `size` images, of `rows` neighbours in the batch, with one memory (Source: Larimar, arXiv 2403.11901; its
episodes are random samples too). An image takes part when it has two texts, was drawn, no earlier image of its episode shows
the same photograph, and the episode is not full. The batch is that of all ranks, whose codes are gathered: any number of
them has the same episodes. What takes part is written as (code of one random half of its patches, code of
its first text) and recalled with the code of the other half; from that half and the recalled code the decoder predicts its
second text, so nothing that is decoded was ever written. All other images decode their first text with all patches and an
empty memory.

Axes: B images of this rank, E episodes, S rows an episode, N patches, T texts, d width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bitgen.model.bitgen import BitGen, ImageStates, TextStates
from bitgen.training.distributed import gather, rank, world


@dataclass(frozen=True)
class Recall:
    context: Tensor
    """[B, N + 1, d] dual-mode patch tokens and, last, what was read from the memory."""
    context_mask: Tensor
    """[B, N + 1] bool: which patches the decoder sees; the reading only where the image took part."""
    target: Tensor
    """[B] the row of the text to decode."""
    kl: Tensor
    """Divergence of the written memories from the prior, per slot and width; a scalar."""
    utilisation: Tensor
    """Slots in use, 0..K, mean over episodes; a scalar without gradient."""
    own: Tensor
    """Mean cosine of what an image recalled with what was written for it, -1..1; a scalar without gradient, 0 without any."""
    others: Tensor
    """Likewise with what was written for the other images of its episode: what a memory that mixes all of them up has, too."""


def random_halves(uniform: Tensor) -> Tensor:
    """[B, N] bool from draws [B, N]: true on the half of the patches with the lower draws."""
    order = uniform.argsort(dim=1).argsort(dim=1)
    return order < uniform.shape[1] // 2


def recall_episodes(
    model: BitGen,
    image: ImageStates,
    text: TextStates,
    first_text: Tensor,
    second_text: Tensor,
    image_ids: Tensor,
    takes_part: Tensor,
    halves: Tensor,
    size: int,
    rows: int,
) -> Recall:
    """What the decoder may see of each image, and which text it is to predict.

    Args:
        first_text, second_text, image_ids: [B], as in `Batch`.
        takes_part: [B] bool, drawn for an episode.
        halves: [B, N] bool, the half that is written.
        size: images of an episode at most.
        rows: S.
    """
    count = halves.shape[0]
    own = slice(rank() * count, (rank() + 1) * count)
    by_episode = _Episodes(world() * count, rows)
    ids, active = by_episode.split(gather(image_ids)), by_episode.split(gather(takes_part & (second_text >= 0)))
    same_earlier = (ids[:, :, None] == ids[:, None, :]) & active[:, None, :]
    active = active & ~same_earlier.tril(diagonal=-1).any(dim=2)
    active = active & (active.cumsum(dim=1) <= size)
    takes_part = by_episode.join(active)[own]

    written, asked = model.image_pool(image.dual, halves), model.image_pool(image.dual, ~halves)
    keys, values, queries = (by_episode.split(gather(part)) for part in (written, text.code[first_text].float(), asked))
    state = model.memory.write(model.memory.empty(active.shape[0]), keys, values, active)
    reading = model.memory.read(state, queries)
    recalled = by_episode.join(reading.values * reading.confidence[..., None])[own]
    token = model.reading_projection(recalled.to(image.dual.dtype))

    with torch.no_grad():  # a figure, no loss
        utilisation = model.memory.utilisation(state).mean()
        own_cosine, others_cosine = recall_cosines(reading.values, values, active)
    seen = torch.where(takes_part[:, None], ~halves, torch.ones_like(halves))
    return Recall(
        context=torch.cat([image.dual, token[:, None].to(image.dual.dtype)], dim=1),
        context_mask=torch.cat([seen, takes_part[:, None]], dim=1),
        target=torch.where(takes_part, second_text, first_text),
        kl=model.memory.kl(state),
        utilisation=utilisation,
        own=own_cosine,
        others=others_cosine,
    )


def recall_cosines(recalled: Tensor, written: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cosine of `recalled` [E, S, d] with its own `written` [E, S, d], and with the others of its episode, over rows
    where `active` [E, S]; two scalars, 0 where nothing counts."""
    with torch.autocast(recalled.device.type, enabled=False):
        cosines = F.normalize(recalled.float(), dim=2) @ F.normalize(written.float(), dim=2).mT
    both = active[:, :, None] & active[:, None, :]
    is_own = torch.eye(active.shape[1], dtype=torch.bool, device=active.device)
    own, others = both & is_own, both & ~is_own
    return tuple((cosines * part).sum() / part.sum().clamp(min=1) for part in (own, others))  # pyright: ignore


class _Episodes:
    """B rows as [E, S] with padding, and back."""

    def __init__(self, count: int, rows: int) -> None:
        self.count, self.rows = count, rows
        self.padding = -count % rows

    def split(self, rows: Tensor) -> Tensor:
        padded = F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, self.padding))
        return padded.unflatten(0, (-1, self.rows))

    def join(self, episodes: Tensor) -> Tensor:
        return episodes.flatten(0, 1)[: self.count]
