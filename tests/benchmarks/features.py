"""`make bench BENCH=features`: the LoRA warm-up on stored features, beside the same steps on images and on features in memory.

uncached   bitgen-train's step before the thaw: images are read, decoded, resized and seen by the tower
cached     the same with --cache-features: int8 features are read
constant   the same on batches made before the time, all with one tensor of features in memory: what `cached` is bound by

All see whole images. The tower has DINOv2-base's shape and random weights, which cost what the published ones do; the rest of
the model, its losses and the texts an image are those of the coarse phase. Features are stored once, before the first
repetition. Every repetition is a process of its own, in turn; its time begins after its first step.
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

from tests.benchmarks import loader_data, photos
from tests.benchmarks.features_run import TOWERS, WARM_STEPS
from tests.benchmarks.harness import (
    ROOT,
    BenchError,
    Contestant,
    commit,
    in_turn,
    load,
    machine,
    timed,
    versions,
    write_results,
)

CONTESTANTS = ("uncached", "cached", "constant")
PAIRS = {"uncached": ("cached", "uncached"), "cached_bound": ("cached", "constant")}
_SAME_LOSS = 0.01
"""Share that the first step's losses of `cached` and `uncached` may differ by: they see the same images."""
Reports = dict[str, list[dict[str, float]]]


def main(arguments: list[str]) -> int:
    """Runs it all and writes `results/features.json`; with another tower than `base` it prints what it found instead."""
    options = _options(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="features-", dir=options.work.absolute()))
    results: dict[str, Any] = {
        "bench": "features",
        "input": _called(options),
        "processes": machine()["cores"],
        "repetitions": options.repetitions,
        "page_cache": "warm for all: every file is read once before the first repetition",
        "threads": "PyTorch's own for the step, and a worker process a core that reads",
        "machine": machine(),
        "load_before": load(),
        "commit": commit(),
        "versions": versions(["bitgen", "torch", "transformers", "peft", "numpy", "simplejpeg"]),
    }
    try:
        results |= measure(work, options)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.tower == "base":
        print(f"written: {write_results('features', results).relative_to(ROOT)}", file=sys.stderr)
    print(json.dumps({name: results[name] for name in ("ratios", "ratios_per_cpu_s", "figures", "medians")}, indent=1))
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench BENCH=features", description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=Path, default=ROOT / "manifests/sample", help="JPEG photographs to copy")
    parser.add_argument("--called", default="", help="what they are, as the results say it")
    parser.add_argument("--tower", choices=tuple(TOWERS), default="base", help="of which shape (default: base)")
    parser.add_argument("--count", type=int, default=64, help="photographs that features are stored of")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--steps", type=int, default=3, help=f"of each repetition, after {WARM_STEPS} that is not timed"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("data/bench"), help="a folder to work in")
    return parser.parse_args(arguments)


def _called(options: argparse.Namespace) -> str:
    name = options.called or ("the embedded sample's" if options.images == ROOT / "manifests/sample" else "own")
    width, layers, _ = TOWERS[options.tower]
    return (
        f"{options.count} copies of {name} photographs, five captions each; steps of {options.batch} images,"
        f" {options.steps} a repetition; a random tower {width} wide with {layers} layers"
    )


def measure(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Ratios, figures, medians and every repetition."""
    images = [path.read_bytes() for path in photos.find(options.images)]
    loader_data.write(
        images, work / "data", 2 * options.count, -(-options.count // 2)
    )  # the second half is of no use here
    reports: Reports = {}
    log = work / "log.txt"
    timed(_contestant("make", work, options, reports), log)
    photos.warm(work / "data")
    in_turn([_contestant(name, work, options, reports) for name in CONTESTANTS], options.repetitions, log)
    _check_alike(reports)
    made, stored = reports.pop("make")[0], sum(p.stat().st_size for p in work.glob("data/features/**/*.tar"))
    medians = {name: _median(each, options.steps * options.batch) for name, each in reports.items()}
    return {
        "ratios": ratios(medians, "images_per_s"),
        "ratios_per_cpu_s": ratios(medians, "images_per_cpu_s"),
        "figures": {
            "stored_kb_per_image": round(stored / options.count / 1e3, 1),
            "made_images_per_s": round(options.count / made["wall_s"], 2),
        },
        "medians": medians,
        "runs": reports,
    }


def _contestant(name: str, work: Path, options: argparse.Namespace, reports: Reports) -> Contestant:
    report = work / "report.json"
    command = [sys.executable, "-m", "tests.benchmarks.features_run", name, str(work / "data"), options.tower]

    def check() -> None:
        reports.setdefault(name, []).append(json.loads(report.read_bytes()))
        report.unlink()

    return Contestant(name, [[*command, str(options.batch), str(options.steps), str(report)]], check=check)


def _check_alike(reports: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Raises `BenchError` unless the first step's loss is the same whatever it was read from."""
    images, stored = (reports[name][0]["first_loss"] for name in ("uncached", "cached"))
    if abs(stored - images) > _SAME_LOSS * images:
        raise BenchError(f"expected a first loss of {images:.4f} within {_SAME_LOSS:.0%}, found {stored:.4f}")


def _median(reports: Sequence[Mapping[str, float]], images: int) -> dict[str, float]:
    wall_s, used_s = (statistics.median(report[name] for report in reports) for name in ("wall_s", "cpu_s"))
    return {
        "images_per_s": round(images / wall_s, 3),
        "images_per_cpu_s": round(images / used_s, 3),
        "wall_s": round(wall_s, 3),
        "first_loss": round(reports[0]["first_loss"], 4),
    }


def ratios(medians: Mapping[str, Mapping[str, float]], unit: str) -> dict[str, float]:
    """Of `cached` over the others, in `unit`."""
    return {name: round(medians[ours][unit] / medians[theirs][unit], 3) for name, (ours, theirs) in PAIRS.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
