import pytest

from pipeline.sentences import Sentence, Thing, write_sentences


def thing(id: int, name: str, x: float, y: float, w: float, h: float, is_crowd: bool = False) -> Thing:
    return Thing(id, name, (x, y, w, h), is_crowd)


def words(things: list[Thing]) -> list[str]:
    return [sentence.text for sentence in write_sentences(things, 100, 100)]


def phrases(things: list[Thing]) -> dict[str, tuple[int, ...]]:
    """Every phrase of an image, and the objects it stands for."""
    found = write_sentences(things, 100, 100)
    return {sentence.text[start:stop]: ids for sentence in found for start, stop, ids in sentence.phrases}


def test_one_object_of_its_kind_is_named_plainly_then_by_place() -> None:
    assert words([thing(1, "dog", 0, 40, 20, 20)]) == ["the dog", "the dog on the left"]


def test_phrases_are_spans_of_the_text() -> None:
    things = [thing(1, "dog", 0, 40, 30, 30), thing(2, "cup", 80, 0, 15, 15)]
    expected = Sentence("the dog and the cup", ((0, 7, (1,)), (12, 19, (2,))))
    assert write_sentences(things, 100, 100)[0] == expected


def test_two_objects_apart_are_left_and_right_and_together() -> None:
    found = phrases([thing(1, "dog", 0, 0, 20, 20), thing(2, "dog", 70, 0, 20, 20)])
    assert {k: found[k] for k in ("the left dog", "the right dog", "the two dogs")} == {
        "the left dog": (1,),
        "the right dog": (2,),
        "the two dogs": (1, 2),
    }


def test_two_objects_above_each_other_are_upper_and_lower() -> None:
    found = phrases([thing(1, "cup", 40, 0, 20, 20), thing(2, "cup", 40, 70, 20, 20)])
    assert (found["the upper cup"], found["the lower cup"]) == ((1,), (2,))


def test_two_objects_in_one_place_are_told_apart_by_size() -> None:
    found = phrases([thing(1, "bowl", 40, 40, 20, 20), thing(2, "bowl", 42, 42, 12, 12)])
    assert (found["the larger bowl"], found["the smaller bowl"]) == ((1,), (2,))


def test_two_objects_that_nothing_tells_apart_are_only_a_group() -> None:
    assert words([thing(1, "bowl", 40, 40, 20, 20), thing(2, "bowl", 42, 42, 20, 20)]) == [
        "the two bowls",
        "the two bowls in the middle",
    ]


def test_a_tiny_object_makes_the_other_one_ambiguous() -> None:
    assert "the dog" not in phrases([thing(1, "dog", 0, 0, 30, 30), thing(2, "dog", 90, 90, 2, 2)])


def test_a_tiny_object_is_not_named() -> None:
    assert phrases([thing(1, "dog", 0, 0, 30, 30), thing(2, "cup", 90, 90, 9, 11)]).keys() == {
        "the dog",
        "the dog on the left",
    }


def test_a_crowd_makes_the_objects_of_its_kind_ambiguous() -> None:
    things = [thing(1, "person", 0, 0, 30, 30), thing(2, "person", 50, 0, 50, 50, is_crowd=True)]
    assert words([*things, thing(3, "cup", 0, 60, 30, 30)]) == ["the cup", "the cup on the left"]


def test_no_phrase_stands_for_two_things() -> None:
    things = [thing(i, "dog", 18 * i, 10 * (i % 3), 15 + i, 15) for i in range(5)]
    sentences = write_sentences([*things, thing(9, "cup", 10, 70, 20, 20)], 100, 100)
    pairs = {(sentence.text[a:b], ids) for sentence in sentences for a, b, ids in sentence.phrases}
    assert len(pairs) == len({phrase for phrase, _ in pairs})


def test_no_thing_is_named_twice_in_a_sentence() -> None:
    things = [thing(1, "dog", 0, 0, 20, 20), thing(2, "dog", 70, 0, 20, 20)]
    for_each = [[i for _, _, ids in s.phrases for i in ids] for s in write_sentences(things, 100, 100)]
    assert [sorted(set(ids)) for ids in for_each] == [sorted(ids) for ids in for_each]


def test_an_image_has_at_most_four_sentences() -> None:
    things = [thing(i, name, 10 * i, 0, 12, 12) for i, name in enumerate("abcdefghijklmnopqrst")]
    assert len(words(things)) == 4


def test_an_image_of_tiny_objects_has_its_largest_one_named() -> None:
    assert words([thing(1, "cup", 0, 0, 2, 2), thing(2, "cup", 50, 0, 3, 3)]) == ["the largest cup"]


def test_an_image_of_crowds_has_no_sentence() -> None:
    assert words([thing(1, "person", 0, 0, 90, 90, is_crowd=True)]) == []


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("person", "the two people"),
        ("sheep", "the two sheep"),
        ("knife", "the two knives"),
        ("wine glass", "the two wine glasses"),
        ("bench", "the two benches"),
        ("skis", "the two pairs of skis"),
    ],
)
def test_names_have_their_plurals(name: str, group: str) -> None:
    assert group in phrases([thing(1, name, 0, 0, 20, 20), thing(2, name, 70, 0, 20, 20)])
