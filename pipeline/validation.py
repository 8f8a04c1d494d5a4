"""What a run validates on while it trains: the sets that its configuration names, measured as `bitgen-eval` measures."""

import numpy as np

from bitgen.evaluation.grounding import evaluate_grounding
from bitgen.evaluation.retrieval import evaluate_retrieval
from bitgen.model.bitgen import BitGen
from bitgen.training.config import ConfigError, TrainConfig
from bitgen.training.loop import Validate
from pipeline.roots import open_root
from pipeline.wholes import batches
from shards.format import NoDatasetError
from shards.index import ShardIndex
from shards.root import Root

BATCH = 64
"""Images at a time."""


def validator(config: TrainConfig, model: BitGen, holdout_sha256: str, root: Root | None = None) -> Validate | None:
    """The function that `train` calls to validate; None where the configuration asks for no validation.

    In the coarse phase the figure that decides is the mean of recall@1 both ways, in the fine phase grounding accuracy at IoU
    0.5, each the mean over the sets; in the joint phase, where sets with phrases are grounded and others retrieved, the mean of
    the two. Raises as `open_sets`.
    """
    indexes = open_sets(config, holdout_sha256, root or open_root(config.data))
    if not indexes:
        return None

    def validate() -> tuple[float, dict[str, float]]:
        found = [_measure(config, model, index) for index in indexes.values()]
        names = dict.fromkeys(name for values in found for name in values)
        means = {name: float(np.mean([values[name] for values in found if name in values])) for name in names}
        decides = (("acc50",), ("t2i_r1", "i2t_r1"))
        figures = [np.mean([means[name] for name in each]) for each in decides if means.keys() >= set(each)]
        return float(np.mean(figures)), means

    return validate


def open_sets(config: TrainConfig, holdout_sha256: str, root: Root) -> dict[str, ShardIndex]:
    """The sets to validate on by name; none where the configuration asks for no validation.

    Raises `ConfigError` where a set is not built, was not held out, was built under other hold-out lists than the training
    shards (`holdout_sha256`), or has no phrase for a fine phase; what opening one raises comes through.
    """
    if not config.run.validate_every:
        return {}
    indexes: dict[str, ShardIndex] = {}
    for name in config.data.validation:
        try:
            indexes[name] = root.open(name)
        except NoDatasetError as error:
            raise ConfigError(
                f"expected {name} below {root.place} to validate on, found none: build it, or pass --run.validate-every 0"
            ) from error
    for name, index in indexes.items():
        if index.dataset["role"] != "eval":
            raise ConfigError(f"expected evaluation data in data.validation, found training data: {name}")
        if index.dataset["holdout_sha256"] != holdout_sha256 and not config.data.allow_other_holdout:
            raise ConfigError(f"expected {name} built under the hold-out lists of the training shards, found others")
        if config.phase == "fine" and index.dataset.get("phrases") == 0:
            raise ConfigError(f"expected phrases with boxes to validate the fine phase on, found none in {name}")
    return indexes


def _measure(config: TrainConfig, model: BitGen, index: ShardIndex) -> dict[str, float]:
    """Without intervals: of one resample, which are none, and cost nothing."""
    data = config.data
    made = batches(index, range(len(index)), data.image_px, data.max_tokens, BATCH)
    if config.phase == "fine" or (config.phase == "joint" and index.dataset.get("phrases")):
        result = evaluate_grounding(model, made, seed=config.run.seed, resamples=1)
        return {"acc50": result["acc50"], "mean_iou": result["mean_iou"]}
    result = evaluate_retrieval(model, made, resamples=1)
    return {"t2i_r1": result["t2i"]["r1"], "i2t_r1": result["i2t"]["r1"]}
