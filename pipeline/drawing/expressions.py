"""Grounded sentences of a scene: phrases that each name one thing, or several, and no other.

A thing is named by what it alone is ("the small red circle"), by where it stands among those alike ("the red circle left
of the blue star", "the leftmost square"), or with others ("the two striped shapes"). A place is said where it is clear:
the thing stands `APART` on that side, and of the others that fit the words none stands on that side at all.

The templates of test scenes are others than those of training scenes, made of the same words.
"""

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, permutations
from typing import NamedTuple

from pipeline.drawing.scene import APART, BESIDE, Scene, relation
from pipeline.sentences import Sentence

_BY_ONE = {"train": ("{x}", "find {x}"), "test": ("there is {x}", "find {x} there")}
_BY_SEVERAL = {"train": ("{x}", "find {x}"), "test": ("find {x} there",)}
_BESIDE = {"train": "the {d} {r} {y}", "test": "the {d} that is {r} {y}"}
_LAST = ("the {e} {d}", "the {d} that is {e}")
_SEVERAL = ("the {n} {d}", "all {d}", "the {d}")
_TWO = {"train": ("{x} is {r} {y}", "{r} {y} is {x}"), "test": ("there is {x} {r} {y}", "{y} and {r} it {x}")}
_LIST = {"train": ("{x} and {y}", "{x}, {y} and {z}"), "test": ("find {x} and then {y}", "{x} and {y} and {z}")}
"""By split, where they differ. d: words for one thing or several; r: a relation; e: an extreme; n: a number; x, y, z:
phrases."""
_EXTREMES = {"leftmost": "left of", "rightmost": "right of", "highest": "above", "lowest": "below"}
_NUMBERS = {2: "two", 3: "three"}
_ORDER = ("size", "texture", "colour", "shape")
_SUBSETS = [frozenset(some) for count in range(1, 5) for some in combinations(_ORDER, count)]

Named = tuple[str, tuple[int, ...]]
"""Words, and the things that they name."""


class _Way(NamedTuple):
    """A way to name things, of which one is taken by chance before any is put into words."""

    things: tuple[int, ...]
    words: str = ""
    """For what they are."""
    place: str = ""
    """A relation or an extreme."""
    other: int = -1
    """The thing that a relation is to."""


def sentences(scene: Scene, rng: random.Random, templates: str, about: frozenset[int]) -> list[Sentence]:
    """Up to eight sentences in any order with their phrases, by the `templates` of `train` or `test`; ids are indices of things.

    `about` names things, one at least: only phrases that name none but them are marked, other words stay words, and a
    sentence without a phrase is left out. About all things there are five sentences or more; about some, one or more, and
    their phrases say colour and shape.
    """
    names = _Names(scene, rng, about)
    singles = [*names.alone(), *names.beside(_BESIDE[templates]), *names.last()]
    found = [_fill(rng.choice(_BY_ONE[templates]), x=named) for named in singles]
    found += [_fill(rng.choice(_BY_SEVERAL[templates]), x=named) for named in names.several()]
    found += names.two(rng.choice(_TWO[templates]))
    found.append(names.listed(rng.choice(_LIST[templates])))
    found = [Sentence(s.text, tuple(p for p in s.phrases if about.issuperset(p[2]))) for s in found]
    found = list({sentence.text: sentence for sentence in found if sentence.phrases}.values())
    return rng.sample(found, len(found))  # an epoch shows some of them, the first ones first


