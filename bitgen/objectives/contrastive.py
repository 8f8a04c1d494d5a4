"""Contrast: an embedding finds its partner among the others (Source: InfoNCE, arXiv 1807.03748; both ways, CLIP, arXiv
2103.00020). Logits are float32. Axes: B local rows, G rows of all ranks, K keys, d width."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bitgen.objectives.queue import FeatureQueue
from bitgen.training.distributed import gather, rank


def contrast(
    query: Tensor,
    keys: Tensor,
    positive: Tensor,
    allowed: Tensor,
    scale: Tensor,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Mean cross-entropy of each query's own key against the allowed others, a scalar; with "none" that of each query, [B].

    Args:
        query: [B, d] unit vectors.
        keys: [K, d] unit vectors.
        positive: [B] the key that belongs to each query.
        allowed: [B, K] bool, false where a key is neither negative nor counted; a query's own key always counts.
        scale: inverse temperature.
    """
    with torch.autocast(query.device.type, enabled=False):  # it would multiply in bfloat16 whatever the operands' type
        logits = scale * (query.float() @ keys.float().T)
    # Not one_hot, which reads its operand's range on the host, on all devices but CUDA's.
    own = positive[:, None] == torch.arange(keys.shape[0], device=positive.device)
    return F.cross_entropy(logits.masked_fill(~(allowed | own), -torch.inf), positive, reduction=reduction)


def image_text_contrast(
    image: Tensor,
    text: Tensor,
    image_ids: Tensor,
    queue: FeatureQueue,
    scale: Tensor,
    seen: dict[str, Tensor] | None = None,
) -> Tensor:
    """ITC: the mean of image-to-text and text-to-image contrast; a scalar.

    Local rows against the keys of all ranks, with gradients through the gathering, so that the mean over ranks has the
    gradient of one process on the joined batch. Keys of the same photograph are neither positives nor negatives; unfilled
    slots of the queue do not count. The keys of this step enter the queue afterwards.

    Args:
        image, text: [B, d] unit embeddings of pairs.
        image_ids: [B].
        seen: gets the figures of `look`.
    """
    all_images, all_texts, all_ids = gather(image), gather(text), gather(image_ids)
    positive = rank() * image.shape[0] + torch.arange(image.shape[0], device=image.device)
    allowed = torch.cat([image_ids[:, None] != all_ids, (image_ids[:, None] != queue.image_ids) & queue.filled], dim=1)
    to_text = contrast(image, torch.cat([all_texts, queue.texts.to(text)]), positive, allowed, scale)
    to_image = contrast(text, torch.cat([all_images, queue.images.to(image)]), positive, allowed, scale)
    if seen is not None:
        seen |= look(all_images, all_texts, all_ids, queue)
    queue.enqueue(all_images.detach(), all_texts.detach(), all_ids)
    return (to_text + to_image) / 2


@torch.no_grad()
def look(images: Tensor, texts: Tensor, image_ids: Tensor, queue: FeatureQueue) -> dict[str, Tensor]:
    """How well the pairs of a step find each other, and how its negatives compare; scalars, the same on all ranks.

    `acc_i2t`, `acc_t2i`: share of the images whose nearest text of the batch is their own, and of the texts likewise; the queue
    has no part in it. `batch_similarity`: mean cosine of an image and a text of another photograph. With a queue that has slots
    also `queue_similarity`, the mean cosine of the batch's images with the texts of all entries and of its texts with their
    images, 0 where there are none, and `queue_age`, the mean of `FeatureQueue.ages`. A queue that is too old for its encoder has
    a similarity that lies far from the batch's.

    Args:
        images, texts: [G, d] unit embeddings of pairs; image_ids: [G].
    """
    images, texts = images.float(), texts.float()
    with torch.autocast(images.device.type, enabled=False):
        cosines = images @ texts.T
        filled = queue.filled.float()
        count = filled.sum().clamp(min=1)
        # The mean of all cosines is the cosine of the means: the matrix [G, K] is not needed.
        to_texts = images.mean(dim=0) @ (filled @ queue.texts)
        to_images = texts.mean(dim=0) @ (filled @ queue.images)
    own = torch.eye(len(images), dtype=torch.bool, device=images.device)
    other = image_ids[:, None] != image_ids
    competing = cosines.masked_fill(~(other | own), -torch.inf)
    target = torch.arange(len(images), device=images.device)
    found = {
        "acc_i2t": (competing.argmax(dim=1) == target).float().mean(),
        "acc_t2i": (competing.argmax(dim=0) == target).float().mean(),
        "batch_similarity": (cosines * other).sum() / other.sum().clamp(min=1),
    }
    if len(filled):
        found["queue_similarity"] = (to_texts + to_images) / (2 * count)
        found["queue_age"] = (queue.ages(len(images)) * filled).sum() / count
    return found
