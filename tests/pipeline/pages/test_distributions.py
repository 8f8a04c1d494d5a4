from dataclasses import replace
from pathlib import Path

from pipeline.pages.distributions import images_section, licence_images, licences_section, phrases_section
from pipeline.pages.world import read_world
from tests.folders import cells, world
from tests.runs import captions, sample, sentences, write_set


def test_sizes_stand_in_a_line_for_each_dataset(tmp_path: Path):
    samples = [
        replace(sample(n, captions(n)), width=w, height=h) for n, w, h in ((1, 640, 480), (2, 300, 200), (3, 320, 400))
    ]
    folder = write_set(tmp_path, "coarse/drawn-train", samples)
    line = cells(images_section(world(folder)))[1]
    # Shorter sides 480, 200, 320; of them one is below 224.
    assert [line[n] for n in (0, 1, 2, 4, 5)] == ["coarse/drawn-train", "3", "320 × 400", "320 200–320", "33.3%"]


def test_phrases_and_boxes_stand_in_a_line_for_each_dataset_that_has_some(tmp_path: Path):
    write_set(tmp_path, "coarse/drawn-train", [sample(1, captions(1))])
    write_set(tmp_path, "fine/drawn-train", [sample(1, sentences(1)), sample(2, sentences(2)[:1])])
    found = cells(phrases_section(world(tmp_path)) or "")
    # Phrases 3 and 2, boxes 4 and 2.
    assert found[1:] == [["fine/drawn-train", "5", "2.5", "2 2–2", "6", "3.0", "1.20", "", "all"]]


def test_without_boxes_nothing_is_told_of_them(tmp_path: Path):
    write_set(tmp_path, "coarse/drawn-train", [sample(1, captions(1))])
    assert phrases_section(world(tmp_path)) is None


def test_licences_stand_with_their_images_the_most_frequent_first(tmp_path: Path):
    samples = [
        replace(sample(n, captions(n)), licence=licence) for n, licence in enumerate(("CC0", "", "CC0", "CC BY"))
    ]
    folder = write_set(tmp_path, "coarse/drawn-train", samples)
    assert cells(licences_section(world(folder)))[1:4] == [
        ["CC0", "2", "50%", ""],
        ["none stated", "1", "25%", ""],
        ["CC BY", "1", "25%", ""],
    ]


def test_licences_of_a_sample_stand_for_all_images(tmp_path: Path):
    folder = write_set(tmp_path, "coarse/drawn-train", [sample(n, captions(n)) for n in range(10)])
    found = read_world(folder, 0, 4)
    assert licence_images(found.datasets) == {"CC0": 10.0}
    assert "about 10" in licences_section(found)


def test_the_charts_are_of_what_is_trained_on(tmp_path: Path):
    write_set(tmp_path, "coarse/drawn-train", [sample(n, captions(n)) for n in range(3)])
    write_set(tmp_path, "eval/drawn-val", [sample(n, captions(n)) for n in range(5)])
    assert "Shorter side: 3 images" in images_section(world(tmp_path))