class _Names:
    """What the things of one scene can be called."""

    def __init__(self, scene: Scene, rng: random.Random, about: frozenset[int]) -> None:
        self._scene, self._rng, self._about = scene, rng, about
        self._all = range(len(scene.things))
        self._fitting: dict[str, list[int]] = defaultdict(list)
        """The things that fit each description."""
        for i, thing in enumerate(scene.things):
            for said in _SUBSETS:
                words = [getattr(thing, name) for name in _ORDER if name in said]
                self._fitting[" ".join(words if "shape" in said else [*words, "shape"])].append(i)
        self._alone: dict[int, list[str]] = defaultdict(list)
        for words, who in self._fitting.items():
            if len(who) == 1 and self._is_said(words, who[0]):
                self._alone[who[0]].append(words)

    def alone(self) -> list[Named]:
        """Two things, each by what it alone is."""
        wanted = sorted(self._about)
        return [self._one(i) for i in self._rng.sample(wanted, min(2, len(wanted)))]

    def beside(self, pattern: str) -> list[Named]:
        """Up to two things of several alike, each by where it stands to another."""
        found = [
            _Way((i,), words, place, j)
            for words, who in self._fitting.items()
            for i in (who if len(who) > 1 else ())
            for j in self._all
            if j not in who
            if (place := relation(self._scene, i, j))
            if not any(self._could_be(place, k, j) for k in who if k != i)
        ]
        return [
            (pattern.format(d=way.words, r=way.place, y=self._one(way.other)[0]), way.things)
            for way in self._some(found, 2)
        ]

    def last(self) -> list[Named]:
        """Of several alike, the one that stands furthest to a side."""
        things = self._scene.things
        found = [
            _Way((i,), words, extreme)
            for words, who in self._fitting.items()
            for extreme, place in _EXTREMES.items()
            for i in (who if len(who) > 1 else ())
            if all(BESIDE[place](things[i], things[k]) >= APART for k in who if k != i)
        ]
        pattern = self._rng.choice(_LAST)
        return [(pattern.format(e=way.place, d=way.words), way.things) for way in self._some(found, 1)]

    def several(self) -> list[Named]:
        """Two or three things, not all, by what they share."""
        groups = ((words, who) for words, who in self._fitting.items() if len(who) in _NUMBERS)
        found = [_Way(tuple(who), words) for words, who in groups if len(who) < len(self._all)]
        pattern = self._rng.choice(_SEVERAL)
        return [
            (pattern.format(n=_NUMBERS[len(way.things)], d=_plural(way.words)), way.things)
            for way in self._some(found, 1)
        ]

    def two(self, template: str) -> list[Sentence]:
        """A thing, another, and where the first stands to it."""
        found = [_Way((i,), "", relation(self._scene, i, j), j) for i, j in permutations(self._all, 2)]
        return [
            _fill(template.replace("{r}", way.place), x=self._one(way.things[0]), y=self._one(way.other))
            for way in self._some([way for way in found if way.place], 1)
        ]

    def listed(self, template: str) -> Sentence:
        """Two or three things."""
        first = self._rng.choice(sorted(self._about))
        others = self._rng.sample([i for i in self._all if i != first], 2)
        chosen = [first, *others][: template.count("{")]
        self._rng.shuffle(chosen)
        return _fill(template, **dict(zip("xyz", map(self._one, chosen), strict=False)))

    def _one(self, i: int) -> Named:
        """What thing `i` alone is, in as few words as do or one more."""
        fewest = min(words.count(" ") for words in self._alone[i])
        return f"the {self._rng.choice([w for w in self._alone[i] if w.count(' ') <= fewest + 1])}", (i,)

    def _some(self, found: Sequence[_Way], most: int) -> list[_Way]:
        ours = (way for way in found if self._about.issuperset(way.things))
        wanted = [way for way in ours if not way.words or self._is_said(way.words, way.things[0])]
        return self._rng.sample(wanted, min(most, len(wanted)))

    def _is_said(self, words: str, i: int) -> bool:
        """Whether `words` say colour and shape of thing `i`, or need not."""
        is_asked = i in self._about and len(self._about) < len(self._all)
        return not is_asked or set(self._scene.things[i].pair) <= set(words.split())

    def _could_be(self, place: str, one: int, other: int) -> bool:
        """Whether someone may say so of thing `one`, however little it stands that way."""
        if place == "inside":
            return self._scene.are_nested(one, other)
        return BESIDE[place](self._scene.things[one], self._scene.things[other]) > 0


def _fill(template: str, **named: Named) -> Sentence:
    """The template with words in its fields, each of which becomes a phrase."""
    text, phrases = "", list[tuple[int, int, tuple[int, ...]]]()
    for i, part in enumerate(re.split(r"\{(\w)\}", template)):
        words, who = named[part] if i % 2 else (part, ())
        if who:
            phrases.append((len(text), len(text) + len(words), who))
        text += words
    return Sentence(text, tuple(phrases))


def _plural(words: str) -> str:
    return f"{words}es" if words.endswith("s") else f"{words}s"
