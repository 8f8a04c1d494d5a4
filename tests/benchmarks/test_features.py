"""What the benchmark of stored features measures is the warm-up of `bitgen-train`, on the same images for all."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from bitgen.features import unpack
from tests.benchmarks import features, features_run, loader_data
from tests.runs import photo


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 drawn photographs of the coarse source."""
    folder = tmp_path_factory.mktemp("features")
    loader_data.write([photo(number, (96, 64)) for number in range(12)], folder, 24, 12)
    return folder


def test_all_take_the_same_step_on_the_same_images(data: Path) -> None:
    losses = [features_run.run(name, data, "tiny", 4, 1)["first_loss"] for name in features.CONTESTANTS]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert losses[1] != losses[0]
    assert losses[2] == losses[1]  # the first batch is that of `cached`, in float32
    torch.use_deterministic_algorithms(False)


def test_the_bound_has_every_batch_s_texts_and_one_tensor_of_features(data: Path) -> None:
    config = features_run.configured("cached", data, "tiny", 4)
    found = list(islice(features_run.started(config)[1], 3))
    bound = list(features_run.constant(iter(found), 3))
    assert [batch.keys for batch in bound] == [batch.keys for batch in found]
    assert found[0].features is not None
    assert all(batch.features is bound[0].features for batch in bound)
    assert torch.equal(unpack(found[0].features), bound[0].features)  # pyright: ignore[reportArgumentType] (has features)


def test_ratios_are_ours_over_theirs() -> None:
    medians = {"uncached": {"images_per_s": 2.0}, "cached": {"images_per_s": 9.0}, "constant": {"images_per_s": 10.0}}
    assert features.ratios(medians, "images_per_s") == {"uncached": 4.5, "cached_bound": 0.9}
