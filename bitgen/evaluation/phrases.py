"""The phrases of a batch, cut to what a model can hold, and the same boxes asked for with the words of other phrases.

Axes: T texts, L tokens, P phrases.
"""

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bitgen.batch import Batch
from bitgen.tokens import EOT

DRAWS = 32
"""Random draws before all candidates are looked through in order."""
KEPT = 4096
"""Phrases that may give their words to later ones, about 2 MB."""


@dataclass(frozen=True)
class TextRows:
    """Texts with phrases, and the image rows that they are asked of; fields as in `Batch`."""

    token_ids: Tensor
    """[T, L] int64."""
    token_mask: Tensor
    """[T, L] bool."""
    text_image: Tensor
    """[T] int64."""
    phrase_text: Tensor
    """[P] int64, ascending."""
    phrase_slot: Tensor
    """[P] int64."""
    phrase_tokens: Tensor
    """[P, 2] int64."""
    max_slots: int


def text_rows(batch: Batch) -> TextRows:
    """The texts of `batch` that have phrases, and all phrases in order."""
    wanted, phrase_text = batch.phrase_text.unique(return_inverse=True)
    return TextRows(
        token_ids=batch.token_ids[wanted],
        token_mask=batch.token_mask[wanted],
        text_image=batch.text_image[wanted],
        phrase_text=phrase_text,
        phrase_slot=batch.phrase_slot,
        phrase_tokens=batch.phrase_tokens,
        max_slots=batch.max_slots,
    )


def split(rows: TextRows, texts: int) -> Iterator[TextRows]:
    """`rows`, at most `texts` texts at a time; phrases stay in order."""
    for start in range(0, len(rows.token_ids), texts):
        stop = start + texts
        phrases = (rows.phrase_text >= start) & (rows.phrase_text < stop)
        yield TextRows(
            token_ids=rows.token_ids[start:stop],
            token_mask=rows.token_mask[start:stop],
            text_image=rows.text_image[start:stop],
            phrase_text=rows.phrase_text[phrases] - start,
            phrase_slot=rows.phrase_slot[phrases],
            phrase_tokens=rows.phrase_tokens[phrases],
            max_slots=rows.max_slots,
        )


@dataclass(frozen=True)
class Donor:
    """A phrase whose words can stand in for another's."""

    image_id: int
    tokens: tuple[int, ...]
    """Of its text, without padding."""
    span: tuple[int, int]

    @property
    def words(self) -> tuple[int, ...]:
        return self.tokens[slice(*self.span)]


class Donors:
    """Gives every phrase the words of another phrase of another image, one of the `KEPT` that came before it in the set.

    Other words are preferred ("the dog" of another image says the same thing); where every other image has the same words, those
    are taken. Phrases that no other image came before, those of the first one, wait for the end, and then take of the last ones;
    where there is no other image, they are left out. The draw depends on the seed and on the order of the phrases, not on how many
    images are in a batch.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._before: deque[Donor] = deque(maxlen=KEPT)
        self._waiting: list[tuple[Batch, list[int]]] = []

    def swap(self, batch: Batch) -> tuple[TextRows, Tensor]:
        """One text a phrase, for the phrases that have a donor, and the numbers [P'] of those phrases, ascending."""
        found: list[tuple[int, Donor]] = []
        waiting: list[int] = []
        for number, phrase in enumerate(_donors(batch)):
            donor = self._pick(phrase)
            if donor is None:
                waiting.append(number)
            else:
                found.append((number, donor))
            self._before.append(phrase)
        if waiting:
            self._waiting.append((batch, waiting))
        return _rows(batch, found)

    def rest(self) -> Iterator[tuple[Batch, TextRows, Tensor]]:
        """After the last batch, those whose phrases wait: each batch, and as from `swap` what they get."""
        for batch, numbers in self._waiting:
            own = _donors(batch)
            picked = [(number, self._pick(own[number])) for number in numbers]
            if found := [(number, donor) for number, donor in picked if donor is not None]:
                yield batch, *_rows(batch, found)

    def _pick(self, phrase: Donor) -> Donor | None:
        pool = self._before
        for _ in range(DRAWS if pool else 0):
            donor = pool[self._random.randrange(len(pool))]
            if donor.image_id != phrase.image_id and donor.words != phrase.words:
                return donor
        others = [donor for donor in pool if donor.image_id != phrase.image_id]
        different = [donor for donor in others if donor.words != phrase.words]
        candidates = different or others
        return candidates[self._random.randrange(len(candidates))] if candidates else None


def _rows(batch: Batch, found: Sequence[tuple[int, Donor]]) -> tuple[TextRows, Tensor]:
    """A text for each phrase of `batch`, by its number, with its donor's words; and the numbers."""
    phrases = torch.tensor([number for number, _ in found], dtype=torch.int64)
    length = max((len(donor.tokens) for _, donor in found), default=0)
    token_ids = torch.full((len(found), length), EOT)
    token_mask = torch.zeros(len(found), length, dtype=torch.bool)
    for row, (_, donor) in enumerate(found):
        token_ids[row, : len(donor.tokens)] = torch.tensor(donor.tokens)
        token_mask[row, : len(donor.tokens)] = True
    rows = TextRows(
        token_ids=token_ids,
        token_mask=token_mask,
        text_image=batch.text_image[batch.phrase_text[phrases]],
        phrase_text=torch.arange(len(found)),
        phrase_slot=torch.zeros(len(found), dtype=torch.int64),
        phrase_tokens=torch.tensor([donor.span for _, donor in found], dtype=torch.int64).reshape(-1, 2),
        max_slots=1,
    )
    return rows, phrases


def _donors(batch: Batch) -> list[Donor]:
    ids = [tuple(row[mask].tolist()) for row, mask in zip(batch.token_ids.cpu(), batch.token_mask.cpu(), strict=True)]
    image_ids = batch.image_ids[batch.text_image].tolist()
    spans = batch.phrase_tokens.tolist()
    return [
        Donor(image_ids[text], ids[text], (start, stop))
        for text, (start, stop) in zip(batch.phrase_text.tolist(), spans, strict=True)
    ]
