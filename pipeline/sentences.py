"""Grounded sentences written from boxes and category names: "the dog on the left and the two cups".

`pipeline/sample.py` uses them to give the embedded sample a fine phase without a word of anybody's licensed text.
They are generated, and plain: they name what is annotated and where it stands, and nothing else. Three rules hold:

- a phrase is unambiguous in its image: "the dog" only where one dog is annotated, crowds and tiny ones counted;
  otherwise by place ("the left dog", "the upper dog"), by size ("the larger dog", "the largest dog") or as a
  group ("the three dogs", one phrase with three boxes);
- no phrase stands for two different objects of one image;
- crowd boxes and boxes below 1% of the image's area are never named.
"""

from dataclasses import dataclass
from itertools import pairwise

TINY_SHARE = 0.01
"""Boxes with a smaller share of the image are not named."""
GAP_SHARE = 0.12
"""Centres must lie this share of the side apart for "left" and "right", "upper" and "lower"."""
SIZE_RATIO = 1.5
"""One box must have this many times the next one's area for "larger" and "largest"."""
MAX_SENTENCES = 4
MAX_PHRASES = 3
"""In one sentence."""

_PLACES = {"left", "right", "upper", "lower", "middle", "leftmost", "rightmost"}
_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_SINGULARS = {"skis": "pair of skis", "scissors": "pair of scissors", "broccoli": "piece of broccoli"}
_PLURALS = {"person": "people", "sheep": "sheep", "knife": "knives", "mouse": "mice"}


@dataclass(frozen=True)
class Thing:
    """One annotated object: its annotation id, category name, and box x y w h in pixels."""

    id: int
    name: str
    bbox: tuple[float, float, float, float]
    is_crowd: bool = False


@dataclass(frozen=True)
class Mention:
    """Objects that can be named together, and how: without their place in the image, and with it."""

    plain: str
    placed: str
    ids: tuple[int, ...]
    area: float


@dataclass(frozen=True)
class Sentence:
    """A text, and for each of its phrases the characters [start, stop) and the annotation ids of its boxes."""

    text: str
    phrases: tuple[tuple[int, int, tuple[int, ...]], ...]


def write_sentences(things: list[Thing], width: int, height: int) -> list[Sentence]:
    """One to four sentences about an image of that many pixels; the same input gives the same sentences.

    None only where nothing but crowds is annotated: an image with only tiny objects gets its largest one named.
    """
    names = sorted({thing.name for thing in things})
    mentions = [m for name in names for m in _mentions(name, [t for t in things if t.name == name], width, height)]
    if not mentions:
        mentions = _last_resort(things)
    mentions.sort(key=lambda mention: (-mention.area, mention.ids))
    rows = _chunks(mentions)
    placed = [m.placed for m in reversed(rows[0])] if rows else []
    lines = [([m.plain for m in row], row) for row in rows]
    if rows and placed != [m.plain for m in reversed(rows[0])]:
        lines.insert(1, (placed, list(reversed(rows[0]))))
    return [_join(words, row) for words, row in lines[:MAX_SENTENCES]]


def _mentions(name: str, things: list[Thing], width: int, height: int) -> list[Mention]:
    """Every unambiguous way to name objects of one category."""
    ids = {t.id for t in things if not t.is_crowd and _area(t) >= TINY_SHARE * width * height}
    found: list[Mention] = []

    def mention(plain: str, chosen: list[Thing]) -> None:
        if all(t.id in ids for t in chosen):
            place = _place(chosen, width, height)
            placed = plain if place == "" or _PLACES & set(plain.split()) else f"{plain} {place}"
            found.append(Mention(plain, placed, tuple(sorted(t.id for t in chosen)), sum(_area(t) for t in chosen)))

    singular = _SINGULARS.get(name, name)
    crowded = any(t.is_crowd for t in things)
    if len(things) == 1:
        mention(f"the {singular}", things)
    elif not crowded:
        for adjective, thing in _told_apart(things, width, height):
            mention(f"the {adjective} {singular}", [thing])
        if len(things) in _COUNTS:
            mention(f"the {_COUNTS[len(things)]} {_plural(name)}", things)
    return found


