"""Which folder is a run: `runs/NAME`, or one of the two that `--phase both` leaves in it.

runs/NAME/config.json, metrics.jsonl, checkpoints/           a run
runs/NAME/holdout.txt                                        the evaluation images that its data leave out, where known
runs/NAME/shown/step-00001200.html                           what the model made of some samples, where that is asked for
runs/NAME/coarse/, runs/NAME/fine/                           two runs in a row, the second from the first
runs/NAME/checkpoints/best, last                             small files that name a checkpoint; the names work as paths
"""

import json
from pathlib import Path

CHECKPOINTS, CONFIG, SHOWN, HOLDOUT = "checkpoints", "config.json", "shown", "holdout.txt"
BEST, LAST = "best", "last"
STAGES = ("coarse", "fine")


def is_pair(folder: Path) -> bool:
    """Whether the folder holds the two runs of `--phase both`; not, when it holds all runs and two of them are called so."""
    return all(_is_within_another(folder / stage) for stage in STAGES)


def latest_run(folder: Path) -> Path:
    """The run of a pair that came further: the fine one once it has a checkpoint. Any other folder means itself."""
    if not is_pair(folder):
        return folder
    coarse, fine = (folder / stage for stage in STAGES)
    return fine if any(fine.glob(f"{CHECKPOINTS}/step-*")) else coarse


def _is_within_another(run: Path) -> bool:
    try:
        name = json.loads((run / CONFIG).read_text(encoding="utf-8"))["run"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return isinstance(name, str) and name.endswith(f"/{run.name}")
