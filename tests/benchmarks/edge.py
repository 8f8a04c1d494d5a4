"""`make bench BENCH=edge`: the exported model on a CPU, beside what the CPU can do and beside the same model in floats.

packed   what `bitgen-export --format onnx --calibrate` leaves, run by `bitgen.deploy.runtime`
fp32     the same model as graphs of floats, in ONNX Runtime
torch    the same model in PyTorch, eagerly
bounds   the fastest product of matrices of bytes and of floats that ONNX Runtime does, and how fast memory is copied

The model has default sizes, a tower of DINOv2-small's shape and random weights, which cost what trained ones do. Every
repetition is a process of its own, in turn, on one thread and on two. An image is encoded alone; a token is the caption's
ninth. Cold start is the time from a process's start to the first token of a photograph's caption, its files in the page cache.

What an image takes at least: the multiplications of bytes at the rate of bytes and those of floats at that of floats
(`bound_ms`), or all of them at the rate of bytes (`all_bytes_ms`); of a token, these or the bytes of its weights at the rate at
which a head's worth of them is copied. With a run of `make bench BENCH=learn` at hand, what each step of an export costs too.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bitgen.deploy.packed import read
from bitgen.tokens import VOCABULARY, shared_tokenizer
from bitgen.training.phases import configure
from cli import export
from tests.benchmarks import photos
from tests.benchmarks.edge_accuracy import accuracy
from tests.benchmarks.edge_count import Work, count
from tests.benchmarks.edge_float import export_floats
from tests.benchmarks.features_run import TOWERS
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
from tests.runs import write_run

CONTESTANTS, THREADS = ("packed", "fp32", "torch", "bounds"), (1, 2)
TRIMMED = 8000
"""Tokens of the trimmed vocabulary."""
IMAGES = ROOT / "manifests/sample"
Reports = dict[str, list[dict[str, float]]]
Medians = dict[str, dict[str, float]]


def main(arguments: list[str]) -> int:
    """Runs it all and writes `results/edge.json`; with another tower than `small` it prints what it found instead."""
    options = _options(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="edge-", dir=options.work.absolute()))
    learned = options.learned or options.work.absolute() / "learn/runs/fine"
    results: dict[str, Any] = {
        "bench": "edge",
        "input": f"A model of default sizes whose tower is {options.tower}, of random weights; {options.images} images and "
        f"{options.tokens} tokens a repetition",
        "processes": 1,
        "repetitions": options.repetitions,
        "threads": "one, and two (_2)",
        "page_cache": "warm for all",
        "machine": machine(),
        "load_before": load(),
        "commit": commit(),
        "versions": versions(["bitgen", "onnxruntime", "torch", "numpy"]),
    }
    try:
        sizes = prepare(work, options.tower)
        results |= measure(work, options, sizes)
        if learned.is_dir():
            results["accuracy"] = accuracy(learned, work / "accuracy")
        else:
            print(f"no accuracy: expected a run of make bench BENCH=learn, found none: {learned}", file=sys.stderr)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.tower == "small":
        print(f"written: {write_results('edge', results).relative_to(ROOT)}", file=sys.stderr)
    print(json.dumps({name: results.get(name) for name in ("ratios", "figures", "medians", "accuracy")}, indent=1))
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench BENCH=edge", description=__doc__, allow_abbrev=False)
    parser.add_argument("--tower", choices=tuple(TOWERS), default="small", help="of which shape (default: small)")
    parser.add_argument("--images", type=int, default=20, help="of each repetition")
    parser.add_argument("--tokens", type=int, default=200, help="of each repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--learned", type=Path, help="run of drawn scenes (default: what BENCH=learn left in WORK)")
    parser.add_argument("--work", type=Path, default=Path("data/bench"), help="a folder to work in")
    return parser.parse_args(arguments)


def prepare(work: Path, tower: str, image_px: int = 224, calibration_images: int = 8) -> dict[str, float]:
    """Leaves in `work` what `edge_run` measures: photo.jpg, and the same model as packed/, fp16/ (which PyTorch reads) and fp32/.

    Returns megabytes (10^6) of the package with all tokens and with few, and of the graphs of floats.
    """
    width, layers, heads = TOWERS[tower]
    base = configure("fine", "base")
    shape = {"random_width": width, "random_layers": layers, "random_heads": heads}
    vision = replace(base.model.vision, weights="random", **shape)
    config = replace(
        base,
        data=replace(base.data, image_px=image_px),
        model=replace(base.model, vision=vision),
        run=replace(base.run, name=tower, runs=str(work)),
    )
    run = write_run(config)
    (work / "corpus").write_text("\n".join(corpus(TRIMMED)), encoding="utf-8")
    images = ["--calibrate", str(IMAGES), "--calibration-images", str(calibration_images)]
    exports = {
        "packed": ["--format", "onnx", *images],
        "trimmed": ["--format", "onnx", *images, "--trim-vocab", str(work / "corpus")],
        "fp16": [],
    }
    for name, flags in exports.items():
        if export.main([str(run), "--out", str(work / name), "--weight-bits", "8", *flags]) != 0:
            raise BenchError(f"expected bitgen-export to end with 0: {name}")
    export_floats(read(work / "fp16"), work / "fp32")
    shutil.copy(photos.find(IMAGES)[0], work / "photo.jpg")
    kinds = {"packed": "package_mb", "trimmed": "package_mb_trimmed", "fp32": "fp32_mb"}
    return {name: _size_mb(work / folder) for folder, name in kinds.items()}


def corpus(tokens: int) -> list[str]:
    """Words, the most frequent of GPT-2's first, as many as use so many of its tokens."""
    tokenizer, used, words = shared_tokenizer(), set[int](), list[str]()
    for token in range(VOCABULARY):
        word = tokenizer.decode([token]).strip()
        if len(used) < tokens and word.isalpha():
            used |= {*tokenizer.ids(word), *tokenizer.ids(f" {word}")}
            words.append(word)
    return words


