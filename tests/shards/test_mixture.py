from bisect import bisect_right
from collections import Counter
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.mixture import BLOCK, Group, Mixture, Place, amount, shares

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0)
SOURCES = st.dictionaries(st.sampled_from("abcd"), st.tuples(st.floats(0.01, 100), SIZES), min_size=1)
few = settings(max_examples=25, deadline=None)


def mixture(sources, seed=0):
    return Mixture({n: weight for n, (weight, _) in sources.items()}, {n: s for n, (_, s) in sources.items()}, seed)


def walk(mixed, positions=BLOCK):
    return [mixed.at(position) for position in range(positions)]


@few
@given(SOURCES, st.integers(0, 2**40))
def test_every_sample_is_shown_exactly_once_per_epoch_of_its_source(sources, seed):
    shown = Counter(walk(mixture(sources, seed)))
    totals = {name: sum(sizes) for name, (_, sizes) in sources.items()}
    epochs = Counter((place.source, place.epoch) for place in shown)
    last = {name: max((e for n, e in epochs if n == name), default=0) for name in totals}
    assert set(shown.values()) == {1}
    assert all(0 <= place.sample < totals[place.source] for place in shown)
    assert all(epochs[name, epoch] == totals[name] for name in totals for epoch in range(last[name]))


@few
@given(SOURCES, st.integers(0, 10**6))
def test_every_block_holds_exactly_the_shares(sources, block):
    mixed = mixture(sources)
    places = [mixed.at(block * BLOCK + slot) for slot in range(BLOCK)]
    assert Counter(place.source for place in places) == mixed.counts
    assert sum(mixed.counts.values()) == BLOCK


@settings(max_examples=8, deadline=None)
@given(SOURCES, st.lists(st.integers(0, 3 * BLOCK - 1), max_size=20))
def test_seeking_equals_walking(sources, positions):
    walked = walk(mixture(sources), 3 * BLOCK)
    sought = mixture(sources)
    assert [sought.at(position) for position in positions] == [walked[position] for position in positions]


def test_a_source_goes_on_in_the_next_block_where_it_stopped():
    mixed = Mixture({"a": 1.0, "b": 1.0}, {"a": [3000], "b": [9288]}, 0)  # 1,000 and 3,096 of 4,096
    shown = [place for place in walk(mixed, 3 * BLOCK) if place.source == "a"]
    assert mixed.counts == {"a": 1000, "b": 3096}
    assert sorted(place.sample for place in shown) == list(range(3000))
    assert {place.epoch for place in shown} == {0}


def test_a_far_position_costs_no_walk():
    mixed = Mixture({"a": 1.0}, {"a": [10, 10]}, 0)
    assert mixed.at(20 * 10**15 + 7).epoch == 10**15


def test_two_epochs_differ():
    places = walk(Mixture({"a": 1.0}, {"a": [50, 50]}, 0), 200)
    assert [p.sample for p in places[:100]] != [p.sample for p in places[100:]]


def test_two_seeds_differ():
    assert walk(Mixture({"a": 1.0}, {"a": [50]}, 0), 50) != walk(Mixture({"a": 1.0}, {"a": [50]}, 1), 50)


def test_two_sources_of_equal_size_have_orders_of_their_own():
    places = walk(Mixture({"a": 1.0, "b": 1.0}, {"a": [50], "b": [50]}, 0), 90)
    a = [p.sample for p in places if p.source == "a" and p.epoch == 0][:30]
    b = [p.sample for p in places if p.source == "b" and p.epoch == 0][:30]
    assert a != b


