"""How near a caption comes to what people wrote of the same image: BLEU, ROUGE-L and CIDEr-D, as for COCO's captions.

BLEU-n compares n-grams of 1 to n words over the whole set (arXiv 1504.00325, section 3; the reference closest in length counts),
ROUGE-L the longest common subsequence, image by image, and CIDEr-D n-grams weighed by how few images they are said of. All three
are of `words`, everywhere the same, so that figures of two machines compare, and no Java is needed.

sacrebleu counts the n-grams of BLEU. The other two are here: pycocoevalcap, where COCO's programs can be had, is 104 MB without a
stated licence or a release since 2020, and holds every n-gram of every reference (of 18,325 references 134 MB, here 9), and other
packages have other definitions. All figures are pycocoevalcap's to 1e-9 (`tests/evaluation/test_caption_scores.py`).

Axes: I images. N is 4, the words of the longest n-gram.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log, sqrt
from sys import intern
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

Words = tuple[str, ...]

N = 4
SIGMA = 6.0
"""Words: the width of CIDEr-D's penalty on captions of another length than the reference."""
BETA = 1.2
"""The weight of recall in ROUGE-L, as COCO's programs have it."""
FIGURES = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d")
TOKENISATION = (
    "bitgen words 1: lower case, punctuation left out, clitics apart (do n't, man 's), as the Penn Treebank for English"
)
"""What stands in a result; the number changes with the rule."""

_CLITIC = r"n't\b|'(?:s|m|d|re|ve|ll)\b"
_JOINED = r"(?<=[^\W_])[-'&/.](?=[^\W_])(?!n't\b)|(?<=[0-9])[,:](?=[0-9])"
_WORDS = re.compile(rf"{_CLITIC}|(?!{_CLITIC})[^\W_](?:(?!{_CLITIC})(?:[^\W_]|{_JOINED}))*").findall


def words(text: str) -> Words:
    """Letters and digits, with what may stand between them in a word: "t-shirt", "o'clock", "u.s", "1,000", "10:30".

    Of COCO's captions 99.8% become the same words as by the Penn Treebank tokenizer of COCO's programs, which is in Java (2,231
    of them), of Flickr30k's 99.97% (3,930) and of CC3M's 97.3% (15,833, where most that differ have a # or & by itself).
    """
    plain = unicodedata.normalize("NFC", text).lower().replace("’", "'").replace("`", "'")
    return tuple(map(intern, _WORDS(plain)))


def bleu_counts(caption: Words, references: Sequence[Words]) -> list[int]:
    """What BLEU is computed from, to be added up over images: words of the caption, words of the reference closest in length (the
    shorter of two), then of 1 to 4 words the n-grams that are in a reference, and all; 10 numbers."""
    found = _bleu().sentence_score(" ".join(caption), [" ".join(reference) for reference in references])
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


