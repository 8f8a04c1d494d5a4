"""Ranks by sorting lists, the slow way: among equal scores the relevant ones come last, and NaN counts against the query."""

import math


def order(scores: list[float], relevant: list[bool]) -> list[int]:
    """The entries as they stand, the first first."""

    def place(entry: int) -> tuple[float, bool]:
        score = scores[entry]
        if math.isnan(score):
            score = -math.inf if relevant[entry] else math.inf
        return -score, relevant[entry]

    return sorted(range(len(scores)), key=place)


def rank(scores: list[float], relevant: list[bool]) -> int:
    """Counts from 1 to the first relevant one."""
    return 1 + [relevant[entry] for entry in order(scores, relevant)].index(True)


def rank_again(dual: list[float], again: list[float], relevant: list[bool], k: int) -> int:
    """Likewise, where the first k by `dual` are put in the order of `again`."""
    standing = order(dual, relevant)
    first, rest = standing[:k], standing[k:]
    anew = order([again[entry] for entry in first], [relevant[entry] for entry in first])
    return 1 + [relevant[entry] for entry in [*(first[number] for number in anew), *rest]].index(True)
