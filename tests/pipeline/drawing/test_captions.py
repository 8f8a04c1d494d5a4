"""Captions are read here by a grammar of their own and held against the scene."""

import random
import re
from collections import Counter

import pytest

from bitgen.tokens import shared_tokenizer
from pipeline.drawing.captions import CAPTIONS, captions, pairs
from pipeline.drawing.scene import Scene, Thing, draw_scene, draw_twins

PIECES = re.compile(
    r"an? (?P<size>small |large )?(?P<texture>solid |striped |dotted )?(?P<colour>[a-z]+) "
    r"(?P<shape>circle|square|triangle|star|cross|ring)\b|(?P<place>left of|right of|above|below|inside)(?P<it> it)?"
)


def spoken(caption: str) -> tuple[list[dict[str, str]], dict[int, str]]:
    """What is said of each thing, in order; by number of a thing, the place of the one before it as seen from it."""
    contrary = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    things: list[dict[str, str]] = []
    places: dict[int, str] = {}
    for piece in PIECES.finditer(caption):
        said = {name: value.strip() for name, value in piece.groupdict().items() if value}
        if "place" in said:
            places[len(things)] = contrary[said["place"]] if "it" in said else said["place"]
        else:
            things.append(said)
    return things, places


def fits(caption: str, scene: Scene) -> bool:
    """Whether each thing that is said is the one of the scene that stands there, from left to right."""
    said, _ = spoken(caption)
    return len(said) == len(scene.things) and all(
        getattr(thing, name) == value
        for each, thing in zip(said, scene.things, strict=True)
        for name, value in each.items()
    )


def stands(place: str, one: Thing, other: Thing) -> bool:
    inside = max(abs(one.x - other.x), abs(one.y - other.y)) + one.extent / 2 < other.extent / 2
    across, down = other.x - one.x, other.y - one.y
    return {"left of": across > 0, "right of": across < 0, "above": down > 0, "below": down < 0, "inside": inside}[
        place
    ]


@pytest.fixture(scope="module")
def written() -> list[tuple[Scene, str, str]]:
    """(scene, caption, templates)."""
    rng, found = random.Random(4), []
    for templates in ("train", "test"):
        for _ in range(200):
            scene = draw_scene(rng, (4, 5), False)
            found += [(scene, caption.text, templates) for caption in captions(scene, rng, templates)]
    return found


def test_a_scene_has_five_captions_that_differ() -> None:
    rng = random.Random(5)
    assert len({each.text for each in captions(draw_scene(rng, (4,), False), rng, "train")}) == CAPTIONS == 5


def test_a_caption_says_every_thing_of_its_scene_from_left_to_right(written: list[tuple[Scene, str, str]]) -> None:
    assert [caption for scene, caption, _ in written if not fits(caption, scene)] == []


def test_every_place_that_is_said_is_so(written: list[tuple[Scene, str, str]]) -> None:
    said = [
        (caption, place, stands(place, scene.things[i - 1], scene.things[i]))
        for scene, caption, _ in written
        for i, place in spoken(caption)[1].items()
    ]
    assert {place for _, place, _ in said} >= {"left of", "above", "below", "inside"}
    assert [each for each in said if not each[2]] == []


def test_the_pairs_of_a_caption_are_those_of_its_scene(written: list[tuple[Scene, str, str]]) -> None:
    assert [c for scene, c, _ in written if pairs(c) != Counter(t.pair for t in scene.things)] == []


def test_pairs_are_read_from_other_texts_too() -> None:
    text = "the two red circles, an orange square; a red small cross and a ring of green crosses"
    assert pairs(text) == {("red", "circle"): 1, ("orange", "square"): 1, ("green", "cross"): 1}


def test_two_things_of_a_pair_are_told_apart(written: list[tuple[Scene, str, str]]) -> None:
    said = [(caption, [tuple(each.items()) for each in spoken(caption)[0]]) for _, caption, _ in written]
    assert [caption for caption, things in said if len(set(things)) < len(things)] == []


def test_no_caption_fits_the_twin_of_its_scene() -> None:
    rng = random.Random(6)
    twins = [draw_twins(rng, (4, 5), i % 2 == 1) for i in range(150)]
    both = [pair for one, other in twins for pair in ((one, other), (other, one))]
    assert [
        (text, other)
        for one, other in both
        for text in (each.text for each in captions(one, rng, "test"))
        if fits(text, other)
    ] == []


def test_no_frame_of_captions_is_in_both_splits(written: list[tuple[Scene, str, str]]) -> None:
    frames = {
        split: {re.sub(r"left of|right of|above|below", "R", PIECES.sub(frame, c)) for _, c, s in written if s == split}
        for split in ("train", "test")
    }
    assert min(map(len, frames.values())) > 5
    assert frames["train"] & frames["test"] == set()


def frame(piece: re.Match[str]) -> str:
    return piece[0] if piece["place"] else "X"


def test_captions_to_test_on_have_no_word_of_their_own(written: list[tuple[Scene, str, str]]) -> None:
    words = {
        split: {word for _, c, s in written if s == split for word in re.findall(r"\w+|\W", c)}
        for split in ("train", "test")
    }
    assert words["test"] - words["train"] == set()


def test_a_caption_has_45_tokens_at_most(written: list[tuple[Scene, str, str]]) -> None:
    assert max(shared_tokenizer().count(caption) for _, caption, _ in written) <= 45


def test_an_article_goes_with_its_word(written: list[tuple[Scene, str, str]]) -> None:
    assert [c for _, c, _ in written if re.search(r"\ba [aeiou]|\ban [^aeiou]", c)] == []


def test_nothing_else_is_said(written: list[tuple[Scene, str, str]]) -> None:
    left = {
        re.sub(r"\b(from|left to right|there is|then|and|it)\b|[,: ]", "", PIECES.sub("", c)) for _, c, _ in written
    }
    assert left == {""}


@pytest.mark.parametrize("templates", ["train", "test"])
def test_a_phrase_of_a_caption_names_each_thing_in_its_own_words(templates):
    rng = random.Random(7)
    for _ in range(200):
        scene = draw_scene(rng, (4, 5), False)
        for caption in captions(scene, rng, templates):
            assert [who for _, _, who in caption.phrases] == [(i,) for i in range(len(scene.things))]
            for start, stop, (i,) in caption.phrases:
                words = caption.text[start:stop].split()
                assert words[0] in ("a", "an")
                assert words[-2:] == list(scene.things[i].pair)
                assert set(words[1:-2]) <= {scene.things[i].size, scene.things[i].texture}