def _told_apart(things: list[Thing], width: int, height: int) -> list[tuple[str, Thing]]:
    """(adjective, object) for those objects of one category, two or more, that place or size sets apart."""
    across = sorted(things, key=lambda t: _centre(t)[0])
    down = sorted(things, key=lambda t: _centre(t)[1])
    gaps_across = [(_centre(b)[0] - _centre(a)[0]) / width for a, b in pairwise(across)]
    gaps_down = [(_centre(b)[1] - _centre(a)[1]) / height for a, b in pairwise(down)]
    middle = ["middle"] if len(things) == 3 else []
    if len(things) <= 3 and min(gaps_across) >= GAP_SHARE:
        return list(zip(["left", *middle, "right"], across, strict=True))
    if len(things) <= 3 and min(gaps_down) >= GAP_SHARE:
        return list(zip(["upper", *middle, "lower"], down, strict=True))
    sizes = sorted(things, key=_area)
    if len(things) == 2:
        return list(zip(["smaller", "larger"], sizes, strict=True)) if _dwarfs(sizes[1], sizes[0]) else []
    apart = [("leftmost", across[0])] if gaps_across[0] >= GAP_SHARE else []
    apart += [("rightmost", across[-1])] if gaps_across[-1] >= GAP_SHARE else []
    return apart + ([("largest", sizes[-1])] if _dwarfs(sizes[-1], sizes[-2]) else [])


def _last_resort(things: list[Thing]) -> list[Mention]:
    """The largest object of an image in which the rules leave nothing to name."""
    singles = sorted((t for t in things if not t.is_crowd), key=lambda t: (-_area(t), t.id))
    if not singles:
        return []
    thing = singles[0]
    alone = sum(t.name == thing.name for t in things) == 1
    words = f"the {'' if alone else 'largest '}{_SINGULARS.get(thing.name, thing.name)}"
    return [Mention(words, words, (thing.id,), _area(thing))]


def _chunks(mentions: list[Mention]) -> list[list[Mention]]:
    """Mentions shared out to sentences, in order; no object is named twice in one sentence."""
    rows: list[list[Mention]] = []
    waiting = list(mentions)
    while waiting:
        row: list[Mention] = []
        for mention in waiting:
            if len(row) < MAX_PHRASES and not {i for m in row for i in m.ids} & set(mention.ids):
                row.append(mention)
        waiting = [mention for mention in waiting if mention not in row]
        rows.append(row)
    return rows


def _join(words: list[str], row: list[Mention]) -> Sentence:
    """ "a", "a and b", "a, b and c", with the span of each."""
    text = ""
    phrases: list[tuple[int, int, tuple[int, ...]]] = []
    for i, (word, mention) in enumerate(zip(words, row, strict=True)):
        text += "" if i == 0 else " and " if i == len(row) - 1 else ", "
        phrases.append((len(text), len(text) + len(word), mention.ids))
        text += word
    return Sentence(text, tuple(phrases))


def _place(things: list[Thing], width: int, height: int) -> str:
    """The part of the image in which all centres lie, or ""."""
    across = [_centre(t)[0] / width for t in things]
    down = [_centre(t)[1] / height for t in things]
    if max(across) < 0.36:
        return "on the left"
    if min(across) > 0.64:
        return "on the right"
    if max(down) < 0.36:
        return "at the top"
    if min(down) > 0.64:
        return "at the bottom"
    inside = min(across) > 0.3 and max(across) < 0.7 and min(down) > 0.3 and max(down) < 0.7
    return "in the middle" if inside else ""


def _area(thing: Thing) -> float:
    return thing.bbox[2] * thing.bbox[3]


def _centre(thing: Thing) -> tuple[float, float]:
    x, y, w, h = thing.bbox
    return x + w / 2, y + h / 2


def _dwarfs(large: Thing, small: Thing) -> bool:
    return _area(large) >= SIZE_RATIO * _area(small)


def _plural(name: str) -> str:
    if name in _SINGULARS:
        first, rest = _SINGULARS[name].split(" ", 1)
        return f"{first}s {rest}"
    head, _, last = name.rpartition(" ")
    plural = _PLURALS.get(last) or (f"{last}es" if last.endswith(("s", "ch", "sh", "x")) else f"{last}s")
    return f"{head} {plural}".strip()
