"""What the loader's benchmark measures is what `bitgen-train` runs, and what it computes is right."""

from pathlib import Path

import pytest
import torch

from cli import train
from pipeline.roots import open_root
from shards.index import ShardIndex
from tests import fakes
from tests.benchmarks import environments, loader, loader_data, loader_ours, loader_scale
from tests.benchmarks.harness import BenchError
from tests.benchmarks.loader_terms import BATCH, FINE, SIDE_PX, SOURCES, TEXTS_PER_IMAGE
from tests.runs import photo


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 drawn photographs, each eleven times or so, in shards of 16."""
    folder = tmp_path_factory.mktemp("loader")
    loader_data.write([photo(number, (96, 64)) for number in range(12)], folder, 2 * BATCH, 16)
    return folder


def test_batches_are_those_of_bitgen_train(data: Path) -> None:
    config = fakes.config(
        "fine",
        data={
            "root": str(data),
            "mixture": SOURCES,
            "image_px": SIDE_PX,
            "texts_per_image": TEXTS_PER_IMAGE,
            "workers": 2,
            "max_tokens": 256,
            "crop_scale_min": 1.0,
        },
        optim={"batch": BATCH},
        run={"seed": 0},
    )
    stream = train.open_stream(config, open_root(config.data))
    wanted = next(train.batches(stream, config, 0, torch.device("cpu")))
    found = next(loader_ours.batches(data, 2, 1))
    tensors = {name: value for name, value in vars(wanted).items() if isinstance(value, torch.Tensor)}
    assert found.keys == wanted.keys
    assert [name for name, value in tensors.items() if not torch.equal(getattr(found, name), value)] == []


def test_half_of_the_photographs_have_boxes(data: Path) -> None:
    fine = ShardIndex.open(data / "shards" / FINE)
    assert len(fine) == BATCH
    assert min(fine.entry(i).boxes for i in range(BATCH)) >= 4 + 3 * 4  # expressions, and phrases of sentences


def test_repeated_shards_hold_what_their_index_says(data: Path, tmp_path: Path) -> None:
    assert loader_scale.repeat(data, tmp_path, 200) == 2 * 7 * 16
    real, repeated = ShardIndex.open(data / "shards" / FINE), ShardIndex.open(tmp_path / "shards" / FINE)
    assert repeated.read(6 * 16 + 5) == real.read(2 * 16 + 5)  # the seventh shard is the third of four


RATIOS = {"webdataset_readme": 3.0, "best_peer": 2.0, "best_peer_our_decode": 1.5, "bare_decode": 0.75}


def test_ratios_are_to_the_fastest() -> None:
    rates = {"ours": 1200.0, "bare_threads": 1500.0, "bare_processes": 1600.0}
    rates |= {"webdataset": 400.0, "webdataset_our_decode": 800.0, "litdata": 600.0, "litdata_our_decode": 750.0}
    medians = {name: {"images_per_s": rate} for name, rate in rates.items()}
    assert loader.ratios(medians, "images_per_s") == RATIOS


def test_ratios_of_cpu_time_are_to_the_thriftiest() -> None:
    cpu_ms = {"ours": 1.2, "bare_threads": 0.9, "bare_processes": 1.0}
    cpu_ms |= {"webdataset": 3.6, "webdataset_our_decode": 1.8, "litdata": 2.4, "litdata_our_decode": 2.0}
    medians = {name: {"cpu_ms_per_image": each} for name, each in cpu_ms.items()}
    assert loader.ratios(medians, "cpu_ms_per_image") == RATIOS


def test_a_peer_that_cannot_be_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"absent-1\.0"):
        environments.prepare(tmp_path / "environment", [str(tmp_path / "absent-1.0-py3-none-any.whl")])
