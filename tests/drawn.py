"""What full-size files are written of: words, boxes and numbers drawn with a seed, and JSON lists written as a stream."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

WIDTH, HEIGHT = 640, 480
"""Pixels of every image."""
_WORDS = (
    "red blue small large wooden white black old young tall bright dark round empty parked green",
    "man woman dog cat horse train bus table chair window street tree building sign plate pizza bench bird boat car "
    "child clock cup door fence field flower glass grass hat jacket kite lamp leaf leg light mountain phone road rock "
    "shirt shoe sidewalk sink sky snow surfboard wall water wheel zebra umbrella elephant giraffe bicycle motorcycle",
    "beside behind above near holding facing under covering touching watching",
)
_ADJECTIVES, NOUNS, _VERBS = (tuple(words.split()) for words in _WORDS)
_BLOCK = 8192


def opened(path: Path) -> IO[str]:
    """A text file to write, its folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w", encoding="utf-8", newline="")


def write_list(file: IO[str], items: Iterator[str]) -> None:
    """A JSON list, some thousand elements at a time."""
    file.write("[")
    separator = ""
    while some := list(islice(items, _BLOCK)):
        file.write(separator + ", ".join(some))
        separator = ", "
    file.write("]")


def joined(items: Iterator[str], count: int) -> str:
    """A JSON list of the next `count` of `items`."""
    return f"[{', '.join(islice(items, count))}]"


def shuffled(count: int) -> Iterator[int]:
    """1 to `count`, in no order."""
    return numbers(np.random.default_rng(7).permutation(count) + 1)


def numbers(found: np.ndarray) -> Iterator[int]:
    """As Python's, some at a time: a million of them in a list take 40 MB."""
    for at in range(0, len(found), _BLOCK):
        yield from found[at : at + _BLOCK].tolist()


def draw_numbers(count: int, below: int) -> np.ndarray:
    """[count] of uint8."""
    return np.random.default_rng(below).integers(0, below, count, dtype=np.uint8)


def draw_words(count: int, words: Sequence[str]) -> Iterator[str]:
    """`count` of `words`, again and again."""
    return (words[n] for n in numbers(draw_numbers(count, len(words))))


def draw_phrases(count: int) -> Iterator[str]:
    """As "a red dog beside the table"."""
    random = np.random.default_rng(1)
    for at in range(0, count, _BLOCK):
        some = random.integers(0, 1 << 30, (min(_BLOCK, count - at), 4)).tolist()
        for a, b, c, d in some:
            yield (
                f"a {_ADJECTIVES[a % len(_ADJECTIVES)]} {NOUNS[b % len(NOUNS)]} "
                f"{_VERBS[c % len(_VERBS)]} the {NOUNS[d % len(NOUNS)]}"
            )


def draw_sentences(count: int) -> Iterator[str]:
    """Of 10 words and a full stop."""
    return (f"The {words[2:]} and some more." for words in draw_phrases(count))


def draw_boxes(count: int) -> Iterator[list[int]]:
    """x y w h in pixels, within `WIDTH` by `HEIGHT`."""
    random = np.random.default_rng(2)
    for at in range(0, count, _BLOCK):
        some = min(_BLOCK, count - at)
        x, y = random.integers(0, WIDTH - 20, some), random.integers(0, HEIGHT - 20, some)
        w, h = random.integers(10, 200, some), random.integers(10, 200, some)
        yield from np.stack([x, y, np.minimum(w, WIDTH - x), np.minimum(h, HEIGHT - y)], 1).tolist()
