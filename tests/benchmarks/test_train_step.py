"""What the benchmark of training steps measures: all contestants work on the same images, and parts are parts of the whole."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.benchmarks import loader_data, train_step, train_step_run
from tests.runs import photo

Found = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    """A timed step of every kind on drawn photographs, with the tiny tower."""
    folder = tmp_path_factory.mktemp("train_step")
    loader_data.write([photo(number, (96, 64)) for number in range(8)], folder, 8, 8)
    names = (*train_step_run.KINDS, "coarse_thawed_recomputed")
    yield {name: train_step_run.run(name, folder, "tiny", 2, 1, "cpu") for name in names}
    torch.use_deterministic_algorithms(False)


def test_the_operations_of_the_parts_are_those_of_the_whole(found: Found) -> None:
    count = {name: each["operations"] for name, each in found.items()}
    assert count["bare_forward"] + count["heads"] == count["coarse_frozen"]
    # The compressor's input has a gradient once the tower trains: a product of 2 x 256 tokens more, 32 and 384 wide.
    assert count["bare_forward_backward"] + count["heads"] + 2 * 2 * 256 * 32 * 384 == count["coarse_thawed"]
    assert count["coarse_thawed_recomputed"] == count["coarse_thawed"]


def test_every_contestant_was_timed_and_weighed(found: Found) -> None:
    names = ("wall_s", "cpu_s", "first_step_s", "operations", "bytes", "memory_mb", "peak", "bandwidth")
    assert [(name, key) for name, each in found.items() for key in names if not each[key] > 0] == []


def test_the_images_and_their_order_are_the_same_for_all(tmp_path: Path) -> None:
    loader_data.write([photo(number, (96, 64)) for number in range(8)], tmp_path, 16, 16)
    keys = []
    for name in ("coarse_frozen", "coarse_thawed_compiled", "open_clip"):
        config = train_step_run.configured(name, tmp_path, "tiny", 4, "cpu")
        feed = train_step_run.made(config, 2, torch.device("cpu"))
        keys.append([batch.keys for batch in feed])
        assert [len(texts) for texts in train_step_run.first_texts(tmp_path, feed)] == [4, 4]
    assert keys[0] == keys[1] == keys[2]


def test_a_contestant_s_figures_follow_from_its_medians() -> None:
    report = {"wall_s": 4.0, "cpu_s": 8.0, "operations": 3e9, "peak": 2e9, "bytes": 6e9, "bandwidth": 12e9}
    report |= {"memory_mb": 900.0, "memory_before_mb": 300.0}
    found = train_step.median([report, {**report, "wall_s": 5.0}, {**report, "wall_s": 3.0}], batch=8, steps=2)
    assert found == {
        "images_per_s": 4.0,
        "images_per_cpu_s": 2.0,
        "step_s": 2.0,
        "mfu": 0.75,
        "gflop_per_image": 0.38,
        "arithmetic_s": 1.5,
        "traffic_s": 0.5,
        "memory_mb": 900,
        "step_memory_mb": 600,
    }


def test_ratios_are_ours_over_theirs_and_parts_over_the_whole() -> None:
    rates = {"coarse_frozen": 4.0, "bare_forward": 5.0, "heads": 25.0, "coarse_thawed": 1.5, "open_clip": 1.0}
    found = train_step.ratios({name: {"images_per_s": rate} for name, rate in rates.items()}, "images_per_s")
    assert found == {"bare_forward": 0.8, "open_clip": 1.5, "sum_of_parts": round(4 * (1 / 5 + 1 / 25), 3)}
