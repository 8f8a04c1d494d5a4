"""`make bench BENCH=train_step`: images a second and MFU of bitgen-train's steps, beside what bounds them and beside open_clip.

coarse_frozen, coarse_thawed, fine   bitgen-train's step before and after the thaw, and of the fine phase (4 texts an image)
bare_forward, bare_forward_backward  the tower alone on the same images: what the two coarse steps are bound by
heads                                the step before the thaw on features that are there already: all but the tower
..._compiled, ..._recomputed         the same with --run.compile, with --run.recompute
open_clip                            a step of its ViT-B/16 from its package, which trains the whole tower and a text tower

The tower has DINOv2-base's shape and random weights, which cost what the published ones do. Every repetition is a process of
its own, in turn; batches are in memory before the time begins, which is after the second step. MFU is by that step's operations,
counted, and the device's peak (`bitgen/training/operations.py`).
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import environments, loader_data, photos, train_step_peer
from tests.benchmarks.features_run import TOWERS
from tests.benchmarks.harness import (
    ROOT,
    Contestant,
    commit,
    in_turn,
    load,
    machine,
    versions,
    write_results,
)
from tests.benchmarks.train_step_run import KINDS, OPEN_CLIP, WARM_STEPS

CONTESTANTS = (
    *KINDS,
    *(f"{name}_compiled" for name in ("coarse_frozen", "coarse_thawed", "bare_forward", "bare_forward_backward")),
    "coarse_thawed_recomputed",
    OPEN_CLIP,
)
PAIRS = {
    "bare_forward": ("coarse_frozen", "bare_forward"),
    "bare_forward_backward": ("coarse_thawed", "bare_forward_backward"),
    "open_clip": ("coarse_thawed", OPEN_CLIP),
    "bare_forward_compiled": ("coarse_frozen_compiled", "bare_forward_compiled"),
    "bare_forward_backward_compiled": ("coarse_thawed_compiled", "bare_forward_backward_compiled"),
    "compiled_frozen": ("coarse_frozen_compiled", "coarse_frozen"),
    "compiled_thawed": ("coarse_thawed_compiled", "coarse_thawed"),
    "recomputed": ("coarse_thawed_recomputed", "coarse_thawed"),
}
SUMS = {
    "sum_of_parts": ("coarse_frozen", "bare_forward"),
    "sum_of_parts_thawed": ("coarse_thawed", "bare_forward_backward"),
}
"""A step, and its tower alone, which with `heads` is all of it."""
Reports = dict[str, list[dict[str, float]]]
Medians = dict[str, dict[str, float]]


def main(arguments: list[str]) -> int:
    """Runs it all and writes `results/train_step.json`, or on an accelerator `train_step_gpu.json`; with another tower than
    `base`, or not all contestants, it prints what it found instead."""
    options = _options(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="train-step-", dir=options.work.absolute()))
    name = "train_step" if options.device == "cpu" else "train_step_gpu"
    results: dict[str, Any] = {
        "bench": name,
        "input": _called(options),
        "processes": 1,
        "repetitions": options.repetitions,
        "threads": "PyTorch's own, the same for all",
        "machine": machine() | _accelerator(options.device),
        "load_before": load(),
        "commit": commit(),
        "versions": versions(["bitgen", "torch", "transformers", "peft"])
        | dict([train_step_peer.REQUIREMENT.split("==")]),
        "documentation": {OPEN_CLIP: train_step_peer.DOCUMENTATION},
    }
    try:
        results |= measure(work, options)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.tower == "base" and set(options.only) == set(CONTESTANTS):
        print(f"written: {write_results(name, results).relative_to(ROOT)}", file=sys.stderr)
    print(json.dumps({name: results[name] for name in ("ratios", "ratios_per_cpu_s", "figures", "medians")}, indent=1))
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench BENCH=train_step", description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=Path, default=ROOT / "manifests/sample", help="JPEG photographs to copy")
    parser.add_argument("--tower", choices=tuple(TOWERS), default="base", help="of which shape (default: base)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--batch", type=int, default=0, help="images of a step (default: 8 on a CPU, else 128)")
    parser.add_argument(
        "--steps", type=int, default=2, help=f"of each repetition, after {WARM_STEPS} that are not timed"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--work", type=Path, default=Path("data/bench"), help="a folder to work in")
    options = parser.parse_args(arguments)
    if options.device == "auto":
        import torch  # here: what is measured is in other processes

        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.batch = options.batch or (8 if options.device == "cpu" else 128)
    return options


def _accelerator(device: str) -> dict[str, str]:
    if device == "cpu":
        return {}
    import torch  # here, as above

    return {"accelerator": torch.cuda.get_device_name()}


def _called(options: argparse.Namespace) -> str:
    width, layers, _ = TOWERS[options.tower]
    return (
        f"Steps of {options.batch} images of 224 x 224 pixels, {options.steps} a repetition, on"
        f" {'a CPU in fp32' if options.device == 'cpu' else 'an accelerator in bf16'}; a random tower {width} wide with"
        f" {layers} layers"
    )


def measure(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Ratios, figures, medians and every repetition."""
    peer = options.work.absolute() / "peers" / OPEN_CLIP
    pythons = (
        {OPEN_CLIP: environments.prepare(peer, [train_step_peer.REQUIREMENT])} if OPEN_CLIP in options.only else {}
    )
    images = [path.read_bytes() for path in photos.find(options.images)]
    count = 2 * options.batch * (WARM_STEPS + options.steps)  # half of them in the phase's own dataset
    loader_data.write(images, work / "data", count, count)
    reports: Reports = {}
    contestants = [
        _contestant(name, pythons.get(name, Path(sys.executable)), work, options, reports) for name in options.only
    ]
    in_turn(contestants, options.repetitions, work / "log.txt")
    medians = {name: median(each, options.batch, options.steps) for name, each in reports.items()}
    return {
        "ratios": ratios(medians, "images_per_s"),
        "ratios_per_cpu_s": ratios(medians, "images_per_cpu_s"),
        "figures": figures(reports),
        "medians": medians,
        "runs": reports,
    }


