"""Captions of a scene: all its things from left to right, each with colour and shape, and how they stand.

    a red circle left of a small blue star inside a large green ring above a yellow square

The templates of test scenes are others than those of training scenes, made of the same words.
"""

import random
import re
from collections import Counter
from itertools import pairwise

from pipeline.drawing.scene import COLOURS, SHAPES, Pair, Scene, Thing, relation
from pipeline.sentences import Sentence

CAPTIONS = 5
_TRAIN = (
    ("", ", ", " and "),
    ("from left to right: ", ", ", " and "),
    ("there is ", ", then ", " and then "),
    ("", " {forward} ", " {forward} "),
    ("", ", {backward} it ", ", {backward} it "),
)
_TEST = (
    ("there is ", " and ", " and "),
    ("left to right, ", " then ", " and then "),
    ("from left to right there is ", ", ", " and "),
    ("there is ", " {forward} ", " {forward} "),
    ("", ", then {backward} it ", " and {backward} it "),
)
TEMPLATES = {"train": _TRAIN, "test": _TEST}
"""(opening, between two, before the last); `forward`: the relation of what was said to what comes, `backward`: of what
comes to what was said."""
_SAID = (
    frozenset[str](),
    frozenset[str](),
    frozenset(("size",)),
    frozenset(("texture",)),
    frozenset(("size", "texture")),
)
"""What captions say of every thing beside colour and shape."""
_PAIR = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(?:s|es)?\b")


def captions(scene: Scene, rng: random.Random, templates: str) -> list[Sentence]:
    """`CAPTIONS` captions in any order, each of another of the `templates` (a key of `TEMPLATES`). Their phrases name each
    thing, with its article; ids are indices of things."""
    said = rng.sample(_SAID, len(_SAID))
    found = [_caption(scene, *template, said[i]) for i, template in enumerate(TEMPLATES[templates])]
    return rng.sample(found, len(found))  # an epoch shows each scene's first, the next its second


def pairs(text: str) -> Counter[Pair]:
    """How often each (colour, shape) is said in `text`: of a caption, those of its scene."""
    return Counter((colour, shape) for colour, shape in _PAIR.findall(text))


def described(thing: Thing, attributes: frozenset[str]) -> str:
    """`small striped red circle`: colour and shape, and of size and texture those among `attributes`."""
    words = [getattr(thing, name) for name in ("size", "texture") if name in attributes]
    return " ".join((*words, thing.colour, thing.shape))


def _caption(scene: Scene, opening: str, between: str, last: str, said: frozenset[str]) -> Sentence:
    text, phrases = opening, list[tuple[int, int, tuple[int, ...]]]()
    # What is inside another is said with it; the outer one of the two says where both stand.
    spoken = [i for i in range(len(scene.things)) if i != scene.inner]
    for one, other in pairwise([-1, *spoken]):
        if one >= 0:
            joint = last if other == spoken[-1] else between
            text += joint.format(forward=relation(scene, one, other), backward=relation(scene, other, one))
        for i in (scene.inner, other) if other == scene.inner + 1 > 0 else (other,):
            words = _with_article(described(scene.things[i], said | scene.telling[i]))
            phrases.append((len(text), len(text) + len(words), (i,)))
            text += f"{words} inside " if i == scene.inner else words
    return Sentence(text, tuple(phrases))


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
