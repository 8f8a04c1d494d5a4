"""Past image and text embeddings, as further negatives for contrast (Source: MoCO's queue, arXiv 1911.05722; without a
momentum encoder, as FIBER)."""

import torch
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """The last `size` gathered pairs of embeddings, equal on all ranks. Buffers only; nothing here trains.

    Axes: K size, d width, G rows of one enqueue.
    """

    images: Tensor
    texts: Tensor
    image_ids: Tensor
    count: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, width))
        self.register_buffer("texts", torch.zeros(size, width))
        self.register_buffer("image_ids", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @property
    def filled(self) -> Tensor:
        """[K] bool, true where something was enqueued."""
        return torch.arange(self.images.shape[0], device=self.count.device) < self.count

    def ages(self, rows: int) -> Tensor:
        """[K] how many micro-steps ago each slot was filled, 1 for the last, given that each enqueues `rows`; means nothing where
        a slot is not filled."""
        size = self.images.shape[0]
        newer = (self.count - 1 - torch.arange(size, device=self.count.device)) % max(size, 1)
        return newer // rows + 1

    def next_slots(self, rows: int) -> Tensor:
        """[R] where the last R of the next `rows` entries go, the oldest first; R is at most the size."""
        size = self.images.shape[0]
        return (self.count + torch.arange(min(size, rows), device=self.count.device)) % max(size, 1)

    @torch.no_grad()
    def enqueue(self, images: Tensor, texts: Tensor, image_ids: Tensor) -> None:
        """Put G rows over the oldest: unit embeddings [G, d] twice, ids [G]. Call it after the loss that read the queue,
        with what all ranks gathered: an entry of this very step would be its own negative."""
        slots = self.next_slots(images.shape[0])
        rows = slots.shape[0]
        if rows == 0:
            return
        self.images[slots] = images[-rows:].float()
        self.texts[slots] = texts[-rows:].float()
        self.image_ids[slots] = image_ids[-rows:]
        self.count += rows
