"""Validation during training: the sets that a configuration names, or a clear refusal."""

from dataclasses import replace
from pathlib import Path

import pytest

from bitgen.training.config import ConfigError, TrainConfig
from pipeline.validation import validator
from tests import fakes
from tests.runs import HOLDOUT, run_config, write_world


def validating(root: Path, *names: str, every: float = 1.0) -> TrainConfig:
    config = run_config(write_world(root), root / "runs")
    return replace(config, data=replace(config.data, validation=names), run=replace(config.run, validate_every=every))


def test_fine_phase_is_judged_by_grounding_accuracy(tmp_path: Path) -> None:
    validate = validator(validating(tmp_path, "eval/drawn-phrases"), fakes.model().eval(), HOLDOUT)
    assert validate is not None
    figure, values = validate()
    assert (figure, sorted(values)) == (values["acc50"], ["acc50", "mean_iou"])


def test_coarse_phase_is_judged_by_recall_at_1_both_ways(tmp_path: Path) -> None:
    config = replace(validating(tmp_path, "eval/drawn-captions"), phase="coarse")
    validate = validator(config, fakes.model().eval(), HOLDOUT)
    assert validate is not None
    figure, values = validate()
    assert figure == pytest.approx((values["t2i_r1"] + values["i2t_r1"]) / 2)


def test_joint_phase_is_judged_by_the_mean_of_both(tmp_path: Path) -> None:
    config = replace(validating(tmp_path, "eval/drawn-captions", "eval/drawn-phrases"), phase="joint")
    validate = validator(config, fakes.model().eval(), HOLDOUT)
    assert validate is not None
    figure, values = validate()
    assert sorted(values) == ["acc50", "i2t_r1", "mean_iou", "t2i_r1"]
    assert figure == pytest.approx((values["acc50"] + (values["t2i_r1"] + values["i2t_r1"]) / 2) / 2)


def test_no_set_or_no_interval_means_no_validation(tmp_path: Path) -> None:
    config = validating(tmp_path, "eval/drawn-phrases", every=0.0)
    nameless = replace(config, data=replace(config.data, validation=()), run=replace(config.run, validate_every=1.0))
    assert [validator(c, fakes.model(), HOLDOUT) for c in (config, nameless)] == [None, None]


@pytest.mark.parametrize(
    ("name", "holdout", "message"),
    [
        ("eval/nowhere", HOLDOUT, "expected eval/nowhere below .* found none"),
        ("fine/drawn-train", HOLDOUT, "found training data: fine/drawn-train"),
        ("eval/drawn-phrases", "cd" * 32, "under the hold-out lists of the training shards, found others"),
    ],
)
def test_a_set_that_cannot_validate_is_refused(tmp_path: Path, name: str, holdout: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validator(validating(tmp_path, name), fakes.model(), holdout)
