from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.format import ShardError
from shards.index import ShardIndex
from shards.mixture import Mixture
from shards.stream import Plan, Stream

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def stream(build):
    build("coarse/pets", (3, 2))
    folder = build("coarse/cats", (4,)).parent.parent
    return Stream.open(folder, {"coarse/pets": 1.0, "coarse/cats": 2.0}, seed=3, texts_per_image=2)


def take(stream, count, start=0, **of):
    return list(islice(stream.micro_batches(start, **of), count))


@few
@given(st.integers(1, 16), st.integers(1, 4), st.integers(0, 9000))
def test_the_ranks_of_any_world_share_the_same_global_micro_batches(stream, world, share, start):
    alone = take(stream, 3, start, batch=world * share)
    ranks = [take(stream, 3, start, batch=world * share, rank=rank, world=world) for rank in range(world)]
    assert [sum((rank[s].positions for rank in ranks), ()) for s in range(3)] == [plan.positions for plan in alone]
    assert [{rank[s].text_bucket for rank in ranks} for s in range(3)] == [{plan.text_bucket} for plan in alone]


@few
@given(st.integers(0, 50), st.integers(1, 8))
def test_resuming_equals_never_having_stopped(stream, steps, batch):
    assert take(stream, 3, steps * batch, batch=batch) == take(stream, steps + 3, batch=batch)[steps:]


def test_a_plan_is_a_run_of_positions(stream):
    assert take(stream, 2, 100, batch=6, rank=1, world=3) == [Plan((102, 103), 16), Plan((108, 109), 16)]


def test_a_bucket_fits_the_longest_text_shown(build):
    folder = build("pets", (3,))  # texts of 4, 5 and 7 tokens
    long = ShardIndex.open(folder)
    long._tokens[0].values = long._tokens[0].values * 10
    mixture = Mixture({"pets": 1.0}, {"pets": long.shard_sizes}, 0)
    plan = take(Stream({"pets": long}, mixture, texts_per_image=4), 1, batch=3)[0]
    assert plan.text_bucket == 128


def test_a_bucket_never_passes_the_most_tokens_allowed(build):
    index = ShardIndex.open(build("pets", (3,)))
    index._tokens[0].values = index._tokens[0].values * 30
    mixture = Mixture({"pets": 1.0}, {"pets": index.shard_sizes}, 0)
    plan = take(Stream({"pets": index}, mixture, texts_per_image=4, max_tokens=64), 1, batch=3)[0]
    assert plan.text_bucket == 64


def test_a_draw_is_the_sample_of_its_place(stream):
    place = stream.mixture.at(17)
    item = stream.draw(17)
    assert (item.position, item.epoch) == (17, place.epoch)
    assert (item.sample, item.image) == stream.indexes[place.source].read(place.sample)


def test_a_second_attempt_draws_another_sample_of_the_same_source(stream):
    keys = {stream.draw(17, attempt).sample.key for attempt in range(1, 16)}
    assert {key.partition("-")[0] for key in keys} == {stream.draw(17).sample.key.partition("-")[0]}
    assert len(keys) > 1


def test_every_sample_is_drawn_once_per_epoch(build):
    folder = build("pets", (3, 2)).parent
    stream = Stream.open(folder, {"pets": 1.0}, seed=0, texts_per_image=1)
    assert sorted(stream.draw(p).sample.key for p in range(5, 10)) == [f"pets-{i}" for i in range(5)]


def test_a_dataset_of_weight_zero_need_not_be_there(build):
    folder = build("pets", (3, 2)).parent
    assert Stream.open(folder, {"pets": 1.0, "sbu": 0.0}, seed=0, texts_per_image=1).mixture.sources == ("pets",)


def test_a_dataset_that_is_not_there_is_refused(build):
    folder = build("pets", (3, 2)).parent
    with pytest.raises(ShardError, match=r"expected a finished dataset, found no dataset\.json: .*sbu"):
        Stream.open(folder, {"pets": 1.0, "sbu": 1.0}, seed=0, texts_per_image=1)


def test_a_mixture_of_other_datasets_is_refused(stream):
    with pytest.raises(ShardError, match=r"expected an index of \['vg'\], found \['coarse/cats', 'coarse/pets'\]"):
        Stream(stream.indexes, Mixture({"vg": 1.0}, {"vg": [1]}, 0), texts_per_image=1)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({"batch": 7, "world": 2}, "expected a global micro-batch that 2 ranks divide, found 7"),
        ({"batch": 0}, "expected a global micro-batch that 1 ranks divide, found 0"),
        ({"batch": 8, "world": 2, "rank": 2}, "expected a rank of 2 and a position from 0, found 2 and 0"),
    ],
)
def test_a_batch_that_the_world_does_not_share_is_refused(stream, of, message):
    with pytest.raises(ValueError, match=message):
        take(stream, 1, **of)
