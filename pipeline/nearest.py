"""A word that nobody knows, and the known one that may have been meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known word most like `word`, none of the likeness (0..1) below `cutoff`; empty where there is none."""
    return next(iter(get_close_matches(word, list(known), 1, cutoff)), "")


def hint(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, to end a message with; empty where nothing known is near."""
    found = nearest(word, known)
    return f" (did you mean {found!r}?)" if found else ""
