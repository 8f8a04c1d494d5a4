"""What every drawn scene keeps to, counted over hundreds of them by rules written anew here."""

import random
from collections import Counter
from itertools import combinations

import pytest

from pipeline.drawing.scene import CANVAS, COLOURS, HELD_OUT, PAIRS, SEEN, SHAPES, Scene, Thing, draw_scene, draw_twins

Box = tuple[float, float, float, float]


def box(thing: Thing) -> Box:
    half = thing.extent / 2
    return thing.x - half, thing.y - half, thing.x + half, thing.y + half


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def holds(outer: Box, inner: Box) -> bool:
    return outer[0] < inner[0] and outer[1] < inner[1] and inner[2] < outer[2] and inner[3] < outer[3]


def differences(a: Thing, b: Thing) -> int:
    return (a.shape != b.shape) + (a.colour != b.colour) + (a.size != b.size) + (a.texture != b.texture)


@pytest.fixture(scope="module")
def seen() -> list[Scene]:
    rng = random.Random(1)
    return [draw_scene(rng, (4, 5), False) for _ in range(300)]


@pytest.fixture(scope="module")
def unseen() -> list[Scene]:
    rng = random.Random(2)
    return [draw_scene(rng, (4, 5), True) for _ in range(100)]


@pytest.fixture(scope="module")
def twins() -> list[tuple[Scene, Scene]]:
    rng = random.Random(3)
    return [draw_twins(rng, (4, 5), is_unseen) for is_unseen in (False, True) for _ in range(150)]


@pytest.fixture(scope="module")
def every(seen: list[Scene], unseen: list[Scene], twins: list[tuple[Scene, Scene]]) -> list[Scene]:
    return [*seen, *unseen, *(scene for pair in twins for scene in pair)]


def test_one_shape_of_every_colour_is_held_out_and_every_shape_at_least_once() -> None:
    assert Counter(colour for colour, _ in HELD_OUT) == dict.fromkeys(COLOURS, 1)
    assert {shape for _, shape in HELD_OUT} == set(SHAPES)
    assert (len(SEEN), SEEN | HELD_OUT) == (40, PAIRS)


def test_scenes_have_as_many_things_as_asked_for(seen: list[Scene]) -> None:
    assert {len(scene.things) for scene in seen} == {4, 5}


def test_scenes_to_train_on_show_all_pairs_but_those_held_out(seen: list[Scene]) -> None:
    assert {thing.pair for scene in seen for thing in scene.things} == SEEN


def test_every_unseen_scene_shows_a_pair_held_out(unseen: list[Scene]) -> None:
    assert [scene for scene in unseen if not {thing.pair for thing in scene.things} & HELD_OUT] == []


def test_some_two_things_of_a_scene_differ_in_one_attribute_and_all_in_some(every: list[Scene]) -> None:
    assert {min(differences(a, b) for a, b in combinations(scene.things, 2)) for scene in every} == {1}


def test_nothing_overlaps_but_a_thing_that_is_inside_another(every: list[Scene]) -> None:
    wrong = [
        (scene, i, j)
        for scene in every
        for i, j in combinations(range(len(scene.things)), 2)
        if overlap(box(scene.things[i]), box(scene.things[j])) != (i == scene.inner and j == i + 1)
    ]
    assert wrong == []


def test_what_is_inside_another_lies_within_it_and_has_another_colour(every: list[Scene]) -> None:
    nested = [scene.things[scene.inner : scene.inner + 2] for scene in every if scene.inner >= 0]
    assert len(nested) > 50
    assert [pair for pair in nested if not holds(box(pair[1]), box(pair[0])) or pair[0].colour == pair[1].colour] == []


def test_every_thing_lies_in_the_picture(every: list[Scene]) -> None:
    assert [t for scene in every for t in scene.things if not holds((0, 0, CANVAS, CANVAS), box(t))] == []


def test_things_stand_from_left_to_right(every: list[Scene]) -> None:
    assert [s for s in every if [t.x for t in s.things] != sorted(t.x for t in s.things)] == []


def test_large_things_are_much_larger_than_small_ones(every: list[Scene]) -> None:
    extents = {size: [t.extent for s in every for t in s.things if t.size == size] for size in ("small", "large")}
    assert min(extents["large"]) >= 1.5 * max(extents["small"])


def changes(one: Scene, other: Scene) -> list[tuple[int, int]]:
    """(index, attributes in which they differ) of every thing that is not the same in both."""
    found = enumerate(map(differences, one.things, other.things))
    return [(i, count) for i, count in found if count]


def test_twins_differ_in_one_attribute_or_in_two_colours(twins: list[tuple[Scene, Scene]]) -> None:
    kinds = Counter(tuple(count for _, count in changes(*pair)) for pair in twins)
    assert set(kinds) == {(1,), (1, 1)}
    assert min(kinds.values()) > 50


def test_where_two_colours_are_changed_the_scenes_have_the_same_colours(twins: list[tuple[Scene, Scene]]) -> None:
    swapped = [pair for pair in twins if len(changes(*pair)) == 2]
    assert [
        p for p in swapped if Counter(t.colour for t in p[0].things) != Counter(t.colour for t in p[1].things)
    ] == []


def test_twins_stand_in_the_same_places(twins: list[tuple[Scene, Scene]]) -> None:
    assert [p for p in twins if [(t.x, t.y) for t in p[0].things] != [(t.x, t.y) for t in p[1].things]] == []
