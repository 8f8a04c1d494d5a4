"""Every phrase is read here by a grammar of its own: what it names, by brute force, is what it is said to name."""

import random
import re
from collections import Counter

import pytest

from bitgen.tokens import shared_tokenizer
from pipeline.drawing.expressions import sentences
from pipeline.drawing.scene import HELD_OUT, Scene, draw_scene
from pipeline.sentences import Sentence

NUMBERS = {"two": 2, "three": 3}
BESIDE = re.compile(r"(.+?)(?: that is)? (left of|right of|above|below|inside) (the .+)")
LAST = re.compile(r"the (?:(leftmost|rightmost|highest|lowest) (.+)|(.+) that is (leftmost|rightmost|highest|lowest))")


def named(phrase: str, scene: Scene) -> set[int]:
    """All things that `phrase` may be said of, however narrowly."""
    things = scene.things
    if match := BESIDE.fullmatch(phrase):
        (other,) = named(match[3], scene)
        return {i for i in named(match[1], scene) if i != other and stands(match[2], scene, i, other)}
    if match := LAST.fullmatch(phrase):
        who = named(match[2] or match[3], scene)
        key = {
            "leftmost": lambda i: things[i].x,
            "rightmost": lambda i: -things[i].x,
            "highest": lambda i: things[i].y,
            "lowest": lambda i: -things[i].y,
        }[match[1] or match[4]]
        return {i for i in who if key(i) == min(map(key, who))}
    words = [word for word in phrase.split() if word not in ("the", "all")]
    number = NUMBERS.get(words[0])
    words = words[1:] if number else words
    noun = re.sub(r"(?<=ss)es$|(?<!s)s$", "", words.pop())
    looks = [(t.shape, t.colour, t.size, t.texture, "shape") for t in things]
    found = {i for i, look in enumerate(looks) if {*words, noun} <= set(look)}
    assert number in (None, len(found)), phrase
    return found


def stands(place: str, scene: Scene, i: int, j: int) -> bool:
    one, other = scene.things[i], scene.things[j]
    across, down = other.x - one.x, other.y - one.y
    inside = max(abs(across), abs(down)) + one.extent / 2 < other.extent / 2
    return {"left of": across > 0, "right of": across < 0, "above": down > 0, "below": down < 0, "inside": inside}[
        place
    ]


Written = list[tuple[Scene, Sentence, str]]


@pytest.fixture(scope="module")
def written() -> Written:
    """(scene, sentence, templates)."""
    rng, found = random.Random(7), list[tuple[Scene, Sentence, str]]()
    for templates in ("train", "test"):
        for _ in range(200):
            scene = draw_scene(rng, (4, 5), False)
            everything = frozenset(range(len(scene.things)))
            found += [(scene, sentence, templates) for sentence in sentences(scene, rng, templates, everything)]
    return found


def phrases(written: Written) -> list[tuple[Scene, str, tuple[int, ...]]]:
    return [(scene, s.text[start:stop], who) for scene, s, _ in written for start, stop, who in s.phrases]


def test_a_phrase_names_its_things_and_no_other(written: Written) -> None:
    assert [(phrase, who, scene) for scene, phrase, who in phrases(written) if named(phrase, scene) != set(who)] == []


def test_a_place_that_names_a_thing_is_the_larger_of_across_and_down(written: Written) -> None:
    wrong = []
    for scene, phrase, who in phrases(written):
        if (match := BESIDE.fullmatch(phrase)) and match[2] != "inside":
            (other,) = named(match[3], scene)
            across = abs(scene.things[who[0]].x - scene.things[other].x)
            down = abs(scene.things[who[0]].y - scene.things[other].y)
            if (across if match[2] in ("left of", "right of") else down) < max(across, down, 18):
                wrong.append((phrase, scene))
    assert wrong == []


def test_the_place_between_two_phrases_is_so(written: Written) -> None:
    checked = []
    for scene, sentence, _ in written:
        if len(sentence.phrases) != 2:
            continue
        (a, b, (one,)), (c, d, (other,)) = sentence.phrases
        text = f"{sentence.text[:a]}#{sentence.text[b:c]}#{sentence.text[d:]}"
        place = re.search(r"left of|right of|above|below|inside", text)
        if place:
            first_is_other = not re.match(r"(there is )?# (is )?(left of|right of|above|below|inside) #", text)
            pair = (other, one) if first_is_other else (one, other)
            checked.append((sentence.text, stands(place[0], scene, *pair)))
    assert len(checked) > 300
    assert [text for text, is_so in checked if not is_so] == []


def test_a_scene_has_five_to_eight_sentences_without_doubles(written: Written) -> None:
    counts = Counter(id(scene) for scene, _, _ in written)
    assert set(counts.values()) <= {5, 6, 7, 8}
    assert sum(counts.values()) / len(counts) > 6.5
    assert len({(id(scene), sentence.text) for scene, sentence, _ in written}) == len(written)


def test_all_kinds_of_phrases_are_there(written: Written) -> None:
    kinds = Counter(
        "several" if len(who) > 1 else "beside" if BESIDE.fullmatch(p) else "last" if LAST.fullmatch(p) else "alone"
        for _, p, who in phrases(written)
    )
    assert min(kinds[kind] for kind in ("alone", "beside", "last", "several")) > 300
    assert sum(" inside " in phrase for _, phrase, _ in phrases(written)) > 5


def test_sentences_to_test_on_have_other_frames_of_the_same_words(written: Written) -> None:
    frames: dict[str, set[str]] = {"train": set(), "test": set()}
    words: dict[str, set[str]] = {"train": set(), "test": set()}
    for _, sentence, split in written:
        text = sentence.text
        words[split] |= set(re.findall(r"\w+|\W", text))
        for start, stop, _ in reversed(sentence.phrases):
            link = " that is R " if " that is " in text[start:stop] else " R "
            has_place = BESIDE.fullmatch(text[start:stop])
            text = f"{text[:start]}X{link + 'Y' if has_place else ''}{text[stop:]}"
        frames[split].add(re.sub(r"left of|right of|above|below|inside", "R", text))
    assert frames["train"] & frames["test"] == set()
    assert words["test"] - words["train"] <= {"there", "then", "it"}  # of the captions to train on


def test_sentences_have_45_tokens_at_most(written: Written) -> None:
    assert max(shared_tokenizer().count(sentence.text) for _, sentence, _ in written) <= 45


def test_about_some_things_only_their_phrases_are_marked_and_say_colour_and_shape() -> None:
    rng, counts = random.Random(8), []
    for _ in range(100):
        scene = draw_scene(rng, (4, 5), True)
        about = frozenset(i for i, thing in enumerate(scene.things) if thing.pair in HELD_OUT)
        found = sentences(scene, rng, "test", about)
        counts.append(sum(len(sentence.phrases) for sentence in found))
        assert [s for s in found if not s.phrases or not all(about.issuperset(who) for _, _, who in s.phrases)] == []
        texts = [(scene.things[who[0]].pair, s.text[start:stop]) for s in found for start, stop, who in s.phrases]
        assert [phrase for (colour, shape), phrase in texts if f"{colour} {shape}" not in phrase] == []
    assert min(counts) >= 1
