"""Captioning: how near what the model says of an image comes to what people wrote, and would the same be near any other?

Two controls stand beside every figure: the model's captions, each against the references of another photograph, and one caption for
all of them. A model that has learnt how captions sound, and sees nothing, scores the same with both.

References are whole texts, not tokens: a text that training cuts at the token limit is no shorter here. A photograph that is in
a set twice (`Batch.image_ids`) is one image: the first is captioned, and what the second adds to its references is added.

Axes: I images of a set, B of a batch.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgen.batch import Batch
from bitgen.evaluation.bootstrap import RESAMPLES
from bitgen.evaluation.caption_java import JAVA, java_figures
from bitgen.evaluation.caption_scores import TOKENISATION, Cider, Scores, Words, score, words
from bitgen.evaluation.scored import Scored
from bitgen.tokens import shared_tokenizer

References = Callable[[int], Iterable[str]]
"""The texts of the image at one of `Batch.positions`, as people wrote them."""
NOT_ASKED = "not asked for"
"""Why a figure is missing that nobody wanted."""
MODEL, SHUFFLED, CONSTANT = "model", "shuffled_captions", "constant_caption"


@dataclass(frozen=True, eq=False)
class Written:
    """What the model says of every photograph of a set, and what people wrote."""

    photographs: NDArray[np.int64]
    """[I] `Batch.image_ids`, each once."""
    keys: tuple[str, ...]
    """[I] of the sample that was captioned."""
    captions: tuple[str, ...]
    """[I]"""
    references: tuple[tuple[Words, ...], ...]
    """[I], one or more of each."""
    repeated: int
    """Samples of a photograph that another sample had shown before."""
    unfinished: int
    """Captions that end because they have the most tokens allowed."""
    dropped: dict[str, int]
    """`text_without_words`: references; `image_without_references`: photographs with no other."""


def evaluate_captioning(
    model: Scored,
    batches: Iterable[Batch],
    references: References,
    *,
    constant: str | None = None,
    max_tokens: int = 24,
    beams: int = 1,
    length_penalty: float = 0.6,
    seed: int = 0,
    java: bool = True,
    resamples: int = RESAMPLES,
    scores: dict[str, Scores] | None = None,
) -> dict:
    """Captions every photograph of `batches`, and measures the captions as `measure` does, which see for the last five arguments.

    Args:
        references: for the rows of a `ShardIndex`, `lambda row: [text.text for text in index.record(row).texts]`.
        max_tokens: of a caption; also beams, length_penalty: as in `BitGen.caption`.

    Returns what `measure` returns, and "decoding": {"max_tokens", "beams", "length_penalty"}. Raises `ValueError` where no image
    has a reference. Memory: one batch, and about 5 KB an image of five references.
    """
    written = write(model, batches, references, max_tokens, beams, length_penalty)
    decoding = {"max_tokens": max_tokens, "beams": beams, "length_penalty": length_penalty}
    return {
        **measure(written, constant=constant, seed=seed, java=java, resamples=resamples, scores=scores),
        "decoding": decoding,
    }


def measure(
    written: Written,
    *,
    constant: str | None = None,
    seed: int = 0,
    java: bool = True,
    resamples: int = RESAMPLES,
    scores: dict[str, Scores] | None = None,
) -> dict:
    """BLEU-1 to BLEU-4 and ROUGE-L, 0..1, and CIDEr-D, 0..10, of the model's captions; the same for two controls.

    Args:
        constant: the caption that is said of every image, as `constant_caption` finds it in training texts; without it, it is found
            in the references of the very set, and the result says so.
        seed: of the shuffled captions, and of intervals.
        java: whether METEOR and SPICE, 0..1, are tried too, which take seconds to minutes; resamples: of their "interval", which
            those of the other figures join (`pipeline/measuring.py`, from `scores`).
        scores: gets the scores of every image, "model", "shuffled_captions", "constant_caption", for intervals.

    Returns {"bleu1", ..., "rouge_l", "cider_d"; where they can be had "meteor", "spice", else in "missing" why not; "images"
    (photographs), "references"; "repeated", "unfinished", "dropped" (as in `Written`); "empty" (captions without a word, which
    score 0); "distinct" (captions of different words); "tokenisation"; "controls": {"shuffled_captions": {..., "seed"},
    "constant_caption": {..., "caption", "fitted_on"}}}. Of one image there are no shuffled captions, and CIDEr-D is 0.
    """
    fitted_on = "this set" if constant is None else "train"
    if constant is None:
        constant = constant_caption(" ".join(text) for texts in written.references for text in texts)
    count = len(written.captions)
    said: dict[str, Sequence[str]] = {MODEL: written.captions, CONSTANT: [constant] * count}
    if count > 1:
        said[SHUFFLED] = [written.captions[other] for other in derangement(count, seed)]
    cider = Cider(written.references)
    found = {
        name: score(written.photographs, written.keys, captions, written.references, cider)
        for name, captions in said.items()
    }
    if scores is not None:
        scores.update(found)
    spoken = {name: [words(caption) for caption in captions] for name, captions in said.items()}
    others, missing = {}, dict.fromkeys(JAVA, NOT_ASKED)
    if java:
        others, missing = java_figures(spoken, written.references, seed, resamples)
    figures = {name: {**each.means(), **others.get(name, {})} for name, each in found.items()}
    controls = {CONSTANT: {**figures[CONSTANT], "caption": constant, "fitted_on": fitted_on}}
    if SHUFFLED in figures:
        controls = {SHUFFLED: {**figures[SHUFFLED], "seed": seed}, **controls}
    return {
        **figures[MODEL],
        "missing": missing,
        "images": count,
        "references": sum(map(len, written.references)),
        "repeated": written.repeated,
        "unfinished": written.unfinished,
        "dropped": written.dropped,
        "empty": spoken[MODEL].count(()),
        "distinct": len(set(spoken[MODEL])),
        "tokenisation": TOKENISATION,
        "controls": controls,
    }


def write(
    model: Scored,
    batches: Iterable[Batch],
    references: References,
    max_tokens: int,
    beams: int,
    length_penalty: float,
) -> Written:
    """Captions every photograph of `batches` once. Arguments and errors as in `evaluate_captioning`."""
    row_of: dict[int, int] = {}
    keys: list[str] = []
    texts: list[list[Words]] = []
    said: list[tuple[str, bool]] = []
    without_words = samples = 0
    for batch in batches:
        fresh = []
        rows = zip(batch.image_ids.tolist(), batch.positions.tolist(), batch.keys, strict=True)
        for number, (photograph, position, key) in enumerate(rows):
            own = [words(text) for text in references(position)]
            meant = [text for text in own if text]
            without_words += len(own) - len(meant)
            if photograph in row_of:
                known = texts[row_of[photograph]]
                known += [text for text in meant if text not in known]
            else:
                row_of[photograph] = len(texts)
                texts.append(meant)
                keys.append(key)
                fresh.append(number)
        said += _caption(model, batch.images[fresh], max_tokens, beams, length_penalty) if fresh else []
        samples += len(batch.keys)
    kept = [row for row, meant in enumerate(texts) if meant]
    if not kept:
        raise ValueError(f"expected one or more images with a reference to their caption, found none of {len(texts)}")
    return Written(
        photographs=np.array(list(row_of), dtype=np.int64)[kept],
        keys=tuple(keys[row] for row in kept),
        captions=tuple(said[row][0] for row in kept),
        references=tuple(tuple(texts[row]) for row in kept),
        repeated=samples - len(texts),
        unfinished=sum(said[row][1] for row in kept),
        dropped={"text_without_words": without_words, "image_without_references": len(texts) - len(kept)},
    )


@torch.inference_mode()
def _caption(
    model: Scored, images: Tensor, max_tokens: int, beams: int, length_penalty: float
) -> list[tuple[str, bool]]:
    """Of each of `images` [B, 3, S, S] its caption, and whether it was ended by `max_tokens`."""
    states = model.encode_image(images.to(model.device))
    tokenizer = shared_tokenizer()
    return [
        (tokenizer.decode(ids).strip(), len(ids) >= max_tokens)
        for ids in model.caption(states, max_tokens, beams, length_penalty)
    ]


def constant_caption(texts: Iterable[str]) -> str:
    """The text that is most like the others: of those with the median number of words, whose pairs of neighbouring words are said
    most often, on the average over the text; of two alike the first by alphabet. As words, with a space between them.

    The most frequent text would be another choice, but in most sets it is there once or twice: on 332 images of COCO's val2017 the
    one of 580 training captions has a BLEU-1 of 0.31, and this one 0.42. Raises `ValueError` where no text has a word.
    """
    known = Counter(found for text in texts if (found := words(text)))
    if not known:
        raise ValueError("expected one or more texts to find a constant caption in, found none with a word")
    pairs: Counter[tuple[str, str]] = Counter()
    for text, times in known.items():
        for pair in _pairs(text):
            pairs[pair] += times
    middle = median_low(sorted(length for text, times in known.items() for length in [len(text)] * times))
    candidates = sorted(text for text in known if len(text) == middle)
    return " ".join(max(candidates, key=lambda text: sum(pairs[pair] for pair in _pairs(text))))


def _pairs(text: Words) -> Iterable[tuple[str, str]]:
    """Both ends of a text count as words."""
    return pairwise(("", *text, ""))


def derangement(count: int, seed: int) -> list[int]:
    """For each of `count` things, 2 or more, another one, each once: a random ring, where every thing takes its neighbour's."""
    order = np.random.default_rng(seed).permutation(count)
    found = np.empty(count, dtype=np.int64)
    found[order] = np.roll(order, 1)
    return found.tolist()
