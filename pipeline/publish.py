"""What a run shares: its model, the configuration without the paths of this machine, and a model card of its own numbers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitgen.deploy import hub
from bitgen.evaluation.tables import Table, captioning_table, grounding_table, retrieval_table
from bitgen.training.checkpoint import MODEL, STATE, State, read_state
from bitgen.training.config import TrainConfig
from bitgen.training.folders import CONFIG, HOLDOUT
from pipeline.files import read_json
from pipeline.roots import open_root
from pipeline.sets import Sets, lineage, open_sets

CARD = "README.md"
METADATA = """---
library_name: bitgen
license: other
license_name: that-of-the-data
tags:
- vision-language
- image-text-retrieval
- phrase-grounding
---
"""


def published(checkpoint: Path, name: str) -> dict[str, Path | bytes]:
    """The files of repository `name`, by their paths in it, from a checkpoint folder within a run.

    Raises what reading the checkpoint and its datasets raises. A dataset that is not here is said to be missing.
    """
    state = read_state(checkpoint)
    configs = [each.config for each in lineage(state)]
    sets = open_sets(configs, open_root(state.config.data))
    fields = without_paths(json.loads((checkpoint / STATE).read_text(encoding="utf-8")))
    results = read_json(checkpoint.parents[1] / "results.json") or {}
    if results.get("checkpoint") != checkpoint.name:  # measured on another
        results = {}
    tower, validation = fields["config"]["model"]["vision"]["model"], validation_of(checkpoint, state.step)
    text = card(name, state, configs, sets, results, validation, fields["versions"], tower)
    listed = checkpoint.parents[1] / HOLDOUT
    return {
        **({HOLDOUT: listed} if listed.is_file() else {}),
        MODEL: checkpoint / MODEL,
        STATE: _json(fields),
        CONFIG: _json(fields["config"]),
        CARD: text.encode(),
    }


def without_paths(fields: dict[str, Any]) -> dict[str, Any]:
    """A state as JSON has it, with names in place of paths that say where its run was."""
    config = fields["config"]
    config["data"] |= {"root": "data", "cache": "data/cache"}
    init = config["run"]["init"]
    config["run"] |= {"runs": "runs", "init": init if init.startswith("hf://") else Path(init).name}
    vision = config["model"]["vision"]
    if not hub.NAME.fullmatch(vision["model"]) or Path(vision["model"]).is_dir():
        vision["model"] = Path(vision["model"]).name
    return fields


def validation_of(checkpoint: Path, step: int) -> dict[str, float]:
    """What validation found at a step, by name, as the run wrote it down."""
    path = checkpoint.parents[1] / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        values = json.loads(line)
        found = {name.removeprefix("validation_"): v for name, v in values.items() if name.startswith("validation_")}
        if values["step"] == step and found:
            return found
    return {}


def card(
    name: str,
    state: State,
    configs: Sequence[TrainConfig],
    sets: Sets,
    results: Mapping[str, Any],
    validation: Mapping[str, float],
    versions: Mapping[str, str],
    tower: str,
) -> str:
    """The model card, Markdown.

    Args:
        configs: as `lineage` gives them, nearest first.
        results: as `bitgen-eval` wrote them of this very checkpoint; empty where it did not.
        validation: figures while it trained, by name.
        tower: the vision tower's name, without the path of a folder.
    """
    config = state.config
    draws = config.optim.batch * config.optim.accumulation
    phases = " after ".join(f"{each.phase} ({each.optim.epochs} epochs at most)" for each in configs)
    parts = [
        METADATA + f"# {name}",
        f"A vision-language model of BitGen, step {state.step:,} of the run {config.run.name}: phases {phases}.",
        f'```python\nfrom bitgen import BitGen\n\nmodel = BitGen.from_pretrained("{name}")\n```',
        "## Figures",
        *_figures(results, validation, config),
        "## Data",
        _data(configs, sets),
        f"No evaluation image was trained on: the hash of the list of those held out is `{state.holdout_sha256}`."
        + " Datasets built under other lists were allowed, too."
        * any(each.data.allow_other_holdout for each in configs),
        "## Training",
        f"{draws} images of {config.data.image_px} px a step, learning rate {config.optim.lr:g}, seed {config.run.seed}; vision "
        f"tower {tower} ({config.model.vision.mode}). Everything else: `{CONFIG}`. Written by "
        + ", ".join(f"{package} {number}" for package, number in sorted(versions.items()))
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _figures(results: Mapping[str, Any], validation: Mapping[str, float], config: TrainConfig) -> list[str]:
    if results:
        tables = [
            table
            for table in (retrieval_table(results), grounding_table(results), captioning_table(results))
            if table.rows
        ]
        if tables:
            return [*(_markdown(table) for table in tables), *map(str, results["notes"])]
    if validation:
        rows = tuple((what, f"{value:.4f}") for what, value in validation.items())
        said = f"By validation on {', '.join(config.data.validation)} while it trained:"
        return [said, _markdown(Table(("figure", "value"), rows, ()))]
    return ["None: it was neither validated nor evaluated."]


def _data(configs: Sequence[TrainConfig], sets: Sets) -> str:
    rows = [
        (
            dataset,
            ", ".join(each.phase for each in configs if each.data.mixture.get(dataset)),
            f"{index.dataset['samples']:,}",
            str(index.dataset.get("licence") or "none stated"),
        )
        for dataset, index in sets.train.items()
    ]
    rows += [(dataset, "", "", "not known: the dataset is not on the machine that pushed") for dataset in sets.missing]
    return _markdown(Table(("dataset", "phase", "images", "licence of the data"), tuple(rows), ()))


def _markdown(table: Table) -> str:
    lines = [table.header, tuple("---" for _ in table.header), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _json(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode()
