from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from bitgen.evaluation.compare import compare
from bitgen.evaluation.items import Items, ItemsError

PHOTOGRAPHS = np.arange(60) // 3


def items(values: NDArray[np.float64], photographs: NDArray[np.int64] = PHOTOGRAPHS, name: str = "acc50") -> Items:
    return Items(tuple(f"coco-{number}" for number in range(len(values))), photographs, {name: values})


def noise(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random(60)


def test_a_difference_is_what_the_second_has_more():
    found = compare(items(np.zeros(60)), items(np.repeat([0.0, 1.0], (45, 15))))["figures"]["acc50"]
    assert (found["a"], found["b"], found["difference"]) == (0.0, 0.25, 0.25)


def test_the_same_photographs_are_drawn_of_both():
    a = noise(0)
    found = compare(items(a), items(a + 0.1))["figures"]["acc50"]
    assert found["interval"] == pytest.approx([0.1, 0.1])
    assert found["p"] == pytest.approx(2 / 1001)


def test_a_checkpoint_does_not_differ_from_itself():
    found = compare(items(noise(0)), items(noise(0)))["figures"]["acc50"]
    assert (found["difference"], found["interval"], found["p"]) == (0.0, [0.0, 0.0], 1.0)


def test_turned_around_the_comparison_says_the_same():
    there = compare(items(noise(0)), items(noise(1)))["figures"]["acc50"]
    back = compare(items(noise(1)), items(noise(0)))["figures"]["acc50"]
    assert back["interval"] == pytest.approx([-end for end in reversed(there["interval"])])
    assert back["p"] == there["p"]


def test_p_is_small_about_where_the_interval_leaves_out_0():
    compared = [compare(items(noise(seed)), items(noise(seed + 100) + 0.12))["figures"]["acc50"] for seed in range(40)]
    is_out = [not found["interval"][0] <= 0 <= found["interval"][1] for found in compared]
    is_small = [found["p"] < 0.05 for found in compared]
    assert sum(is_out) in range(10, 31)
    assert sum(x != y for x, y in zip(is_out, is_small, strict=True)) <= 1


def test_photographs_of_many_items_are_drawn_whole():
    single, photographs = noise(1)[:20], np.arange(20)
    found = compare(items(np.zeros(60)), items(np.repeat(single, 3)))
    expected = compare(items(np.zeros(20), photographs), items(single, photographs))
    assert found["figures"]["acc50"]["interval"] == pytest.approx(expected["figures"]["acc50"]["interval"])
    assert found["bootstrap"] == {"percent": 95, "resamples": 1000, "seed": 0, "photographs": 20}
    assert found["items"] == 60


def test_one_photograph_gives_a_difference_without_an_interval():
    one = np.zeros(60, dtype=np.int64)
    assert compare(items(np.zeros(60), one), items(np.ones(60), one))["figures"] == {
        "acc50": {"a": 0.0, "b": 1.0, "difference": 1.0}
    }


def test_seed_and_resamples_are_those_asked_for():
    found = compare(items(noise(0)), items(noise(1)), seed=3, resamples=99)
    assert (found["bootstrap"]["seed"], found["bootstrap"]["resamples"]) == (3, 99)
    assert found["figures"] != compare(items(noise(0)), items(noise(1)), seed=4, resamples=99)["figures"]
    assert found["figures"]["acc50"]["p"] * 50 == pytest.approx(round(found["figures"]["acc50"]["p"] * 50))


def test_figures_that_one_lacks_are_left_out():
    a = replace(items(noise(0)), values={"r1": noise(0), "reranked_r1": noise(1)})
    assert list(compare(a, items(noise(2), name="r1"))["figures"]) == ["r1"]


def test_no_figure_in_common_is_refused():
    with pytest.raises(ItemsError, match=r"expected a figure that both have, found \['acc50'\] and \['r1'\]"):
        compare(items(noise(0)), items(noise(0), name="r1"))


def test_items_that_one_lacks_are_left_out_and_counted():
    a, b = noise(0), noise(1)
    found = compare(items(a), items(b[:45], PHOTOGRAPHS[:45]))
    assert (found["items"], found["only_a"], found["only_b"]) == (45, 15, 0)
    assert found["figures"] == compare(items(a[:45], PHOTOGRAPHS[:45]), items(b[:45], PHOTOGRAPHS[:45]))["figures"]
    other = compare(items(b[:45], PHOTOGRAPHS[:45]), items(a))
    assert (other["items"], other["only_a"], other["only_b"]) == (45, 0, 15)


def test_items_are_paired_by_name_in_whatever_order():
    a, b, order = items(noise(0)), items(noise(1)), np.random.default_rng(2).permutation(60)
    turned = Items(tuple(b.keys[row] for row in order), b.photographs[order], {"acc50": b.values["acc50"][order]})
    assert compare(a, turned) == compare(a, b)


def test_an_item_that_is_there_twice_is_refused():
    twice = replace(items(noise(0)), keys=("coco-1", *(f"coco-{number}" for number in range(1, 60))))
    with pytest.raises(ItemsError, match="expected every item once, found 60 of 59 names"):
        compare(items(noise(0)), twice)


def test_no_item_in_common_is_refused():
    other = replace(items(noise(0)), keys=tuple(f"vg-{number}" for number in range(60)))
    with pytest.raises(ItemsError, match="found none: coco-0 and vg-0, among others"):
        compare(items(noise(0)), other)


def test_another_photograph_is_refused():
    with pytest.raises(ItemsError, match="found coco-0 of 0 and of 1"):
        compare(items(noise(0)), items(noise(0), PHOTOGRAPHS + 1))
