"""One forward pass of a micro-batch: every loss that a phase asks for, by name, and their weighted sum.

Vision runs once for all losses and all texts of an image. Axes as in `Batch`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bitgen.batch import Batch, bucket
from bitgen.boxes import aligned_overlap, enclose
from bitgen.features import unpack
from bitgen.model.bitgen import BitGen, ImageStates, TextStates
from bitgen.model.grounding import span_means
from bitgen.objectives.captioning import next_token_loss, predicted
from bitgen.objectives.contrastive import image_text_contrast
from bitgen.objectives.grounding import grounding_losses, phrase_coverage, region_contrast
from bitgen.objectives.matching import image_text_matching
from bitgen.objectives.memory import random_halves, recall_episodes
from bitgen.objectives.queue import FeatureQueue
from bitgen.objectives.token_queue import TokenQueue
from bitgen.objectives.words import RegionWords
from bitgen.training.config import DataConfig, LossConfig
from bitgen.training.distributed import rank, weighted_mean, world


@dataclass(frozen=True)
class Draws:
    """Every random choice of one micro-step, for this rank's rows."""

    negatives: Tensor
    """[B, 2] uniform, for hard negatives."""
    episode: Tensor
    """[B] uniform, for taking part in an episode."""
    patches: Tensor
    """[B, N] uniform, for the halves."""


def draw(seed: int, micro_step: int, rows: int, patches: int, device: torch.device) -> Draws:
    """The choices of one micro-step: a function of the seed and the global row only, whatever the number of ranks.

    Args:
        rows: B, this rank's; all ranks hold as many.
        patches: N.
    """
    # Not torch's generator: on a CPU it drops all but 32 bits of its seed, and what it makes of them may change.
    bits = np.random.PCG64(np.random.SeedSequence((seed, micro_step))).random_raw(rows * world() * (patches + 3))
    table = torch.from_numpy((bits >> 40).astype(np.float32) * np.float32(2**-24)).view(-1, patches + 3)
    own = table[rank() * rows : (rank() + 1) * rows].to(device, non_blocking=True)
    return Draws(own[:, :2], own[:, 2], own[:, 3:])


class Objective(nn.Module):
    """The model with its losses: what a trainer, or DDP, calls.

    Args:
        data: gives the images' side and the longest text, which only a queue of token states has to know.
    """

    def __init__(self, model: BitGen, config: LossConfig, data: DataConfig | None = None) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.queue = FeatureQueue(config.queue, model.config.width)
        self.words = RegionWords(model.vision.width, model.config.width) if config.words else None
        self.token_queue: TokenQueue | None = None
        if config.itm and config.itm_negatives == "queue":
            data = data or DataConfig()
            patches = (data.image_px // model.vision.patch_px) ** 2
            self.token_queue = TokenQueue(config.queue, patches, bucket(data.max_tokens), model.config.width)

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Scalars by name; `loss` is the weighted sum. A loss whose weight is 0 is not computed.

        Beside the losses are figures without a gradient: both temperatures, and what the functions of the losses say they have
        seen. Shares of what a batch may have none of (phrases, images that recall) are 0 where it has none.
        """
        config, model = self.config, self.model
        stored = batch.features
        patches = model.vision(batch.images) if stored is None else unpack(stored)
        image = model.encode_patches(patches)
        text = model.encode_text(batch.token_ids, batch.token_mask)
        scale = model.itc_temperature()
        parts: dict[str, Tensor] = {}
        if config.itm:  # before contrast, whose enqueue must be the last use of this step's embeddings
            parts["itm"] = image_text_matching(
                model,
                image,
                text,
                batch.first_text,
                batch.image_ids,
                scale.detach(),
                draws.negatives,
                self.token_queue,
                seen=parts,
            )
        if config.itc:
            parts["itc"] = image_text_contrast(
                image.embedding, text.embedding[batch.first_text], batch.image_ids, self.queue, scale, seen=parts
            )
        if config.text:
            parts |= self._captioning(image, text, batch, draws)
        # Also without a phrase: ranks must agree on what they compute.
        if config.grounding or config.region or config.words:
            parts |= self._grounding(patches, image, text, batch)
        weights = {"itc": config.itc, "itm": config.itm, "text": config.text, "memory_kl": config.memory_kl}
        weights |= {"grounding": config.grounding, "region": config.region, "words": config.words}
        total = sum((weights[name] * value for name, value in parts.items() if name in weights), torch.zeros(()))
        return {"loss": total, "temperature": 1 / scale.detach(), **parts}

    def _captioning(self, image: ImageStates, text: TextStates, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        recall = recall_episodes(
            self.model,
            image,
            text,
            batch.first_text,
            batch.second_text,
            batch.image_ids,
            draws.episode < self.config.episode_share,
            random_halves(draws.patches),
            self.config.episode,
            self.config.episode_rows,
        )
        ids, mask = batch.token_ids[recall.target], batch.token_mask[recall.target]
        embedding = self.model.text.token
        states = self.model.decoder(ids, embedding, recall.context, recall.context_mask)
        classes, told = embedding.targets(ids, mask)
        seen: dict[str, Tensor] = {}
        total = next_token_loss(states, embedding.head, classes, told, self.config.label_smoothing, seen)
        count = predicted(told).float()
        return {
            "text": weighted_mean(total / count, count),
            "memory_kl": recall.kl,
            "memory_utilisation": recall.utilisation,
            "memory_recall": recall.own,
            "memory_recall_others": recall.others,
            **{name: weighted_mean(value / count, count) for name, value in seen.items()},
        }

    def _grounding(self, patches: Tensor, image: ImageStates, text: TextStates, batch: Batch) -> dict[str, Tensor]:
        phrases = batch.phrase_text.shape[0]
        side = round(image.dual.shape[1] ** 0.5)
        cover = phrase_coverage(batch.boxes, batch.box_phrase, phrases, side)
        target = enclose(batch.boxes, batch.box_phrase, phrases)
        ones = torch.ones(phrases, device=target.device)
        parts: dict[str, Tensor] = {}
        if self.config.grounding:
            predicted_boxes = self.model.ground(
                image,
                text,
                batch.text_image,
                batch.phrase_text,
                batch.phrase_slot,
                batch.phrase_tokens,
                max(batch.max_slots, 1),
            )
            losses = grounding_losses(predicted_boxes, target, cover)
            parts |= {name: weighted_mean(value, ones) for name, value in losses.items()}
            with torch.no_grad():
                hits = aligned_overlap(predicted_boxes.boxes, target) >= 0.5
            parts["grounding_acc50"] = weighted_mean(hits.float(), ones)
            boxes, heats = 5 * parts["l1"] + 2 * parts["giou"], parts["focal"] + parts["dice"]
            parts["grounding"] = boxes + heats + parts.get("earlier", torch.zeros(()))
        if self.config.region:
            scale = self.model.region_temperature()
            means = span_means(text.dual, batch.phrase_text, batch.phrase_tokens)
            loss, counts = region_contrast(image.dual, means, cover, target, batch.text_image[batch.phrase_text], scale)
            parts["region"] = weighted_mean(loss, counts.float())
            parts["region_temperature"] = 1 / scale.detach()
        if self.words is not None:
            phrase_image, embedding = batch.text_image[batch.phrase_text], self.model.text.token
            texts = batch.token_ids, batch.token_mask, batch.phrase_text, batch.phrase_tokens
            total, count = self.words(patches, cover, phrase_image, *texts, embedding)
            parts["words"] = weighted_mean(total / count.clamp(min=1), count.float())
        return parts
