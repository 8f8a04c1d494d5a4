"""The first few that the dual encoder finds, ordered anew by the matching head, which looks at image and text together.

A pair costs a pass through the fused layers, so only the first K of each query are asked about; a pair that is a candidate both
ways is asked about once. Source: ALBEF, arXiv 2107.07651 (K = 256 on COCO, 128 on Flickr30k).

What it takes for I images and T texts: (I + T) K pairs at most, 1.9 million for COCO's 5,000 and 25,010 at K = 64; a temporary file
of 128 KiB an image; in memory 4 bytes a token, about 40 a pair, and `PAIRS` pairs in the making. So no set is too large to be held.

Axes: I images, T texts, K candidates, N patches, L tokens, d width.
"""

import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from bitgen.disk import room_for
from bitgen.evaluation.ranking import Gallery, first_both, reranked
from bitgen.evaluation.scored import Scored
from bitgen.progress import progress
from bitgen.tokens import EOT

PAIRS = 128
"""Pairs that pass through the fused layers at once. On one core, at 64 patches: 720 pairs a second with 256, 1,050 with 128."""


class States:
    """What matching asks of images and texts, in the order in which they are added.

    Start states of images lie, as float32, in a file: 128 KiB each at N = 256 and d = 128, and 640 MiB for 5,000; the vision tower
    would have to run again otherwise. Of texts only the tokens are kept, as their start states cost little to make.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._shape = (0, 0)
        self._images = 0
        self._tokens, self._ends = array("i"), array("q", [0])

    def add(self, start: Tensor, token_ids: Tensor, token_mask: Tensor) -> None:
        """Images by their start states [I, N, d], and texts by `token_ids` [T, L] and `token_mask` [T, L], true off padding.

        Raises `FullDiskError` where the file has no room.
        """
        self._shape = (start.shape[1], start.shape[2])
        self._images += len(start)
        with room_for(Path(tempfile.gettempdir())):
            self._file.write(start.float().cpu().numpy().tobytes())
        self._tokens.frombytes(token_ids[token_mask].int().cpu().numpy().tobytes())
        self._ends.extend((token_mask.sum(dim=1).cumsum(dim=0).cpu() + self._ends[-1]).tolist())

    def images(self, rows: Tensor) -> Tensor:
        """Start states [len(rows), N, d] float32 of some images."""
        with room_for(Path(tempfile.gettempdir())):
            self._file.flush()
        states = np.memmap(self._file, dtype=np.float32, mode="r", shape=(self._images, *self._shape))
        return torch.from_numpy(states[rows.numpy()])

    def texts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [len(rows), L] int64 and mask [len(rows), L] of some texts, padded to the longest of them."""
        ends = torch.frombuffer(self._ends, dtype=torch.int64)
        lengths = ends[rows + 1] - ends[rows]
        places = torch.arange(int(lengths.max()))
        mask = places < lengths[:, None]
        ids = torch.full(mask.shape, EOT)
        ids[mask] = torch.frombuffer(self._tokens, dtype=torch.int32)[(ends[rows][:, None] + places)[mask]].long()
        return ids, mask


@contextmanager
def temporary_states() -> Iterator[States]:
    """Their file lies in the folder that TMPDIR names, without a name, and is gone at the end."""
    with tempfile.TemporaryFile() as file:
        yield States(file)


def rerank_both(
    model: Scored, gallery: Gallery, states: States, dual_ranks: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    """Ranks of image queries [I] and of text queries [T] after the matching head ordered the first `k` of each.

    Args:
        states: of the images and the texts of `gallery`.
        dual_ranks: what `rank_both` returns, which those keep whose images or texts are not among the first `k`.
    """
    device = model.device
    texts, images = first_both(gallery, k, device=device)
    count = len(gallery.texts)
    of_images = torch.arange(len(texts))[:, None] * count + texts
    of_texts = images * count + torch.arange(count)[:, None]
    pairs, place = torch.cat([of_images.flatten(), of_texts.flatten()]).unique(return_inverse=True)
    scores = match(model, states, pairs // count, pairs % count)[place]
    image_scores, text_scores = scores.split([texts.numel(), images.numel()])
    image_hits = gallery.image_ids[:, None] == gallery.text_ids[texts]
    text_hits = gallery.text_ids[:, None] == gallery.image_ids[images]
    return (
        reranked(dual_ranks[0], image_scores.view(texts.shape), image_hits),
        reranked(dual_ranks[1], text_scores.view(images.shape), text_hits),
    )


@torch.inference_mode()
def match(model: Scored, states: States, image_rows: Tensor, text_rows: Tensor, *, pairs: int = PAIRS) -> Tensor:
    """Log-odds [Q] float32, on the CPU, that the images and texts of these rows belong together, as `BitGen.match`.

    `pairs` of them at a time.
    """
    device = model.device
    found = []
    with progress("re-ranking", len(image_rows), "pairs") as counter:
        for images, texts in zip(image_rows.split(pairs), text_rows.split(pairs), strict=True):
            wanted, image = images.unique(return_inverse=True)
            start = states.images(wanted).to(device)
            ids, mask = (each.to(device) for each in states.texts(texts))
            found.append(model.match_tokens(start[image.to(device)], ids, mask).cpu())
            counter.update(len(images))
    return torch.cat(found)
