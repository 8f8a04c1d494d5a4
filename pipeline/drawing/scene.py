"""A drawn scene: four or five things of a shape, a colour, a size and a texture, and how they stand to each other.

Some two things of a scene differ in one attribute only, and all differ in some. No two overlap, but for one thing that may
stand inside another. Their centres lie apart from left to right, so that a scene can be read in one order.

Lengths are in units: `CANVAS` of them to an image's side, whatever its pixels. y runs down.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "cyan")
SIZES = ("small", "large")
TEXTURES = ("solid", "striped", "dotted")
ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}

Pair = tuple[str, str]
"""(colour, shape)."""
PAIRS: frozenset[Pair] = frozenset((colour, shape) for colour in COLOURS for shape in SHAPES)
HELD_OUT: frozenset[Pair] = frozenset(
    (
        ("red", "circle"),
        ("green", "ring"),
        ("blue", "cross"),
        ("yellow", "star"),
        ("purple", "triangle"),
        ("orange", "square"),
        ("black", "square"),
        ("cyan", "circle"),
    )
)
"""One shape of every colour, every shape at least once: in no scene to train on."""
SEEN = PAIRS - HELD_OUT
_IN_ORDER = {False: sorted(SEEN), True: sorted(HELD_OUT)}
"""To draw from: sets have another order in every process."""

CANVAS = 448
APART = 18
"""Centres lie so far apart where a relation is named: 4.5 of 112 pixels."""
_GAP, _MARGIN = 12, 8
_EXTENTS = {"small": (92, 100), "large": (150, 162)}
_INNER, _OUTER = (64, 68), (162, 166)
_HOLDERS = ("circle", "square", "ring")
"""Shapes that another can stand in, and that can still be told."""
_INSIDE_SHARE = 0.4
_MOST_LARGE = 3
_TRIES = 60


@dataclass(frozen=True)
class Thing:
    """One thing, and the square box that it fills."""

    shape: str
    colour: str
    size: str
    texture: str
    x: int = 0
    """Of the centre."""
    y: int = 0
    extent: int = 0
    """Of the box, to a side; even."""

    @property
    def pair(self) -> Pair:
        """(colour, shape)."""
        return self.colour, self.shape

    @property
    def look(self) -> tuple[str, str, str, str]:
        """All attributes."""
        return self.shape, self.colour, self.size, self.texture


@dataclass(frozen=True)
class Scene:
    """Things from left to right, what is inside another before that other."""

    things: tuple[Thing, ...]
    inner: int = -1
    """Index of the thing inside the next one; -1: there is none."""
    telling: tuple[frozenset[str], ...] = ()
    """Of each thing, which of its size and texture a text has to say, so that no other scene or thing fits it as well."""

    def are_nested(self, one: int, other: int) -> bool:
        """Whether one of the two is inside the other."""
        return self.inner >= 0 and {one, other} == {self.inner, self.inner + 1}


BESIDE: dict[str, Callable[[Thing, Thing], int]] = {
    "left of": lambda a, b: b.x - a.x,
    "right of": lambda a, b: a.x - b.x,
    "above": lambda a, b: b.y - a.y,
    "below": lambda a, b: a.y - b.y,
}
"""By relation, how far it holds of the first thing to the second: below 0 its contrary does."""


def relation(scene: Scene, one: int, other: int) -> str:
    """The word for where thing `one` stands, seen from `other`: the larger of across and down. Empty: too near to say."""
    if scene.are_nested(one, other):
        return "inside" if one == scene.inner else ""
    a, b = scene.things[one], scene.things[other]
    word = max(BESIDE, key=lambda each: BESIDE[each](a, b))
    return word if BESIDE[word](a, b) >= APART else ""


def draw_scene(rng: random.Random, counts: Sequence[int], is_unseen: bool) -> Scene:
    """A scene of one of `counts` things: of `SEEN` pairs alone, or with one or two of a `HELD_OUT` pair among them."""
    while True:
        looks, inner = _looks(rng, rng.choice(counts), is_unseen)
        for _ in range(_TRIES):
            if (scene := _placed(rng, looks, inner)) is not None and _is_good(scene, is_unseen):
                return replace(scene, telling=_telling(scene))


def draw_twins(rng: random.Random, counts: Sequence[int], is_unseen: bool) -> tuple[Scene, Scene]:
    """Two scenes that differ in one attribute of one thing, or in two things that have changed colours; of each the
    attributes that tell them apart are `telling`."""
    while True:
        scene = draw_scene(rng, counts, is_unseen)
        for _ in range(_TRIES):
            twin, changed = _changed(rng, scene)
            if twin != scene and _is_good(twin, is_unseen):
                one, other = (replace(each, telling=_telling(each, changed)) for each in (scene, twin))
                return one, other


def _looks(rng: random.Random, count: int, is_unseen: bool) -> tuple[list[Thing], tuple[int, int] | None]:
    """Things without places, and (inner, outer)."""
    first = _random(rng, _IN_ORDER[is_unseen])
    looks = [first, _with_other(rng, first)]
    looks += [_random(rng, _IN_ORDER[False]) for _ in range(count - 2)]
    nested = [(i, o) for i, a in enumerate(looks) for o, b in enumerate(looks) if _may_nest(a, b)]
    return looks, rng.choice(nested) if nested and rng.random() < _INSIDE_SHARE else None


def _random(rng: random.Random, pairs: Sequence[Pair]) -> Thing:
    colour, shape = rng.choice(pairs)
    return Thing(shape, colour, "large" if rng.random() < 0.4 else "small", rng.choice(TEXTURES))


def _with_other(rng: random.Random, thing: Thing, attribute: str = "") -> Thing:
    """`thing` with another value of one attribute."""
    attribute = attribute or rng.choice(("colour", "colour", "shape", "size", "texture"))
    values = [value for value in ATTRIBUTES[attribute] if value != getattr(thing, attribute)]
    return replace(thing, **{attribute: rng.choice(values)})


def _may_nest(inner: Thing, outer: Thing) -> bool:
    is_fitting = inner.size == "small" and outer.size == "large" and outer.shape in _HOLDERS
    return is_fitting and inner.colour != outer.colour


def _placed(rng: random.Random, looks: Sequence[Thing], nested: tuple[int, int] | None) -> Scene | None:
    """The things at random places; None where they do not fit."""
    placed: dict[int, Thing] = {}
    for i in sorted(range(len(looks)), key=lambda i: -SIZES.index(looks[i].size)):
        if nested and i == nested[0]:
            continue
        extent = 2 * (rng.randint(*(_OUTER if nested and i == nested[1] else _EXTENTS[looks[i].size])) // 2)
        reach = extent // 2 + _MARGIN
        for _ in range(8):
            x, y = rng.randint(reach, CANVAS - reach), rng.randint(reach, CANVAS - reach)
            thing = replace(looks[i], x=x, y=y, extent=extent)
            if all(_are_apart(thing, other) for other in placed.values()):
                placed[i] = thing
                break
        else:
            return None
    order = sorted(placed, key=lambda i: placed[i].x)
    if not nested:
        return Scene(tuple(placed[i] for i in order))
    outer, at = placed[nested[1]], order.index(nested[1])
    extent = 2 * (rng.randint(*_INNER) // 2)
    inner = replace(looks[nested[0]], x=outer.x, y=outer.y, extent=extent)
    things = [placed[i] for i in order]
    return Scene((*things[:at], inner, *things[at:]), at)


def _are_apart(one: Thing, other: Thing) -> bool:
    across, down = abs(one.x - other.x), abs(one.y - other.y)
    return across >= APART and max(across, down) >= (one.extent + other.extent) // 2 + _GAP


def _changed(rng: random.Random, scene: Scene) -> tuple[Scene, dict[int, str]]:
    """A twin of `scene`, though not always a good one or another, and by thing the attribute in which they differ."""
    things = list(scene.things)
    one, other = rng.sample(range(len(things)), 2)
    if rng.random() < 0.5:
        changed = {one: "colour", other: "colour"}
        colours = things[other].colour, things[one].colour
        things[one], things[other] = replace(things[one], colour=colours[0]), replace(things[other], colour=colours[1])
    else:
        changed = {one: rng.choice(tuple(ATTRIBUTES))}
        things[one] = _with_other(rng, things[one], changed[one])
        low, high = _EXTENTS[things[one].size]
        if changed[one] == "size":
            things[one] = replace(things[one], extent=(low + high) // 4 * 2)
    return replace(scene, things=tuple(things)), changed


def _is_good(scene: Scene, is_unseen: bool) -> bool:
    """Whether `scene` keeps this module's word."""
    things, pairs = scene.things, {thing.pair for thing in scene.things}
    outer = scene.inner + 1 if scene.inner >= 0 else -1
    return (
        len({thing.look for thing in things}) == len(things)
        and any(_differences(a, b) == 1 for a, b in combinations(things, 2))
        and (bool(pairs & HELD_OUT) if is_unseen else pairs <= SEEN)
        and sum(thing.size == "large" for thing in things) <= _MOST_LARGE
        and (outer < 0 or _may_nest(things[scene.inner], things[outer]))
        and all(
            scene.are_nested(a, b) or _are_apart(things[a], things[b]) for a, b in combinations(range(len(things)), 2)
        )
        and all(t.extent // 2 + _MARGIN <= c <= CANVAS - t.extent // 2 - _MARGIN for t in things for c in (t.x, t.y))
    )


def _differences(one: Thing, other: Thing) -> int:
    return sum(a != b for a, b in zip(one.look, other.look, strict=True))


def _telling(scene: Scene, changed: dict[int, str] | None = None) -> tuple[frozenset[str], ...]:
    """Of each thing, those of its size and texture that set it apart from another of its pair, or in which it was
    `changed`."""
    told = [
        {attribute} - {"colour", "shape"}
        for attribute in [(changed or {}).get(i, "colour") for i in range(len(scene.things))]
    ]
    for a, b in combinations(range(len(scene.things)), 2):
        one, other = scene.things[a], scene.things[b]
        if one.pair == other.pair:
            differing = {name for name in ("size", "texture") if getattr(one, name) != getattr(other, name)}
            told[a] |= differing
            told[b] |= differing
    return tuple(frozenset(each) for each in told)
