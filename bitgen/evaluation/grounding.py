"""Phrase grounding: does the box lie on what the phrase names, and would it without the words?

Axes: P phrases, N boxes, Q patches. Boxes are corners; "pixels" are those of the stored image.
Three controls stand beside every figure: one constant box for all phrases, the whole image, and the model itself given
the words of another phrase of another image. A model that has learnt where objects usually lie, and no language, scores
the same with both texts.
"""

from collections import Counter
from collections.abc import Iterable
from math import isqrt

import torch
from torch import Tensor

from bitgen.batch import Batch
from bitgen.boxes import aligned_overlap, enclose, overlap
from bitgen.evaluation.bootstrap import RESAMPLES, stated
from bitgen.evaluation.breakdown import Said, breakdown
from bitgen.evaluation.items import Items, phrase_keys
from bitgen.evaluation.phrase_scores import (
    Answers,
    Targets,
    join_answers,
    join_targets,
    measure,
    scores,
    select,
    shares,
)
from bitgen.evaluation.phrases import Donors, TextRows, split, text_rows
from bitgen.evaluation.scored import Scored
from bitgen.image import to_image
from bitgen.model.bitgen import ImageStates

TEXT_ROWS = 256
"""Texts that are fused with their images' patches at once."""
FIT_TARGETS = 20_000
"""Targets that the constant box is fitted on, at most."""


def evaluate_grounding(
    model: Scored,
    batches: Iterable[Batch],
    *,
    train_targets: Tensor | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    items: dict[str, Items] | None = None,
) -> dict:
    """Accuracy over all phrases of `batches`, and the three controls.

    Args:
        train_targets: [P, 4] merged target boxes of the training set in fractions of their images, which the constant
            box is fitted on; without them it is fitted on the very set, and the result says so.
        seed: of the shuffled texts, and of the intervals; resamples: of these.
        items: gets the values of every phrase, "grounding".

    Returns what `shares` returns, and "bootstrap" (as `bootstrap.stated`), "truncated" (phrases beyond the end of a text that
    was cut off at the token limit: the protocol is all expressions, so each is a miss of the model's; the controls are over the
    others), "dropped" (other things left out, by reason), "not_finite" (predictions that are not numbers; misses too),
    "breakdown" (accuracy by group, as `bitgen.evaluation.breakdown`),
    "controls": {"constant_box": {..., "box", "fitted_on"}, "whole_image": {...}, "shuffled_text": {..., "seed"}}.
    Raises `ValueError` where no batch holds a phrase.
    """
    asked: list[Targets] = []
    answered: list[Answers] = []
    shuffled_asked: list[Targets] = []
    shuffled: list[Answers] = []
    dropped: Counter[str] = Counter()
    donors, said = Donors(seed), Said()
    for batch in batches:
        dropped.update(batch.dropped)
        said.add(batch)
        if not len(batch.phrase_text):
            continue
        image = encode(model, batch)
        targets = targets_of(batch)
        asked.append(targets)
        answered.append(answer(model, image, batch, text_rows(batch)))
        others, kept = donors.swap(batch)
        if len(kept):
            shuffled_asked.append(select(targets, kept))
            shuffled.append(answer(model, image, batch, others))
    for batch, others, kept in donors.rest():
        shuffled_asked.append(select(targets_of(batch), kept))
        shuffled.append(answer(model, encode(model, batch), batch, others))
    if not asked:
        raise ValueError("expected one or more phrases to ground, found none")
    targets, answers = join_targets(asked), join_answers(answered)
    truncated = dropped.pop("span_truncated", 0)
    constants = constant_answers(targets, train_targets)
    every = torch.arange(len(targets.merged))
    controls, by_group = dict[str, dict](), dict[str, tuple[Tensor, Tensor]]()
    for name, (each, about) in constants.items():
        controls[name] = {**measure(each, targets, 0, seed, resamples), **about}
        by_group[name] = aligned_overlap(each.boxes, targets.merged) >= 0.5, every
    if shuffled:
        others, named = join_answers(shuffled), join_targets(shuffled_asked)
        controls["shuffled_text"] = {**measure(others, named, 0, seed, resamples), "seed": seed}
        number = {key: row for row, key in enumerate(targets.keys)}
        rows = torch.tensor([number[key] for key in named.keys])
        by_group["shuffled_text"] = aligned_overlap(others.boxes, named.merged) >= 0.5, rows
    own = scores(answers, targets, unasked=truncated)
    hits = aligned_overlap(answers.boxes, targets.merged) >= 0.5
    if items is not None:
        items["grounding"] = own
    return {
        **shares(own, seed, resamples),
        "bootstrap": stated(own.photographs, seed, resamples),
        "truncated": truncated,
        "dropped": dict(sorted(dropped.items())),
        "not_finite": int((~answers.finite).sum()),
        "breakdown": breakdown(
            hits, targets.fractions, targets.box_phrase, said, targets.photographs, seed, resamples, by_group
        ),
        "controls": controls,
    }


