"""A trained tower as a folder that a DINOv2 is loaded from: `python -m tests.benchmarks.stock_folder RUN FOLDER`.

What `--model.vision.model FOLDER` then loads is config.json and model.safetensors as transformers writes them.
"""

import sys
from pathlib import Path

from bitgen.training.checkpoint import load_model
from tests.benchmarks.harness import BenchError


def write(run: Path, folder: Path) -> None:
    """Writes the tower of a run, or of a checkpoint folder, to `folder`.

    Raises `BenchError` where adapters lie on it: what they add is no part of the folder.
    """
    tower = load_model(run)[0].vision
    if tower.mode != "full":
        raise BenchError(f"expected a tower trained in mode full, found {tower.mode}: {run}")
    tower.backbone.save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
