"""How many cores keep a GPU fed: by arithmetic, from what was recorded of training steps and of the loader."""

from collections.abc import Iterator, Mapping
from typing import Any

from bitgen.training.operations import TFLOPS

STEPS = {
    "coarse_frozen": "coarse, before the thaw",
    "coarse_thawed": "coarse, after the thaw",
    "fine": "fine, 4 texts an image",
}
GPUS = ("A100", "H200")
UTILISATIONS = (0.4, 1.0)
"""What a well-kept trainer reaches (Source: arXiv 2204.02311, table 3: 0.46), and what none can pass."""


def cores(gflop_per_image: float, cpu_ms_per_image: float, tflops: float, utilisation: float) -> tuple[float, float]:
    """Images a second that a GPU takes at a utilisation of its peak, and cores that decode as many."""
    images_per_s = 1e3 * tflops * utilisation / gflop_per_image
    return images_per_s, images_per_s * cpu_ms_per_image / 1e3


def lines(train_step: Mapping[str, Any], loader: Mapping[str, Any]) -> Iterator[str]:
    """A section of Markdown, line by line, of `results/train_step.json` and `results/loader.json`."""
    cpu_ms = loader["medians"]["ours"]["cpu_ms_per_image"]
    yield "## what keeps a GPU fed"
    yield ""
    yield (
        f"By arithmetic, measured on no GPU: a step of DINOv2-base takes the operations that were counted for `train_step`, a"
        f" GPU does as many a second as its data sheet says (`bitgen/training/operations.py`), and the loader takes {cpu_ms} ms"
        f" of one core of the machine of `loader` for one of its photographs. With more cores than stand here, and one or two"
        f" for the trainer itself, a step has its batch when it wants it."
    )
    yield ""
    wide = [(gpu, share) for gpu in GPUS for share in UTILISATIONS]
    heads = " | ".join(f"{gpu} at MFU {share}: images/s | cores" for gpu, share in wide)
    yield f"| step | GFLOP an image | {heads} |"
    yield f"|{'---|' * (2 + 2 * len(wide))}"
    for name, what in STEPS.items():
        gflop = train_step["medians"][name]["gflop_per_image"]
        found = [cores(gflop, cpu_ms, TFLOPS[gpu], share) for gpu, share in wide]
        said = " | ".join(f"{images:,.0f} | {count:.1f}" for images, count in found)
        yield f"| {what} | {gflop} | {said} |"
    yield ""
