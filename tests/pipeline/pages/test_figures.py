from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitgen.record import Text
from pipeline.pages.figures import BYTES, MANY, SIDES_PX, distinct, measure, spread
from tests.runs import captions, photo, sample, sentences, write_set


def put(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """A dataset of one photograph of each size, each with two captions."""
    samples = [replace(sample(n, captions(n)), width=w, height=h) for n, (w, h) in enumerate(sizes)]
    return write_set(folder, "coarse/drawn-train", samples)


def test_shorter_sides_are_counted_between_their_edges(tmp_path: Path):
    found = measure(put(tmp_path, [(640, 480), (480, 640), (100, 50), (223, 224)])).shorter_side
    assert found.bins.counts[SIDES_PX.index(431.0)] == 2
    assert found.bins.counts[SIDES_PX.index(45.0)] == 1
    assert found.bins.counts[SIDES_PX.index(215.0)] == 1
    assert found.bins.total == 4


def test_images_smaller_than_what_the_model_sees_are_counted(tmp_path: Path):
    assert measure(put(tmp_path, [(640, 480), (223, 640), (224, 224)])).small == 1


def test_width_and_height_are_counted_together(tmp_path: Path):
    found = measure(put(tmp_path, [(640, 480), (640, 480), (480, 640)])).sides
    wide, tall = SIDES_PX.index(609.0), SIDES_PX.index(431.0)
    assert (found[wide, tall], found[tall, wide], found.sum()) == (2, 1, 3)


def test_the_median_size_is_that_of_widths_and_of_heights(tmp_path: Path):
    assert measure(put(tmp_path, [(10, 90), (20, 70), (30, 80)])).middle_size == (20, 80)


def test_bytes_are_those_of_the_stored_images(tmp_path: Path):
    found = measure(write_set(tmp_path, "coarse/drawn-train", [sample(n, captions(n)) for n in (1, 2)])).image_bytes
    assert found.total == len(photo(1)) + len(photo(2))
    assert found.bins.edges == BYTES


def test_tokens_are_those_of_every_text_both_ends_included(tmp_path: Path):
    texts = [Text("dog"), Text("a dog")]
    found = measure(write_set(tmp_path, "coarse/drawn-train", [sample(1, texts)])).tokens
    assert (found.bins.counts[3], found.bins.counts[4], found.bins.total, found.total) == (1, 1, 2, 7)


def test_texts_cut_at_the_longest_are_counted(tmp_path: Path):
    texts = [Text("dog " * 400), Text("a dog")]
    assert measure(write_set(tmp_path, "coarse/drawn-train", [sample(1, texts)])).cut == 1


def test_phrases_and_boxes_are_counted_per_image(tmp_path: Path):
    samples = [sample(1, sentences(1)), sample(2, captions(2)), sample(3, sentences(3)[:1])]
    found = measure(write_set(tmp_path, "fine/drawn-train", samples))
    assert (found.phrases.total, found.boxes.total) == (5, 6)
    assert [found.phrases.bins.counts[n] for n in (0, 2, 3)] == [1, 1, 1]
    assert [found.boxes.bins.counts[n] for n in (0, 2, 4)] == [1, 1, 1]
    assert [found.texts.bins.counts[n] for n in (1, 2)] == [1, 2]


def test_photographs_are_told_apart_by_their_ids(tmp_path: Path):
    one = measure(write_set(tmp_path, "coarse/one-train", [sample(n, captions(n)) for n in (1, 2)]))
    two = measure(write_set(tmp_path, "coarse/two-train", [sample(n, captions(n)) for n in (2, 3)]))
    assert distinct([one.photographs, two.photographs]) == 3


def test_formats_are_counted(tmp_path: Path):
    assert measure(put(tmp_path, [(32, 32)])).formats == {"jpg": 1}


def test_a_spread_names_the_values_that_so_many_do_not_exceed():
    found = spread(np.arange(1, 101), MANY)
    assert (found.low, found.middle, found.high, found.total) == (5, 50, 95, 5050)


def test_a_spread_of_nothing_is_zero():
    found = spread(np.empty(0, np.int64), MANY)
    assert (found.low, found.middle, found.high, found.total, found.bins.total) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("rows", [1, 65_537])
def test_counts_do_not_depend_on_the_batches_of_the_index(rows: int):
    assert spread(np.full(rows, 3), MANY).bins.counts[3] == rows
