"""Greedy and beam search over tables of next-token probabilities, against searches that leave nothing out."""

import math
from collections.abc import Mapping, Sequence
from itertools import product

import pytest
import torch
from torch import Tensor

from bitgen.model.decoding import beam_search, decode, greedy
from bitgen.tokens import EOT, VOCABULARY

WORDS = (5, 6, 7)
TOKENS = (*WORDS, EOT)
"""All that a table ever gives a probability above 0."""
LONGEST = 4
Prefix = tuple[int, ...]
Table = Mapping[Prefix, tuple[float, ...]]
"""Logits of `TOKENS` after each prefix."""


def _table(seed: int, end: float = 0.0) -> Table:
    """Random logits, those of end-of-text shifted by `end`."""
    generator = torch.Generator().manual_seed(seed)
    table = {}
    for length in range(LONGEST):
        for prefix in product(WORDS, repeat=length):
            words = (1.5 * torch.randn(len(TOKENS), generator=generator)).tolist()
            table[prefix] = (*words[:-1], words[-1] + end)
    return table


class _Model:
    """A next-token function of one table an image. Sequences that have ended may go on in any way."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables, self.steps = tables, 0
        self.prefixes: list[list[Prefix]] = [[()] for _ in tables]

    def __call__(self, token_ids: Tensor, parents: Tensor) -> Tensor:
        if self.steps:
            self.prefixes = [
                [rows[parent] + (token,) for token, parent in zip(tokens, own, strict=True)]
                for rows, tokens, own in zip(self.prefixes, token_ids.tolist(), parents.tolist(), strict=True)
            ]
        self.steps += 1
        logits = torch.full((*token_ids.shape, VOCABULARY), -torch.inf)
        rows = [
            [table.get(p, (9.0, 0, 0, 0)) for p in own] for table, own in zip(self.tables, self.prefixes, strict=True)
        ]
        logits[..., list(TOKENS)] = torch.tensor(rows)
        return logits


def _first(rows: int = 1) -> Tensor:
    return torch.full((rows, 1), EOT)


def _beams(tables: Sequence[Table], most: int, beams: int, penalty: float) -> list[list[int]]:
    return beam_search(_Model(tables), _first(len(tables)), most, beams, penalty)


def _log_p(table: Table, sequence: Sequence[int]) -> float:
    total = 0.0
    for step, token in enumerate(sequence):
        logits = table[tuple(sequence[:step])]
        total += logits[TOKENS.index(token)] - math.log(sum(math.exp(logit) for logit in logits))
    return total


def _score(table: Table, sequence: Sequence[int], penalty: float) -> float:
    return _log_p(table, sequence) / ((5 + len(sequence)) / (5 + 1)) ** penalty


def _all_sequences(most: int) -> list[Prefix]:
    """Those that end within `most` tokens, end-of-text included, and those that are cut there."""
    ending: list[Prefix] = [(*words, EOT) for length in range(most) for words in product(WORDS, repeat=length)]
    return [*ending, *product(WORDS, repeat=most)]


def _best_of_all(table: Table, most: int, penalty: float) -> list[int]:
    best = max(_all_sequences(most), key=lambda sequence: _score(table, sequence, penalty))
    return [token for token in best if token != EOT]


def _slow_beams(table: Table, most: int, beams: int, penalty: float) -> list[int]:
    """Every step to the last, with lists: what ended is kept in full."""
    live: list[Prefix] = [()]
    ended: list[Prefix] = []
    for _ in range(most):
        grown = [(*prefix, token) for prefix in live for token in TOKENS]
        grown = sorted(grown, key=lambda sequence: -_log_p(table, sequence))[:beams]
        ended += [sequence for sequence in grown if sequence[-1] == EOT]
        live = [sequence for sequence in grown if sequence[-1] != EOT]
    best = max(ended + live, key=lambda sequence: _score(table, sequence, penalty))
    return [token for token in best if token != EOT]


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(6))
def test_beams_enough_for_all_sequences_find_the_best_of_all(seed: int, penalty: float) -> None:
    table = _table(seed)
    everything = len(WORDS) ** (LONGEST - 1) * len(TOKENS)
    assert _beams([table], LONGEST, everything, penalty) == [_best_of_all(table, LONGEST, penalty)]


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_few_beams_find_what_a_slow_search_finds(beams: int, penalty: float) -> None:
    tables = [_table(seed, end) for seed in range(8) for end in (-2.0, 0.0)]
    expected = [_slow_beams(table, LONGEST, beams, penalty) for table in tables]
    assert _beams(tables, LONGEST, beams, penalty) == expected


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_one_beam_is_greedy(penalty: float) -> None:
    tables = [_table(seed, end) for seed in range(20) for end in (-2.0, 0.0)]
    expected = greedy(_Model(tables), _first(40), LONGEST)
    assert _beams(tables, LONGEST, 1, penalty) == expected
    assert {len(row) for row in expected} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("seed", range(6))
def test_greedy_follows_the_largest_logit(seed: int) -> None:
    table, sequence = _table(seed, -1.0), ()
    while len(sequence) < LONGEST and EOT not in sequence:
        logits = table[sequence]
        sequence = (*sequence, TOKENS[logits.index(max(logits))])
    assert greedy(_Model([table]), _first(), LONGEST) == [[token for token in sequence if token != EOT]]


def _by_hand(*rows: tuple[float, float, float, float]) -> Table:
    """Probabilities after any prefix of 0, 1, 2 ... tokens."""
    logs = [tuple(math.log(p) if p else -math.inf for p in row) for row in rows]
    return {prefix: logs[length] for length in range(len(rows)) for prefix in product(WORDS, repeat=length)}


EARLY = _by_hand((0.6, 0, 0, 0.4), (0.5, 0.5, 0, 0), (0.5, 0.5, 0, 0), (0, 0, 0, 1))
"""It may end at once with 0.4; else it is one of four sequences of 4 tokens, end included, of 0.15 each."""


def test_a_sequence_that_ended_is_kept_while_others_fill_all_beams() -> None:
    assert _beams([EARLY], 4, 2, 0.0) == [[]]


def test_a_larger_penalty_prefers_longer_sequences() -> None:
    # ln 0.4 = -0.916 against ln 0.15 / 1.5^α = -1.897 / 1.5^α: above α = 1.795 the longer ones win.
    assert [len(_beams([EARLY], 4, 4, penalty)[0]) for penalty in (0.0, 1.7, 1.9)] == [0, 0, 3]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_result_does_not_depend_on_the_other_images(beams: int) -> None:
    tables = [_table(0, -9.0), EARLY, _table(1, 9.0), _table(2), _table(3, -1.0)]
    alone = [decode(_Model([table]), _first(), LONGEST, beams, 0.6)[0] for table in tables]
    assert decode(_Model(tables), _first(5), LONGEST, beams, 0.6) == alone
    assert decode(_Model(tables[::-1]), _first(5), LONGEST, beams, 0.6) == alone[::-1]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_no_result_is_longer_than_asked(beams: int, most: int) -> None:
    tables = [_table(seed, -9.0) for seed in range(4)]
    assert [len(row) for row in decode(_Model(tables), _first(4), most, beams, 0.6)] == [most] * 4


@pytest.mark.parametrize("beams", [1, 3])
def test_end_of_text_is_in_no_result(beams: int) -> None:
    results = decode(_Model([_table(seed) for seed in range(30)]), _first(30), LONGEST, beams, 0.6)
    assert {token for row in results for token in row} == set(WORDS)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_search_stops_when_nothing_better_can_come(beams: int) -> None:
    model = _Model([_table(seed, 9.0) for seed in range(4)])
    assert decode(model, _first(4), LONGEST, beams, 0.6) == [[]] * 4
    assert model.steps == 1


@pytest.mark.parametrize(("most", "beams", "penalty"), [(0, 1, 0.6), (4, 0, 0.6), (4, 2, -0.1), (4, 2, math.nan)])
def test_a_search_of_nothing_is_refused(most: int, beams: int, penalty: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        decode(_Model([EARLY]), _first(), most, beams, penalty)