def test_neighbours_come_from_several_shards():
    places = walk(Mixture({"a": 1.0}, {"a": [100] * 8}, 0), 800)
    mixed = [len({p.sample // 100 for p in places[start : start + 32]}) for start in range(0, 800, 32)]
    assert min(mixed) >= 6  # 8 shards, 32 draws: 7.9 on average; one tar after the other would give 1 or 2


def test_large_shards_are_read_eight_at_a_time():
    places = walk(Mixture({"a": 1.0}, {"a": [5000] * 24}, 0), 40000)
    assert len({p.sample // 5000 for p in places}) == 8


def test_the_order_of_the_names_does_not_matter():
    sizes = {"a": [7], "b": [9]}
    assert walk(Mixture({"a": 1, "b": 1}, sizes, 0)) == walk(Mixture({"b": 1, "a": 1}, sizes, 0))


def test_a_weight_multiplies_the_size_of_its_source():
    assert Mixture({"a": 1.0, "b": 1.0}, {"a": [300], "b": [50, 50]}, 0).counts == {"a": 3072, "b": 1024}
    assert Mixture({"a": 1.0, "b": 3.0}, {"a": [300], "b": [50, 50]}, 0).counts == {"a": 2048, "b": 2048}


def test_at_power_zero_the_weights_alone_decide():
    assert Mixture({"a": 1.0, "b": 3.0}, {"a": [300], "b": [50, 50]}, 0, 0.0).counts == {"a": 1024, "b": 3072}


def test_at_power_one_half_a_source_of_four_times_the_size_is_shown_twice_as_often():
    assert Mixture({"a": 1.0, "b": 1.5}, {"a": [300, 100], "b": [100]}, 0, 0.5).counts == {"a": 2341, "b": 1755}  # 4:3


@few
@given(st.floats(0.01, 100), st.integers(1, 10**15))
def test_at_power_one_an_amount_is_exactly_weight_times_size(weight, samples):
    assert amount(weight, samples, 1.0) == Fraction(weight) * samples


@few
@given(st.integers(1, 10**9), st.integers(0, 10))
def test_a_power_is_right_to_nineteen_digits(samples, tenths):
    # Whole numbers know it: the tenth power of samples ** 0.3 is samples ** 3, and is ten times as far off.
    off = amount(1.0, samples, tenths / 10) ** 10 / samples**tenths - 1
    assert abs(off) < Fraction(10, 10**19)


@few
@given(SOURCES, st.floats(0, 1))
def test_every_sample_is_shown_once_per_epoch_at_any_power(sources, power):
    weights, sizes = {n: weight for n, (weight, _) in sources.items()}, {n: s for n, (_, s) in sources.items()}
    shown = Counter(walk(Mixture(weights, sizes, 0, power)))
    assert set(shown.values()) == {1}


@pytest.mark.parametrize("power", [-0.1, 1.1, float("nan")])
def test_a_power_outside_its_range_is_refused(power):
    with pytest.raises(ValueError, match=r"expected a size_power within 0\.\.1, found"):
        Mixture({"a": 1.0}, {"a": [3]}, 0, power)


def test_equal_weights_show_every_source_equally_often():
    places = walk(Mixture({"a": 1.0, "b": 1.0}, {"a": [96], "b": [32]}, 0), BLOCK)
    assert max(p.epoch for p in places if p.source == "a") == max(p.epoch for p in places if p.source == "b") == 31


def test_a_weight_of_zero_leaves_a_source_out():
    mixed = Mixture({"a": 1.0, "b": 0.0}, {"a": [3], "b": [5]}, 0)
    assert (mixed.sources, mixed.size, mixed.counts) == (("a",), 3, {"a": BLOCK})


def test_the_size_of_a_mixture_is_that_of_its_sources_whatever_their_weights():
    assert Mixture({"a": 1.0, "b": 7.5}, {"a": [3, 4], "b": [5]}, 0).size == 12


def test_shares_round_by_largest_remainder():
    # 4096 / 3 = 1365 1/3 each: one more position, to the first name
    assert shares({"c": Fraction(1), "b": Fraction(1), "a": Fraction(1)}) == {"a": 1366, "b": 1365, "c": 1365}
    # 682 2/3 and 3413 1/3
    assert shares({"a": Fraction(1), "b": Fraction(5)}) == {"a": 683, "b": 3413}


def test_the_smallest_share_is_one_position():
    assert shares({"a": Fraction(10**9), "b": Fraction(1), "c": Fraction(1)}) == {"a": 4094, "b": 1, "c": 1}


@few
@given(st.dictionaries(st.integers(0, 999).map(str), st.integers(1, 10**12), min_size=1, max_size=60))
def test_shares_sum_to_a_block_and_none_is_empty(amounts):
    counts = shares({name: Fraction(amount) for name, amount in amounts.items()})
    assert sum(counts.values()) == BLOCK
    assert min(counts.values()) >= 1


@few
@given(SOURCES, st.integers(0, 3 * BLOCK))
def test_what_a_position_shows_is_in_the_group_that_its_source_stands_in(sources, position):
    mixed = mixture(sources)
    place, now = mixed.at(position), {g.source: g.shards for g in mixed.groups(position) if g.positions_away == 0}
    shard = bisect_right(list(accumulate(sources[place.source][1])), place.sample)
    assert shard in now[place.source]


def test_the_group_that_comes_next_is_the_one_that_is_shown_next():
    mixed = Mixture({"a": 1.0}, {"a": [2000] * 40}, 0)  # groups of 9 shards, the last of 13
    starts = [0, 18_000, 36_000, 54_000, 80_000]
    groups = [mixed.groups(start) for start in starts]
    assert [len(now.shards) for now, _ in groups] == [9, 9, 9, 13, 9]
    assert [coming.shards for _, coming in groups[:-1]] == [now.shards for now, _ in groups[1:]]
    assert [mixed.groups(start - 1)[1] for start in starts[1:]] == [Group("a", now.shards, 1) for now, _ in groups[1:]]


def test_the_nearest_group_is_named_first():
    mixed = Mixture({"a": 1.0, "b": 1.0}, {"a": [16384] * 24, "b": [2048] * 24}, 0)  # 3,641 and 455 of 4,096
    away = [(group.source, group.positions_away) for group in mixed.groups(0)]
    assert away == [("a", 0), ("b", 0), ("a", 131_072 * 4096 // 3641), ("b", 16_384 * 4096 // 455)]


@few
@given(SOURCES, st.integers(0, 5000), st.integers(1, 16))
def test_a_replacement_comes_from_the_same_source_and_epoch(sources, position, attempt):
    mixed = mixture(sources)
    place, instead = mixed.at(position), mixed.replacement(position, attempt)
    assert (instead.source, instead.epoch) == (place.source, place.epoch)
    assert 0 <= instead.sample < sum(sources[place.source][1])


def test_replacements_differ_by_position_and_attempt():
    mixed = Mixture({"a": 1.0}, {"a": [10**6]}, 0)
    assert len({mixed.replacement(p, attempt) for p in range(10) for attempt in range(1, 11)}) == 100


def test_a_replacement_moves_no_cursor():
    sizes = {"a": [9, 9]}
    replaced, plain = Mixture({"a": 1.0}, sizes, 0), Mixture({"a": 1.0}, sizes, 0)
    assert [(replaced.replacement(p, 1), replaced.at(p + 1))[1] for p in range(40)] == walk(plain, 41)[1:]


def test_the_order_of_today_is_the_order_of_tomorrow():
    # Pinned: a run resumed under another NumPy or another version of this file must go on in the same order.
    mixed = Mixture({"a": 1.0, "b": 2.0}, {"a": [3, 2], "b": [4]}, 7)
    assert [(p.source, p.sample) for p in walk(mixed, 5)] == [("a", 1), ("b", 3), ("b", 2), ("b", 0), ("b", 1)]
    assert mixed.fingerprint[:16] == "32d0fe531abd39f1"


@pytest.mark.parametrize(
    "other",
    [
        Mixture({"a": 1.0}, {"a": [3, 2]}, 8),
        Mixture({"a": 1.0}, {"a": [2, 3]}, 7),
        Mixture({"a": 1.0, "b": 1.0}, {"a": [3, 2], "b": [1]}, 7),
        Mixture({"b": 1.0}, {"b": [3, 2]}, 7),
    ],
)
def test_another_order_has_another_fingerprint(other):
    assert other.fingerprint != Mixture({"a": 1.0}, {"a": [3, 2]}, 7).fingerprint


def test_another_power_has_another_fingerprint():
    powers = (1.0, 0.5, 0.0)
    assert len({Mixture({"a": 1.0, "b": 1.0}, {"a": [30], "b": [2]}, 7, power).fingerprint for power in powers}) == 3


@pytest.mark.parametrize("weights", [{"a": -1.0}, {"a": float("nan")}, {"a": float("inf")}, {}, {"a": 0.0}])
def test_weights_that_make_no_mixture_are_refused(weights):
    with pytest.raises(ValueError, match="expected"):
        Mixture(weights, {"a": [3]}, 0)


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match=r"expected one of \['a'\], found 'coco'"):
        Mixture({"coco": 1.0}, {"a": [3]}, 0)


def test_a_source_without_samples_is_refused():
    with pytest.raises(ValueError, match="expected a source with samples, found none: a"):
        Mixture({"a": 1.0}, {"a": [0, 0]}, 0)


def test_a_negative_position_is_refused():
    with pytest.raises(ValueError, match="expected a position from 0, found -1"):
        Mixture({"a": 1.0}, {"a": [3]}, 0).at(-1)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="expected a seed from 0, found -1"):
        Mixture({"a": 1.0}, {"a": [3]}, -1)


def test_a_place_says_source_epoch_and_sample():
    assert Mixture({"a": 1.0}, {"a": [1]}, 0).at(5) == Place("a", 5, 0)