def constant_answers(
    targets: Targets, train_targets: Tensor | None = None
) -> dict[str, tuple[Answers, dict[str, object]]]:
    """One box for every phrase, the best constant one and the whole image, its middle the peak; and what is to be said of it."""
    box = constant_box(targets.fractions if train_targets is None else train_targets)
    fitted_on = "this set" if train_targets is None else "train"
    return {
        "constant_box": (_repeat(box, targets), {"box": box.tolist(), "fitted_on": fitted_on}),
        "whole_image": (_repeat(box.new_tensor([0.0, 0.0, 1.0, 1.0]), targets), {}),
    }


def constant_box(targets: Tensor) -> Tensor:
    """The box [4] that overlaps most of `targets` [P, 4] by half, ties settled by mean overlap; fractions of the image.

    Candidates are the mean and the median target, the whole image, and 253 of the targets themselves, evenly spaced;
    of the targets at most `FIT_TARGETS`, evenly spaced, are measured against.
    """
    if not len(targets):
        raise ValueError("expected one or more target boxes to fit a constant box on, found none")
    sample = targets.double()[_spaced(len(targets), FIT_TARGETS)]
    ends = torch.stack((sample.mean(dim=0), sample.median(dim=0).values, sample.new_tensor([0.0, 0.0, 1.0, 1.0])))
    candidates = torch.cat((ends, sample[_spaced(len(sample), 253)]))
    found = overlap(candidates, sample)
    merit = (found >= 0.5).double().mean(dim=1) + 1e-6 * found.mean(dim=1)
    return candidates[merit.argmax()]


@torch.inference_mode()
def encode(model: Scored, batch: Batch) -> ImageStates:
    """The images' states, on the model's device."""
    return model.encode_image(batch.images.to(model.device))


@torch.inference_mode()
def predict(model: Scored, image: ImageStates, rows: TextRows) -> tuple[Tensor, Tensor]:
    """Boxes [P, 4] in fractions of the image as the model sees it, and heat-map logits [P, Q]; float32, on the CPU."""
    device = image.start.device
    boxes, heat = [], []
    for part in split(rows, TEXT_ROWS):
        text = model.encode_text(part.token_ids.to(device), part.token_mask.to(device))
        found = model.ground(
            image,
            text,
            part.text_image.to(device),
            part.phrase_text.to(device),
            part.phrase_slot.to(device),
            part.phrase_tokens.to(device),
            part.max_slots,
        )
        boxes.append(found.boxes.float().cpu())
        heat.append(found.heat.float().cpu())
    return torch.cat(boxes), torch.cat(heat)


def answer(model: Scored, image: ImageStates, batch: Batch, rows: TextRows) -> Answers:
    """Predictions for the phrases of `rows`, whose images are those of `batch`, in pixels of the stored images."""
    boxes, heat = predict(model, image, rows)
    finite = boxes.isfinite().all(dim=1) & heat.isfinite().all(dim=1)
    image_row = rows.text_image[rows.phrase_text]
    crops, sizes = batch.crops[image_row].double(), batch.sizes[image_row].double()
    return Answers(
        boxes=to_pixels(boxes.double(), crops, sizes).where(finite[:, None], 0.0),
        peaks=to_pixels(peak(heat).double(), crops, sizes).where(finite[:, None], -1.0),
        finite=finite,
    )


def peak(heat: Tensor) -> Tensor:
    """The centre [P, 2] of the highest patch of a square heat-map [P, Q], row by row, as fractions x y; float32."""
    side = isqrt(heat.shape[1])
    highest = heat.argmax(dim=1)
    return (torch.stack((highest % side, highest // side), dim=1) + 0.5) / side


def targets_of(batch: Batch) -> Targets:
    """The boxes of the phrases of `batch`, mapped back to the pixels of the stored images."""
    row = batch.text_image[batch.phrase_text]
    crops, sizes = batch.crops[row].double(), batch.sizes[row].double()
    boxes = to_pixels(batch.boxes.double(), crops[batch.box_phrase], sizes[batch.box_phrase])
    merged = enclose(boxes, batch.box_phrase, len(row))
    return Targets(boxes, batch.box_phrase, merged, sizes, batch.image_ids[row], tuple(phrase_keys(batch)))


def to_pixels(places: Tensor, crops: Tensor, sizes: Tensor) -> Tensor:
    """Corners [P, 4] or points [P, 2] in fractions of the crop -> pixels of the stored image.

    Args:
        crops: [P, 4], corners in fractions of the stored image.
        sizes: [P, 2], its width and height in pixels.
    """
    return to_image(places, crops) * sizes.repeat(1, places.shape[1] // 2)


def _repeat(box: Tensor, targets: Targets) -> Answers:
    scale = targets.sizes.repeat(1, 2)
    boxes = box.double() * scale
    return Answers(boxes, (boxes[:, :2] + boxes[:, 2:]) / 2, torch.ones(len(boxes), dtype=torch.bool))


def _spaced(count: int, most: int) -> Tensor:
    return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).long()
