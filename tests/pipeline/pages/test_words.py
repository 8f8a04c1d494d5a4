from pathlib import Path

from bitgen.record import Text
from pipeline.pages.words import budgets, words_in
from tests.folders import cells, world
from tests.runs import captions, sample, write_set, write_world


def test_words_are_added_up_over_the_datasets_to_train_on(tmp_path: Path):
    # Captions of photograph n: 4 + 9 words; sentences: 8 + 2.
    root = write_world(tmp_path)
    found = [each for each in world(root).datasets if not each.is_eval]
    assert [words_in([each]).words for each in found] == [78, 60]
    assert words_in(found).words == 138


def test_distinct_words_are_those_of_all_datasets_together(tmp_path: Path):
    write_set(tmp_path, "coarse/one-train", [sample(1, [Text("a dog")])])
    write_set(tmp_path, "coarse/two-train", [sample(2, [Text("a cat")])])
    assert words_in(world(tmp_path).datasets).distinct == 3


def test_budgets_are_told_as_shares_of_them(tmp_path: Path):
    folder = write_set(tmp_path, "coarse/drawn-train", [sample(1, captions(1))])
    found = world(folder)
    found.datasets[0].records.words = 25_000_000
    assert [line[1:] for line in cells(budgets(found))] == [
        ["words", "coarse texts"],
        ["", "25,000,000"],
        ["", "11"],
        ["10M", "2.5 times"],
        ["100M", "25%"],
        ["50M", "50%"],
    ]


def test_errors_of_independent_samples_add_up_as_their_squares(tmp_path: Path):
    write_set(tmp_path, "coarse/one-train", [sample(n, captions(n)) for n in range(4)])
    write_set(tmp_path, "coarse/two-train", [sample(n, captions(n)) for n in range(4)])
    found = world(tmp_path).datasets
    for each in found:
        # Ratio 1, residuals -1 and 1, half of the records read: 1.96 x sqrt(2 x 0.5 / 2) / 5 x 200.
        each.records.__dict__.update(of=4, read=2, all_tokens=200, words=10, tokens=10, squares=[52.0, 51.0, 52.0])
    assert [each.records.error for each in found] == [55, 55]
    assert words_in(found).error == 78