def measure(work: Path, options: argparse.Namespace, sizes: Mapping[str, float]) -> dict[str, Any]:
    """Ratios, figures, medians, spreads, the profile, and every repetition."""
    reports: Reports = {}
    log = work / "log.txt"
    contestants = [_contestant(kind, threads, work, options, reports) for threads in THREADS for kind in CONTESTANTS]
    in_turn(contestants, options.repetitions, log, uncounted=1)
    counted = {name: each[1:] for name, each in reports.items()}  # the first round filled the page cache
    timed(_contestant("profile", 1, work, options, reports), log)
    profile = {kind: round(ms, 3) for kind, ms in reports["profile"][0].items()}
    return {**summary(counted, count(read(work / "packed")), sizes), "profile": profile, "runs": counted}


def _contestant(kind: str, threads: int, work: Path, options: argparse.Namespace, reports: Reports) -> Contestant:
    report = work / "report.json"
    command = [sys.executable, "-m", "tests.benchmarks.edge_run", kind, str(work), str(threads)]
    name = kind if threads == 1 else f"{kind}_{threads}"

    def check() -> None:
        reports.setdefault(name, []).append(json.loads(report.read_bytes()))
        report.unlink()

    return Contestant(name, [[*command, str(options.images), str(options.tokens), str(report)]], check=check)


def summary(reports: Reports, work: Mapping[str, Work], sizes: Mapping[str, float]) -> dict[str, Any]:
    """`ratios` (ours over theirs in images a second, and of what the machine can do), `figures`, `medians` and `spread`."""
    medians = {
        name: {k: round(statistics.median(r[k] for r in each), 3) for k in each[0]} for name, each in reports.items()
    }
    spread = {
        name: {k: [round(min(r[k] for r in each), 3), round(max(r[k] for r in each), 3)] for k in each[0]}
        for name, each in reports.items()
    }
    least = {suffix: bounds(medians[f"bounds{suffix}"], work) for suffix in suffixes(medians)}
    ratios = {}
    for suffix, bound in least.items():
        ours = medians[f"packed{suffix}"]
        ratios |= {
            f"fp32{suffix}": medians[f"fp32{suffix}"]["image_ms"] / ours["image_ms"],
            f"torch{suffix}": medians[f"torch{suffix}"]["image_ms"] / ours["image_ms"],
            f"int8_bound{suffix}": bound["bound_ms"] / ours["image_ms"],
            f"all_bytes_bound{suffix}": bound["all_bytes_ms"] / ours["image_ms"],
            f"token_fp32{suffix}": medians[f"fp32{suffix}"]["token_ms"] / ours["token_ms"],
            f"token_torch{suffix}": medians[f"torch{suffix}"]["token_ms"] / ours["token_ms"],
            f"token_bound{suffix}": bound["token_ms"] / ours["token_ms"],
        }
    ours = medians["packed"]
    figures = {name: ours[name] for name in ("cold_s", "image_ms", "token_ms", "memory_mb")}
    return {
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()} | dict(sizes),
        "figures": figures,
        "medians": medians,
        "spread": spread,
        "bounds": least,
        "work": {name: asdict(each) for name, each in work.items()},
    }


def suffixes(medians: Mapping[str, object]) -> Sequence[str]:
    """Of the names of those on one thread, and on more."""
    return [name.removeprefix("packed") for name in medians if name.startswith("packed")]


def bounds(machine: Mapping[str, float], work: Mapping[str, Work]) -> dict[str, float]:
    """The least milliseconds of an image and of a token."""
    byte_s, float_s, memory_s = (1 / (1e9 * machine[name]) for name in ("byte_peak", "float_peak", "cache_gb_per_s"))
    image, token = work["image"], work["token"]
    mixed = {k: each.byte_products * byte_s + each.float_products * float_s for k, each in work.items()}
    least_s = {
        "bound_ms": max(mixed["image"], image.weight_bytes * memory_s),
        "all_bytes_ms": max((image.byte_products + image.float_products) * byte_s, image.weight_bytes * memory_s),
        "token_ms": max(mixed["token"], token.weight_bytes * memory_s),
    }
    return {name: round(1e3 * least, 4) for name, least in least_s.items()}


def _size_mb(folder: Path) -> float:
    paths = [path for path in folder.iterdir() if path.suffix in (".onnx", ".safetensors")]
    return round(sum(path.stat().st_size for path in paths) / 1e6, 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
