import json
from dataclasses import replace
from pathlib import Path

import pytest

from bitgen.record import Box, Phrase, Text
from pipeline.pages.records import AREAS, Records, quotas, read_records
from tests.runs import captions, sample, sentences, write_set


def test_words_are_counted_as_they_stand_between_white_space(tmp_path: Path):
    texts = [Text("A dog, a cat."), Text("the dog - well-known")]
    found = read_records(write_set(tmp_path, "coarse/drawn-train", [sample(1, texts)]), 10, "0")
    assert (found.words, found.all_words, found.error) == (8, 8, 0)


def test_distinct_words_are_without_case_and_outer_punctuation(tmp_path: Path):
    texts = [Text("A dog, a cat."), Text("the Dog - well-known (cat)")]
    found = read_records(write_set(tmp_path, "coarse/drawn-train", [sample(1, texts)]), 10, "0")
    assert found.vocabulary == {"a", "dog", "cat", "the", "well-known"}


def test_licences_are_counted_by_image(tmp_path: Path):
    samples = [replace(sample(n, captions(n)), licence=licence) for n, licence in enumerate(("CC0", "", "CC0"))]
    assert read_records(write_set(tmp_path, "coarse/drawn-train", samples), 10, "0").licences == {"CC0": 2, "": 1}


def test_boxes_are_counted_by_their_share_of_the_image(tmp_path: Path):
    boxes = (Box(0.0, 0.0, 1.0, 1.0), Box(0.0, 0.0, 0.5, 0.4), Box(0.1, 0.1, 0.12, 0.12))
    folder = write_set(tmp_path, "fine/drawn-train", [sample(1, [Text("a dog", (Phrase(0, 5, boxes),))])])
    counts = dict(zip(AREAS, read_records(folder, 10, "0").areas.counts, strict=False))
    # Shares 1, 0.2 and 0.0004: bins begin at 10^(-1/4) = 0.562, 10^(-3/4) = 0.178 and 10^(-14/4) = 0.000316.
    assert [edge for edge, many in counts.items() if many] == pytest.approx([0.000316, 0.178, 0.562], rel=2e-3)
    assert sum(counts.values()) == 3


def test_a_sample_reads_so_many_records_and_says_how_many_there_are(tmp_path: Path):
    folder = write_set(tmp_path, "coarse/drawn-train", [sample(n, captions(n)) for n in range(10)])
    found = read_records(folder, 4, "0")
    assert (found.read, found.of, found.texts, found.is_whole) == (4, 10, 8, False)


def test_equal_seeds_read_equal_records(tmp_path: Path):
    folder = write_set(tmp_path, "coarse/drawn-train", [sample(n, captions(n)) for n in range(50)])
    assert read_records(folder, 5, "7 a").vocabulary == read_records(folder, 5, "7 a").vocabulary
    assert read_records(folder, 5, "7 a").vocabulary != read_records(folder, 5, "8 a").vocabulary


def test_words_of_all_texts_are_estimated_by_the_tokens_of_all_texts(tmp_path: Path):
    # "a dog" has two words and two tokens, whichever of them are read.
    folder = write_set(tmp_path, "coarse/drawn-train", [sample(n, [Text("a dog")] * (1 + n % 3)) for n in range(30)])
    found = read_records(folder, 5, "0")
    assert (found.all_words, found.error) == (120, 0)


def test_the_error_is_that_of_the_ratio_of_words_to_tokens():
    # Words 2, 4, 9 and tokens 3, 4, 8 of three of thirty records: ratio 1, residuals -1, 0, 1, variance 1.
    found = Records(of=30, all_tokens=150, read=3, words=15, tokens=15, squares=[101.0, 94.0, 89.0])
    # 1.96 x sqrt(1 x (1 - 3 / 30) / 3) / (15 / 3) x 150
    assert found.error == round(1.96 * 0.3**0.5 / 5 * 150)


def test_the_truth_lies_within_the_error_of_most_samples(tmp_path: Path):
    texts = ["a dog", "extraordinarily photogenic", "two cats on a mat", "skateboarder"]
    samples = [sample(n, [Text(" ".join(texts[: 1 + n * n % 4]))]) for n in range(400)]
    folder = write_set(tmp_path, "coarse/drawn-train", samples)
    truth = read_records(folder, 400, "0").words
    found = [read_records(folder, 40, str(seed)) for seed in range(40)]
    assert sum(abs(each.all_words - truth) <= each.error for each in found) >= 34


def test_a_damaged_record_is_counted_and_the_rest_is_read(tmp_path: Path):
    folder = write_set(tmp_path, "coarse/drawn-train", [sample(n, captions(n)) for n in (1, 2)])
    shard = folder / "000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b'"key":"drawn-2"', b'"kex":"drawn-2"'))
    found = read_records(folder, 10, "0")
    assert (found.read, found.damaged) == (1, 1)


def test_a_record_of_another_sample_is_damaged(tmp_path: Path):
    folder = write_set(tmp_path, "coarse/drawn-train", [sample(1, captions(1))])
    shard = folder / "000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b'"key":"drawn-1"', b'"key":"drawn-9"'))
    assert read_records(folder, 10, "0").damaged == 1


def test_phrases_do_not_change_the_words(tmp_path: Path):
    folder = write_set(tmp_path, "fine/drawn-train", [sample(1, sentences(1))])
    # "the red thing 1 and the blue thing", "both things"
    assert read_records(folder, 10, "0").words == 10


def test_records_are_shared_out_evenly_and_small_datasets_are_read_whole():
    assert quotas({"large": 1000, "small": 10, "middle": 200}, 300) == {"large": 145, "small": 10, "middle": 145}


def test_what_small_datasets_do_not_need_goes_to_the_large_ones():
    assert quotas({"a": 5, "b": 5, "c": 10_000}, 1000) == {"a": 5, "b": 5, "c": 990}


def test_every_dataset_has_a_record_read():
    assert quotas({"a": 5, "b": 5}, 1) == {"a": 1, "b": 1}


def test_records_that_are_no_objects_are_damaged(tmp_path: Path):
    folder = write_set(tmp_path, "coarse/drawn-train", [sample(1, captions(1))])
    shard = folder / "000000.tar"
    line = sample(1, captions(1)).to_json().encode()
    shard.write_bytes(shard.read_bytes().replace(line, json.dumps([0] * 200).encode()[: len(line)].ljust(len(line))))
    assert read_records(folder, 10, "0").damaged == 1
