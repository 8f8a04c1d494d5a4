from collections.abc import Sequence
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


def cut(whole: Items, names: Sequence[str]) -> Items:
    """The same items where those of these names are misses without one, as of photographs of their own."""
    kept = [row for row, key in enumerate(whole.keys) if key not in names]
    keys = (*(whole.keys[row] for row in kept), *(f"truncated.{number}" for number in range(len(names))))
    photographs = np.concatenate([whole.photographs[kept], -1 - np.arange(len(names))])
    values = {name: np.append(each[kept], np.zeros(len(names))) for name, each in whole.values.items()}
    return Items(keys, photographs, values)


def test_what_one_cuts_off_is_a_miss_of_its_own_and_of_the_photograph_that_the_other_knows():
    a, b = noise(0), noise(1)
    found = compare(items(a), cut(items(b), [f"coco-{number}" for number in range(45, 60)]))
    assert (found["items"], found["only_a"], found["only_b"], found["neither"]) == (60, 15, 0, 0)
    assert found["figures"] == compare(items(a), items(np.where(np.arange(60) < 45, b, 0.0)))["figures"]
    assert found["bootstrap"]["photographs"] == 20
    other = compare(cut(items(a), [f"coco-{number}" for number in range(45, 60)]), items(b))
    assert (other["items"], other["only_a"], other["only_b"], other["neither"]) == (60, 0, 15, 0)


def test_what_both_cut_off_counts_too():
    a, b = items(noise(0)), items(noise(1))
    found = compare(cut(a, ["coco-0", "coco-3", "coco-4"]), cut(b, ["coco-0", "coco-7"]))
    assert (found["items"], found["only_a"], found["only_b"], found["neither"]) == (60, 1, 2, 1)
    # Each figure is what its checkpoint has by itself, over everything that the protocol asks for.
    assert found["figures"]["acc50"]["a"] == pytest.approx(cut(a, ["coco-0", "coco-3", "coco-4"]).means()["acc50"])
    assert found["figures"]["acc50"]["b"] == pytest.approx(cut(b, ["coco-0", "coco-7"]).means()["acc50"])


def test_an_item_that_one_lacks_without_a_miss_in_its_place_is_refused():
    said = "found 15 that only the first has for 0 misses of the second, and 0 for 0: coco-45"
    with pytest.raises(ItemsError, match=said):
        compare(items(noise(0)), items(noise(1)[:45], PHOTOGRAPHS[:45]))


def test_sets_of_different_sizes_are_refused():
    # 60 of the first, of which two are cut off; 59 of the second, of which one is.
    a, b = cut(items(noise(0)), ["coco-1", "coco-59"]), cut(items(noise(1)[:59], PHOTOGRAPHS[:59]), ["coco-1"])
    with pytest.raises(
        ItemsError, match="found 0 that only the first has for 1 misses of the second, and 0 for 2: none"
    ):
        compare(a, b)


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
    with pytest.raises(ItemsError, match="and 60 for 0: coco-0, vg-0, among others"):
        compare(items(noise(0)), other)


def test_another_photograph_is_refused():
    with pytest.raises(ItemsError, match="found coco-0 of 0 and of 1"):
        compare(items(noise(0)), items(noise(0), PHOTOGRAPHS + 1))
