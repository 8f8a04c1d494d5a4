"""What each step of an export costs a trained model: what `bitgen-eval --compare CKPT EXPORT` says of each, in one table.

Of the drawn world that `make bench BENCH=learn` trains on. The checkpoint in PyTorch stands first; each export is the one before it
and one step more. All are asked the same phrases, captions and images, by the code that checkpoints are asked by, and what differs
from the checkpoint has an interval by the paired bootstrap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitgen.training.checkpoint import find, read_state
from cli import export
from pipeline.comparing import compared
from pipeline.measuring import Beside
from pipeline.ready import Choice, prepare
from pipeline.results import evaluate
from tests.benchmarks.harness import BenchError

PHRASES, SCENES = "eval/shapes-grounded-test", "eval/shapes-test"
ASKED: Mapping[str, tuple[str, str, str]] = {
    "grounding_acc50": (PHRASES, "grounding", "acc50"),
    "grounding_mean_iou": (PHRASES, "grounding", "mean_iou"),
    "retrieval_t2i_r1": (SCENES, "t2i", "r1"),
    "retrieval_i2t_r1": (SCENES, "i2t", "r1"),
    "caption_cider_d": (SCENES, "captioning", "cider_d"),
}
"""By name: set, kind of items, and figure."""
CHECKPOINT = "PyTorch, fp32"
CAPTION_TOKENS = 64


def steps(training: Path, corpora: Path) -> dict[str, list[str]]:
    """Flags of `bitgen-export`, by what each step is.

    Args:
        training: the dataset whose images decide the tower's ranges; corpora: the folder whose shards/ decide the vocabulary.
    """
    calibrated, narrow = ["--calibrate", str(training)], ["--weight-bits", "7"]
    return {
        "packed, tower in fp16": ["--weight-bits", "8"],
        "tower in int8": [*calibrated, "--weight-bits", "8"],
        "weights in 7 bits": [*calibrated, *narrow],
        "vocabulary trimmed": [*calibrated, *narrow, "--trim-vocab", str(corpora)],
    }


def accuracy(run: Path, work: Path, asked: Mapping[str, tuple[str, str, str]] = ASKED) -> list[dict[str, Any]]:
    """One entry a step, the checkpoint's first: {"step", "mb", "figures": {NAME: {"value", "difference", "interval"}}}.

    Differences are from the checkpoint. Raises `BenchError` where an export fails or a figure is missing.
    """
    data = read_state(find(run)).config.data
    training = Path(data.root) / "shards" / next(name for name, weight in data.mixture.items() if weight)
    models, sizes = {CHECKPOINT: str(run)}, {CHECKPOINT: _size_mb([find(run) / "model.safetensors"])}
    for number, (step, flags) in enumerate(steps(training, Path(data.root)).items()):
        folder = work / f"step-{number}"
        if export.main([str(run), "--format", "onnx", "--out", str(folder), *flags]) != 0:
            raise BenchError(f"expected bitgen-export to end with 0: {step}")
        models[step], sizes[step] = str(folder), _size_mb([folder / "model.safetensors", *folder.glob("*.onnx")])
    found = {step: _items(model, {name for name, *_ in asked.values()}) for step, model in models.items()}
    entries = []
    for step, items in found.items():
        both = compared(found[CHECKPOINT].items, items.items, 0)
        figures = {name: both[dataset][kind]["figures"][figure] for name, (dataset, kind, figure) in asked.items()}
        entries.append({"step": step, "mb": sizes[step], "figures": {k: _rounded(v) for k, v in figures.items()}})
    return entries


def _items(model: str, sets: set[str]) -> Beside:
    """What a model scores on each item of some sets."""
    tasks = ("retrieval", "grounding", "captioning")
    choice = Choice(tasks=tasks, splits=("heldout",), caption_tokens=CAPTION_TOKENS, java=False)
    ready, beside = prepare(model, None, choice), Beside()
    if missing := sets - ready.sets.heldout.keys():
        raise BenchError(f"expected the drawn world's sets, found no {', '.join(sorted(missing))}")
    heldout = {name: index for name, index in ready.sets.heldout.items() if name in sets}
    evaluate(replace(ready, sets=replace(ready.sets, heldout=heldout)), choice, beside)
    return beside


def _rounded(figure: Mapping[str, Any]) -> dict[str, Any]:
    ends = [round(end, 4) for end in figure.get("interval", ())]
    return {"value": round(figure["b"], 4), "difference": round(figure["difference"], 4), "interval": ends}


def _size_mb(paths: Sequence[Path]) -> float:
    return round(sum(path.stat().st_size for path in paths) / 1e6, 2)