def _contestant(name: str, python: Path, work: Path, options: argparse.Namespace, reports: Reports) -> Contestant:
    report = work / "report.json"
    command = [str(python), "-m", "tests.benchmarks.train_step_run", name, str(work / "data"), options.tower]

    def check() -> None:
        reports.setdefault(name, []).append(json.loads(report.read_bytes()))
        report.unlink()

    arguments = [str(options.batch), str(options.steps), options.device, str(report)]
    # Compiled once, in the first repetition; what the others find there they would have found after a first run.
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(work / "compiled")}
    return Contestant(name, [[*command, *arguments]], check=check, environment=cache)


def median(reports: Sequence[Mapping[str, float]], batch: int, steps: int) -> dict[str, float]:
    """Of one contestant. `arithmetic_s` and `traffic_s` are what a step takes by its operations and the peak, and by the bytes
    that its operators read and write and the bandwidth, were neither ever in the other's way and no byte ever in a cache; what
    a compiled graph's own kernels touch is not seen."""
    of = {name: statistics.median(report[name] for report in reports) for name in reports[0]}
    step_s = of["wall_s"] / steps
    return {
        "images_per_s": round(batch / step_s, 3),
        "images_per_cpu_s": round(batch * steps / of["cpu_s"], 3),
        "step_s": round(step_s, 3),
        "mfu": round(of["operations"] / of["peak"] / step_s, 3),
        "gflop_per_image": round(of["operations"] / batch / 1e9, 2),
        "arithmetic_s": round(of["operations"] / of["peak"], 3),
        "traffic_s": round(of["bytes"] / of["bandwidth"], 3),
        "memory_mb": round(of["memory_mb"]),
        "step_memory_mb": round(of["memory_mb"] - of["memory_before_mb"]),
    }


def ratios(medians: Mapping[str, Mapping[str, float]], unit: str) -> dict[str, float]:
    """Of those whose contestants were there: ours over theirs, in `unit`; and the time of the parts over the whole's."""
    found = {
        name: medians[ours][unit] / medians[theirs][unit]
        for name, (ours, theirs) in PAIRS.items()
        if ours in medians and theirs in medians
    }
    for name, (step, tower) in SUMS.items():
        if {step, tower, "heads"} <= medians.keys():
            found[name] = medians[step][unit] * (1 / medians[tower][unit] + 1 / medians["heads"][unit])
    return {name: round(value, 3) for name, value in found.items()}


def figures(reports: Reports) -> dict[str, float]:
    """What the machine can do, and how long the first step of a compiled run takes that finds nothing compiled."""
    every = [report for each in reports.values() for report in each]
    found = {
        "peak_gflops": round(statistics.median(report["peak"] for report in every) / 1e9, 1),
        "bandwidth_gb_per_s": round(statistics.median(report["bandwidth"] for report in every) / 1e9, 1),
    }
    for name, each in reports.items():
        if name.startswith("coarse") and name.endswith("_compiled"):
            found[f"first_step_{name}_s"] = round(max(report["first_step_s"] for report in each), 1)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
