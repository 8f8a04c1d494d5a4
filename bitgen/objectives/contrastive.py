"""Contrast: an embedding finds its partner among the others (Source: InfoNCE, arXiv 1807.03748; both ways, CLIP, arXiv
2103.00020). Logits are float32. Axes: B local rows, G rows of all ranks, K keys, d width."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bitgen.objectives.queue import FeatureQueue
from bitgen.training.distributed import gather, rank


def contrast(query: Tensor, keys: Tensor, positive: Tensor, allowed: Tensor, scale: Tensor) -> Tensor:
    """Mean cross-entropy of each query's own key against the allowed others; a scalar.

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
    return F.cross_entropy(logits.masked_fill(~(allowed | own), -torch.inf), positive)


def image_text_contrast(image: Tensor, text: Tensor, image_ids: Tensor, queue: FeatureQueue, scale: Tensor) -> Tensor:
    """ITC: the mean of image-to-text and text-to-image contrast; a scalar.

    Local rows against the keys of all ranks, with gradients through the gathering, so that the mean over ranks has the
    gradient of one process on the joined batch. Keys of the same photograph are neither positives nor negatives; unfilled
    slots of the queue do not count. The keys of this step enter the queue afterwards.

    Args:
        image, text: [B, d] unit embeddings of pairs.
        image_ids: [B].
    """
    all_images, all_texts, all_ids = gather(image), gather(text), gather(image_ids)
    positive = rank() * image.shape[0] + torch.arange(image.shape[0], device=image.device)
    allowed = torch.cat([image_ids[:, None] != all_ids, (image_ids[:, None] != queue.image_ids) & queue.filled], dim=1)
    to_text = contrast(image, torch.cat([all_texts, queue.texts.to(text)]), positive, allowed, scale)
    to_image = contrast(text, torch.cat([all_images, queue.images.to(image)]), positive, allowed, scale)
    queue.enqueue(all_images.detach(), all_texts.detach(), all_ids)
    return (to_text + to_image) / 2
