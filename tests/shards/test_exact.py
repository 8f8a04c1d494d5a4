"""Exactness from shards on disk to whole batches: any world, any workers, any stop, any damage."""

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgen.batch import bucket, choose_texts, load
from bitgen.image import Transform
from bitgen.tokens import shared_tokenizer
from bitgen.words import join, words_of
from shards.mixture import BLOCK
from tests.mixed import DAMAGED, SIZES, by_the_rule, differences, failures, loaded, opened, write

SEEDS = st.integers(0, 2**40)
STARTS = st.integers(0, 3 * BLOCK)
WORKERS = st.lists(st.integers(0, 8), min_size=1, max_size=16)
WEIGHTS = st.fixed_dictionaries(dict.fromkeys(("cats", "dogs", "birds"), st.sampled_from([0.25, 1.0, 3.0])))


def few(examples):
    return settings(max_examples=examples, deadline=None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the datasets."""
    return write(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """The same, five images of which do not decode."""
    return write(tmp_path_factory.mktemp("damaged"), DAMAGED)


@few(40)
@given(SEEDS, WEIGHTS, STARTS, st.integers(1, 16), st.integers(1, 3), WORKERS)
def test_batches_are_the_same_for_any_split_of_ranks_and_workers(damaged, seed, weights, start, world, share, workers):
    stream = opened(damaged, seed, **weights)
    split = loaded(stream, start, 2, batch=world * share, world=world, workers=workers)
    assert differences(split, loaded(stream, start, 2, batch=world * share)) == []


@few(40)
@given(SEEDS, WEIGHTS, STARTS, st.integers(0, 4), *[st.sampled_from([1, 2, 3, 4, 6, 12])] * 2, WORKERS)
def test_resuming_in_any_world_equals_never_having_stopped(damaged, seed, weights, start, stop, before, after, workers):
    first = loaded(opened(damaged, seed, **weights), start, stop, batch=12, world=before, workers=workers)
    position = start + 12 * stop
    rest = loaded(opened(damaged, seed, **weights), position, 5 - stop, batch=12, world=after, workers=workers)
    assert differences(first + rest, loaded(opened(damaged, seed, **weights), start, 5, batch=12)) == []


def drawn(stream, positions, world):
    """Keys of all ranks' samples by source, in the order of positions."""
    batch, steps = 2 * world, positions // (2 * world)
    ranks = [islice(stream.micro_batches(0, batch=batch, rank=r, world=world), steps) for r in range(world)]
    keys = [stream.draw(p).key for plans in zip(*ranks, strict=True) for plan in plans for p in plan.positions]
    return {name: [key for key in keys if key.startswith(name)] for name in ("cats", "dogs", "birds")}


def epochs(keys, size):
    return [keys[start : start + size] for start in range(0, len(keys) - size + 1, size)]


@few(25)
@given(SEEDS, WEIGHTS, st.integers(1, 16))
def test_every_sample_of_a_source_is_drawn_once_per_its_epoch_by_all_ranks_together(whole, seed, weights, world):
    shown = drawn(opened(whole, seed, **weights), 400, world)
    every = {name.partition("/")[2]: sum(sizes) for name, sizes in SIZES.items()}
    counts = [Counter(epoch) for name in every for epoch in epochs(shown[name], every[name])]
    assert {(len(count), max(count.values())) for count in counts} <= {(size, 1) for size in every.values()}
    assert len(counts) >= 3


@few(25)
@given(SEEDS)
def test_no_epoch_repeats_the_order_of_one_before(whole, seed):
    orders = epochs(drawn(opened(whole, seed, cats=1.0), 210, 1)["cats"], 21)
    assert len(set(map(tuple, orders))) == 10


@few(3)
@given(SEEDS, WEIGHTS, st.integers(0, 3))
def test_a_block_draws_exactly_the_shares(whole, seed, weights, block):
    stream = opened(whole, seed, **weights)
    keys = [stream.draw(block * BLOCK + slot).key for slot in range(BLOCK)]
    counted = Counter(key.partition("-")[0] for key in keys)
    assert counted == {name.partition("/")[2]: count for name, count in stream.mixture.counts.items()}


@few(12)
@given(SEEDS, st.integers(1, 64), st.integers(1, 16))
def test_every_rank_has_as_many_samples_and_as_many_steps(whole, seed, share, world):
    stream = opened(whole, seed)
    ranks = [stream.micro_batches(0, batch=share * world, rank=rank, world=world) for rank in range(world)]
    assert {len(plan.positions) for rank in ranks for plan in islice(rank, 4)} == {share}
    assert [len(list(islice(rank, 4))) for rank in ranks] == [4] * world


@few(25)
@given(SEEDS, STARTS)
def test_an_undecodable_sample_is_replaced_by_the_rule_and_nothing_else_moves(whole, damaged, seed, start):
    healthy, hurt = opened(whole, seed), opened(damaged, seed)
    found = loaded(hurt, start, 2, batch=24, world=3, workers=(2,))
    expected = loaded(healthy, start, 2, batch=24, draw=by_the_rule(healthy))
    assert set(differences(found, expected)) <= {"dropped"}


def test_rows_of_readable_samples_are_those_of_the_undamaged_set(whole, damaged):
    healthy, hurt = (loaded(opened(root), 0, 3, batch=24) for root in (whole, damaged))
    readable = [[key not in DAMAGED for key in batch.keys] for batch in healthy]
    assert sum(map(sum, readable)) < 72
    assert [a.images[kept].equal(b.images[kept]) for a, b, kept in zip(healthy, hurt, readable, strict=True)] == [
        True
    ] * 3


def test_every_undecodable_draw_is_counted(damaged):
    stream = opened(damaged)
    counted = sum(batch.dropped["replaced"] for batch in loaded(stream, 0, 5, batch=24, world=4, workers=(0, 3)))
    assert counted == sum(failures(stream, position) for position in range(120))
    assert counted > 5


def test_ranks_pad_to_the_bucket_of_the_global_micro_batch(whole):
    # One text of 102 tokens in 8, which one of the four ranks has; all others have 6.
    stream = opened(whole, birds=1.0)
    plans = [next(stream.micro_batches(8, batch=8, rank=rank, world=4)) for rank in range(4)]
    batches = [next(load(stream.draw, [plan], Transform(8), 0, 0)) for plan in plans]
    assert [batch.token_ids.shape for batch in batches] == [(2, 128)] * 4
    assert sorted(bucket(int(batch.token_mask.sum(1).max())) for batch in batches) == [16, 16, 16, 128]


def test_captions_rotate_by_the_epoch_of_their_source(whole):
    # In twelve epochs an image of 1, 2, 3 or 4 captions shows each of them 12, 6, 4 or 3 times.
    stream = opened(whole, texts_per_image=1, cats=1.0)
    batches = loaded(stream, 0, 12, batch=21, world=3, workers=(0, 2))
    decode = shared_tokenizer().decode
    shown = Counter(decode(row) for batch in batches for row in batch.token_ids[batch.first_text].tolist())
    index = stream.indexes["coarse/cats"]
    samples = [index.read(i)[0] for i in range(21)]
    assert shown == {text.text: 12 // len(sample.texts) for sample in samples for text in sample.texts}


@pytest.mark.parametrize("texts_per_image", [1, 2, 3, 5])
def test_a_plan_has_the_words_that_the_records_of_its_samples_have(whole, texts_per_image):
    stream = opened(whole, texts_per_image=texts_per_image)
    plan = next(stream.micro_batches(40, batch=120, rank=1, world=2))
    places = [stream.mixture.at(position) for position in plan.positions]
    texts = [stream.indexes[place.source].record(place.sample).texts for place in places]
    chosen = [choose_texts(len(some), p.epoch, texts_per_image) for some, p in zip(texts, places, strict=True)]
    each = zip(texts, chosen, strict=True)
    assert plan.words == join(words_of([some[t] for t in numbers], shared_tokenizer()) for some, numbers in each)


def test_every_phrase_that_is_shown_is_kept_or_counted(whole):
    stream = opened(whole, max_tokens=64, dogs=1.0)
    batches = loaded(stream, 0, 4, batch=32)
    kept = sum(len(batch.phrase_text) for batch in batches)
    dropped = sum((Counter(batch.dropped) for batch in batches), Counter())
    places = [stream.mixture.at(position) for position in range(4 * 32)]
    texts = [(place.epoch, stream.indexes[place.source].record(place.sample).texts) for place in places]
    shown = [some[t] for epoch, some in texts for t in choose_texts(len(some), epoch, 2)]
    assert kept + dropped["phrase_cropped"] + dropped["span_truncated"] == sum(len(text.phrases) for text in shown)
    assert min(kept, dropped["phrase_cropped"], dropped["span_truncated"]) > 3
