from pathlib import Path

from bitgen.record import Text
from pipeline.data_words import budgets, words_in
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
