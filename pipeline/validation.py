"""What a run validates on while it trains: the sets that its configuration names, measured as `bitgen-eval` measures."""

import numpy as np

from bitgen.evaluation.grounding import evaluate_grounding
from bitgen.evaluation.retrieval import evaluate_retrieval
from bitgen.model.bitgen import BitGen
from bitgen.training.config import ConfigError, TrainConfig
from bitgen.training.loop import Validate
from pipeline.results import batches
from pipeline.roots import open_root
from shards.format import NoDatasetError
from shards.index import ShardIndex
from shards.root import Root

BATCH = 64
"""Images at a time."""


def validator(config: TrainConfig, model: BitGen, holdout_sha256: str, root: Root | None = None) -> Validate | None:
    """The function that `train` calls to validate; None where the configuration asks for no validation.

    In the coarse phase the figure that decides is the mean of recall@1 both ways, in the fine phase grounding accuracy at IoU
    0.5, each the mean over the sets. Raises `ConfigError` where a set is not built, was not held out, or was built under other
    hold-out lists than the training shards (`holdout_sha256`); what opening one raises comes through.
    """
    if not config.run.validate_every or not config.data.validation:
        return None
    root = root or open_root(config.data)
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

    def validate() -> tuple[float, dict[str, float]]:
        found = [_measure(config, model, index) for index in indexes.values()]
        means = {name: float(np.mean([values[name] for values in found])) for name in found[0]}
        figure = means["acc50"] if config.phase == "fine" else (means["t2i_r1"] + means["i2t_r1"]) / 2
        return figure, means

    return validate


def _measure(config: TrainConfig, model: BitGen, index: ShardIndex) -> dict[str, float]:
    data = config.data
    made = batches(index, range(len(index)), data.image_px, data.max_tokens, BATCH)
    if config.phase == "fine":
        result = evaluate_grounding(model, made, seed=config.run.seed)
        return {"acc50": result["acc50"], "mean_iou": result["mean_iou"]}
    result = evaluate_retrieval(model, made)
    return {"t2i_r1": result["t2i"]["r1"], "i2t_r1": result["i2t"]["r1"]}