def bleu(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 4] BLEU-1 to BLEU-4, 0..1, from [..., 10] sums or means of `bleu_counts` over any images; not smoothed.

    Source: Papineni et al., P02-1040, section 2.3.
    """
    said, meant, right, all_of_it = counts[..., :1], counts[..., 1:2], counts[..., 2 : 2 + N], counts[..., 2 + N :]
    precisions = np.divide(right, all_of_it, out=np.zeros_like(right), where=all_of_it > 0)
    ratio = np.divide(meant, said, out=np.full_like(said, np.inf), where=said > 0)
    with np.errstate(divide="ignore"):  # no match at all: log 0, and a BLEU of 0
        logs = np.log(precisions).cumsum(axis=-1) / np.arange(1, N + 1)
    return np.exp(np.minimum(0.0, 1.0 - ratio)) * np.exp(logs)


def rouge_l(caption: Words, references: Sequence[Words]) -> float:
    """0..1: the longest common subsequence as a share of the caption and of the reference, the best of each over all references.

    Source: Lin, W04-1013, section 3.1, with the two maxima and β of COCO's programs.
    """
    common = [_common(caption, reference) for reference in references]
    if not any(common):
        return 0.0
    precision = max(common) / len(caption)
    recall = max(length / len(reference) for length, reference in zip(common, references, strict=True) if length)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


class Cider:
    """CIDEr-D, for which n-grams weigh less the more images of a set they are said of.

    Holds the n-grams that two or more images share: any other weighs as if it were of one.
    """

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        """`references` of every image of the set."""
        self._shared = document_frequencies(references)
        self._most = log(len(references))

    def score(self, caption: Words, references: Sequence[Words]) -> float:
        """0..10, the mean over `references`, one or more.

        Of a set of one image it is 0: what is said of all images weighs nothing. Source: arXiv 1411.5726, section 5 and its
        appendix on CIDEr-D.
        """
        mine, total = self._vectors(caption), 0.0
        for reference in references:
            alike = sum(_clipped_cosine(a, b) for a, b in zip(mine, self._vectors(reference), strict=True)) / N
            total += alike * exp(-((len(caption) - len(reference)) ** 2) / (2 * SIGMA**2))
        return 10 * total / len(references)

    def _vectors(self, text: Words) -> list[dict[Words, float]]:
        """The weight of every n-gram, for 1 to 4 words."""
        return [
            {
                gram: n * (self._most - log(self._shared.get(gram, 1)))
                for gram, n in Counter(ngrams(text, length)).items()
            }
            for length in range(1, N + 1)
        ]


def document_frequencies(references: Sequence[Sequence[Words]]) -> dict[Words, int]:
    """For how many images each n-gram of 1 to 4 words is in a reference, where that is two or more.

    An n-gram is shared only if both parts one word shorter are, so the others are never counted: most of four words are of one
    image. Source: the a-priori rule of Agrawal and Srikant, VLDB 1994.
    """
    shared: dict[Words, int] = {}
    for length in range(1, N + 1):
        found: Counter[Words] = Counter()
        for texts in references:
            grams = {gram for text in texts for gram in ngrams(text, length)}
            found.update(gram for gram in grams if length == 1 or (gram[1:] in shared and gram[:-1] in shared))
        shared |= {gram: images for gram, images in found.items() if images > 1}
    return shared


def ngrams(text: Words, length: int) -> Iterator[Words]:
    return (text[start : start + length] for start in range(len(text) - length + 1))


@dataclass(frozen=True, eq=False)
class Scores:
    """What each image's caption scored. BLEU is of a set, so it has counts in the place of scores."""

    photographs: NDArray[np.int64]
    """[I] `Batch.image_ids`, each once."""
    keys: tuple[str, ...]
    """[I] of the sample that was captioned."""
    captions: tuple[str, ...]
    """[I]"""
    values: NDArray[np.float64]
    """[I, 12]: `bleu_counts`, ROUGE-L, CIDEr-D. `figures` of their means over any images are the figures of these."""

    def means(self) -> dict[str, float]:
        """Every one of `FIGURES` over all images."""
        return dict(zip(FIGURES, figures(self.values.mean(axis=0)).tolist(), strict=True))


def score(
    photographs: NDArray[np.int64],
    keys: Sequence[str],
    captions: Sequence[str],
    references: Sequence[Sequence[Words]],
    cider: Cider,
) -> Scores:
    """Each of I captions against the references of its image."""
    values = np.empty((len(captions), 2 + 2 * N + 2))
    for row, (caption, texts) in enumerate(zip(map(words, captions), references, strict=True)):
        values[row] = *bleu_counts(caption, texts), rouge_l(caption, texts), cider.score(caption, texts)
    return Scores(photographs, tuple(keys), tuple(captions), values)


def figures(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 6] `FIGURES` from [..., 12] means of `Scores.values`: over all images, or over those of resamples, for which
    CIDEr-D goes on weighing n-grams by the whole set."""
    return np.concatenate([bleu(means[..., : 2 + 2 * N]), means[..., 2 + 2 * N :]], axis=-1)


@lru_cache(maxsize=1)
def _bleu() -> "BLEU":
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(
        tokenize="none", force=True, smooth_method="none", effective_order=True
    )  # else it warns at each sentence


def _common(a: Words, b: Words) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = row
        row = [0]
        for column, other in enumerate(b):
            row.append(before[column] + 1 if word == other else max(before[column + 1], row[column]))
    return row[-1]


def _clipped_cosine(caption: Mapping[Words, float], reference: Mapping[Words, float]) -> float:
    """No n-gram counts more than in the reference, however often the caption says it."""
    dot = sum(min(weight, reference[gram]) * reference[gram] for gram, weight in caption.items() if gram in reference)
    return dot / sqrt(_square(caption) * _square(reference)) if dot else 0.0


def _square(weights: Mapping[Words, float]) -> float:
    return sum(weight * weight for weight in weights.values())
