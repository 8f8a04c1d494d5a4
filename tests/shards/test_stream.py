import json
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitgen.batch import Item, choose_texts, load
from bitgen.image import Transform
from bitgen.tokens import EOT, shared_tokenizer
from bitgen.words import join, words_of
from shards.format import FORMAT_VERSION, ShardError, ShardWriter
from shards.index import ShardIndex, write_index
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


def words_shown(stream, positions):
    """Of what the samples at these positions show, from their records."""
    places = [stream.mixture.at(position) for position in positions]
    some = [stream.indexes[place.source].record(place.sample).texts for place in places]
    chosen = [choose_texts(len(texts), p.epoch, stream.texts_per_image) for texts, p in zip(some, places, strict=True)]
    each = ([texts[t] for t in numbers] for texts, numbers in zip(some, chosen, strict=True))
    return join(words_of(texts, shared_tokenizer()) for texts in each)


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
    assert take(stream, 2, 100, batch=6, rank=1, world=3) == [
        Plan((102, 103), 16, words_shown(stream, (102, 103))),
        Plan((108, 109), 16, words_shown(stream, (108, 109))),
    ]


def test_a_plan_without_possible_words_is_refused(build):
    folder = build("pets", (3,))
    entries = [ShardIndex.open(folder).entry(i) for i in range(3)]
    start, _, *rest = entries[2].token_ids
    write_index(folder, [*entries[:2], entries[2]._replace(token_ids=(start, 60_000, *rest))])
    stream = Stream.open(folder.parent, {"pets": 1.0}, seed=0, texts_per_image=2)
    with pytest.raises(ShardError, match=r"expected tokens below 50257, found others: pets-2, .*pets/index\.arrow"):
        take(stream, 1, batch=3)


@pytest.mark.parametrize(("values", "found"), [([0], "0 boxes"), ([3], "3 boxes")])
def test_a_plan_whose_boxes_are_not_those_of_its_phrases_is_refused(build, values, found):
    folder = build("pets", (1,))
    entry = ShardIndex.open(folder).entry(0)
    assert entry.phrase_boxes == (1,)
    write_index(folder, [entry._replace(phrase_boxes=tuple(values))])
    stream = Stream.open(folder.parent, {"pets": 1.0}, seed=0, texts_per_image=2)
    with pytest.raises(
        ShardError, match=rf"expected {found} of its phrases, found corners of 1: pets-0, .*index\.arrow"
    ):
        take(stream, 1, batch=1)


def test_what_stands_in_for_another_has_its_words(stream):
    place, [item] = stream.mixture.replacement(17, 3), [stream.draw(17, 3)]
    texts = stream.indexes[place.source].record(place.sample).texts
    chosen = choose_texts(len(texts), place.epoch, 2)
    assert item.words == words_of([texts[t] for t in chosen], shared_tokenizer())


def lengthen(folder, times):
    """The dataset, of whose texts the index says that they are so many times as long."""
    index = ShardIndex.open(folder)
    entries = [index.entry(i) for i in range(len(index))]
    longer = [tuple(times * n for n in entry.tokens) for entry in entries]
    ids = [sum(((EOT, *[7] * (n - 2), EOT) for n in tokens), ()) for tokens in longer]
    both = zip(entries, longer, ids, strict=True)
    write_index(folder, [entry._replace(tokens=tokens, token_ids=each) for entry, tokens, each in both])
    return ShardIndex.open(folder)


def test_a_bucket_fits_the_longest_text_shown(build):
    long = lengthen(build("pets", (3,)), 10)  # texts of 4, 5 and 7 tokens
    mixture = Mixture({"pets": 1.0}, {"pets": long.shard_sizes}, 0)
    plan = take(Stream({"pets": long}, mixture, texts_per_image=4), 1, batch=3)[0]
    assert plan.text_bucket == 128


def test_a_bucket_never_passes_the_most_tokens_allowed(build):
    index = lengthen(build("pets", (3,)), 30)
    mixture = Mixture({"pets": 1.0}, {"pets": index.shard_sizes}, 0)
    plan = take(Stream({"pets": index}, mixture, texts_per_image=4, max_tokens=64), 1, batch=3)[0]
    assert plan.text_bucket == 64


def test_a_draw_is_the_sample_of_its_place(stream):
    place = stream.mixture.at(17)
    assert stream.draw(17) == Item.of(17, *stream.indexes[place.source].read(place.sample))


def test_a_second_attempt_draws_another_sample_of_the_same_source(stream):
    keys = {stream.draw(17, attempt).key for attempt in range(1, 16)}
    assert {key.partition("-")[0] for key in keys} == {stream.draw(17).key.partition("-")[0]}
    assert len(keys) > 1


def test_every_sample_is_drawn_once_per_epoch(build):
    folder = build("pets", (3, 2)).parent
    stream = Stream.open(folder, {"pets": 1.0}, seed=0, texts_per_image=1)
    assert sorted(stream.draw(p).key for p in range(5, 10)) == [f"pets-{i}" for i in range(5)]


@pytest.fixture
def damaged(tmp_path, photograph, describe):
    """The folder of two datasets of ten photographs, of which `damaged` has one, pets-3, cut off."""
    for name, cut in (("whole", None), ("damaged", -5)):
        (tmp_path / name).mkdir()
        images = [photograph(i * 20) for i in range(10)]
        images[3] = images[3][:cut]
        with ShardWriter(tmp_path / name / "000000.tar") as writer:
            entries = [writer.add(describe(image, f"pets-{i}"), image) for i, image in enumerate(images)]
        write_index(tmp_path / name, entries)
        shard = {"file": "000000.tar", "samples": 10, "bytes": writer.size_bytes, "sha256": writer.sha256}
        dataset = {"format_version": FORMAT_VERSION, "name": "pets", "samples": 10, "shards": [shard]}
        (tmp_path / name / "dataset.json").write_text(json.dumps(dataset))
    return tmp_path


def keys(folder):
    """What two epochs of a dataset show, and how many of it were replaced."""
    index = ShardIndex.open(folder)
    stream = Stream({"pets": index}, Mixture({"pets": 1.0}, {"pets": index.shard_sizes}, 0), texts_per_image=1)
    plans = islice(stream.micro_batches(0, batch=5), 4)
    batches = list(load(stream.draw, plans, Transform(8), 0, 2))
    return [key for batch in batches for key in batch.keys], sum(batch.dropped["replaced"] for batch in batches)


def test_an_image_that_does_not_decode_is_replaced_and_nothing_else_moves(damaged):
    whole, damaged_keys = keys(damaged / "whole"), keys(damaged / "damaged")
    assert whole[0].count("pets-3") == 2
    assert [was for was, key in zip(whole[0], damaged_keys[0], strict=True) if was != key] == ["pets-3"] * 2
    assert (whole[1], damaged_keys[1]) == (0, 2)


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
