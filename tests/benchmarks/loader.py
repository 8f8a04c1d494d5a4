"""`make bench BENCH=loader`: our loader against others over the same photographs, and what it costs at 5,000,000 samples.

rates   one epoch each, every repetition in a process of its own, in turn: ours with boxes, four texts an image, two
        sources mixed and exact order; five others as documented, and with our decoder; the decoder alone
memory  one more epoch each, watched: looking costs time, so it is no part of the rates
scale   our loader over an index of 10 thousand, 1 million and 5 million samples, whose shards are hard links

Peers are installed below WORK/peers, each in an environment of its own, and read the same tars, or the same JPEGs
written in their own format outside the time (`loader_peers.py`). Every file is in the page cache. Rates are images over
the seconds from just before a loader is constructed to its last batch; imports are reported apart.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests import memory
from tests.benchmarks import environments, loader_data, loader_scale, photos
from tests.benchmarks.harness import (
    ROOT,
    BenchError,
    Contestant,
    commit,
    in_turn,
    load,
    machine,
    versions,
    write_results,
)
from tests.benchmarks.loader_peers import PEERS
from tests.benchmarks.loader_run import OUR_DECODE
from tests.benchmarks.loader_terms import BATCH, pixel_error

SCALES = {"10k": 10_000, "1m": 1_000_000, "5m": 5_000_000}
BARE = ("bare_threads", "bare_processes")
ALONE = ("ours", *BARE, "decode_only")
PER_SHARD_AT_SCALE = 1024
_PIXEL_PHOTOS = 200
_SAME_PIXELS = 1.0
"""Grey levels that contestants' means may differ by: they see the same images."""
Medians = dict[str, dict[str, float | None]]


def main(arguments: list[str]) -> int:
    """Runs it all and writes `results/loader.json`; with `--peers` or `--parts` it prints what it found instead."""
    options = _options(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    pythons = {
        name: environments.prepare(options.work.absolute() / "peers" / name, [PEERS[name].requirement])
        if PEERS[name].requirement
        else Path(sys.executable)
        for name in options.peers
    }
    work = Path(tempfile.mkdtemp(prefix="loader-", dir=options.work.absolute()))
    found = photos.find(options.images)
    images = [photos.shrink(path.read_bytes(), options.longer_side or 1 << 16) for path in found]
    results: dict[str, Any] = {
        "bench": "loader",
        "input": _called(options, images),
        "processes": options.workers,
        "repetitions": options.repetitions,
        "page_cache": "warm for all: every file is read once before the first repetition",
        "threads": "as many decoding threads or worker processes for each; PyTorch's and every package's own settings",
        "machine": machine(),
        "load_before": load(),
        "commit": commit(),
        "versions": versions(["bitgen", *environments.FIXED, "numpy"])
        | {requirement: version for peer in options.peers for requirement, version in _version(peer)},
        "documentation": {name: PEERS[name].documentation for name in options.peers},
        "ratios": {},
        "ratios_per_cpu_s": {},
        "figures": {},
        "medians": {},
        "runs": {},
    }
    try:
        if "rates" in options.parts:
            _merge(results, _rates(work / "rates", images, pythons, options))
        if "scale" in options.parts:
            _merge(results, _scale(work / "scale", images, options))
        results["ratios"]["pixel_error"] = round(pixel_error(images[:_PIXEL_PHOTOS]), 5)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if set(options.peers) == set(PEERS) and set(options.parts) == {"rates", "scale"}:
        print(f"written: {write_results('loader', results).relative_to(ROOT)}", file=sys.stderr)
    print(json.dumps({name: results[name] for name in ("ratios", "ratios_per_cpu_s", "figures", "medians")}, indent=1))
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench BENCH=loader", description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=Path, default=ROOT / "manifests/sample", help="JPEG photographs to copy")
    parser.add_argument("--called", default="", help="what they are, as the results say it")
    parser.add_argument("--longer-side", type=int, default=0, help="shrink them to so many pixels, JPEG quality 90")
    parser.add_argument("--count", type=int, default=16384, help="photographs of an epoch, rounded up to whole batches")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--workers", type=int, default=machine()["cores"], help="threads or processes of each loader")
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=list(PEERS))
    parser.add_argument("--parts", nargs="+", choices=("rates", "scale"), default=["rates", "scale"])
    parser.add_argument("--work", type=Path, default=Path("data/bench"), help="a folder to work in")
    options = parser.parse_args(arguments)
    options.count = -(-options.count // BATCH) * BATCH
    return options


def _called(options: argparse.Namespace, images: Sequence[bytes]) -> str:
    mean_kb = sum(map(len, images)) / len(images) / 1e3
    name = options.called or ("the embedded sample's" if options.images == ROOT / "manifests/sample" else "own")
    shrunk = f", at most {options.longer_side} px" if options.longer_side else ""
    return (
        f"{len(images)} {name} photographs{shrunk}, {mean_kb:.0f} KB on average, copied to {options.count:,}, distinct by"
        f" a comment in each; batches of {BATCH}"
    )


def _version(peer: str) -> list[tuple[str, str]]:
    package, _, version = PEERS[peer].requirement.partition("==")
    return [(package, version)] if package else []


def _merge(results: dict[str, Any], found: Mapping[str, Mapping[str, Any]]) -> None:
    for section, entries in found.items():
        results[section] |= entries


def _rates(
    work: Path, images: Sequence[bytes], pythons: Mapping[str, Path], options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    per_shard = max(1, options.count // 16)  # 8 shards a source, so that two workers have the same number
    loader_data.write(images, work, options.count, per_shard)
    log = work / "log.txt"
    for name, python in pythons.items():
        if PEERS[name].convert is not None:
            _call([str(python), "-m", "tests.benchmarks.loader_peers", name, str(work)], log)
    photos.warm(work)
    reports: dict[str, list[dict[str, Any]]] = {}
    contestants = [_contestant(name, Path(sys.executable), work, options, reports) for name in ALONE]
    for name, python in pythons.items():
        contestants += [_contestant(each, python, work, options, reports) for each in (name, f"{name}{OUR_DECODE}")]
    in_turn(contestants, options.repetitions, log)
    _check_alike(reports)
    watched = {each.name: memory.together(each.commands[0], log, each.environment) for each in contestants}
    medians = {name: _median(each, options.count) | watched[name] for name, each in reports.items()}
    return {
        "ratios": ratios(medians, "images_per_s"),
        "ratios_per_cpu_s": ratios(medians, "cpu_ms_per_image"),
        "figures": figures(medians),
        "medians": medians,
        "runs": reports,
    }


def _contestant(
    name: str, python: Path, work: Path, options: argparse.Namespace, reports: dict[str, list[dict[str, Any]]]
) -> Contestant:
    report = work / "report.json"
    command = [str(python), "-m", "tests.benchmarks.loader_run", name, str(work)]

    def check() -> None:
        reports.setdefault(name, []).append(json.loads(report.read_bytes()))
        report.unlink()

    # Nothing here is to be fetched, and nothing to be asked for over the network.
    environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return Contestant(
        name, [[*command, str(options.count), str(options.workers), str(report)]], check=check, environment=environment
    )


def _call(command: Sequence[str], log: Path) -> None:
    print(f"converting: {command[3]}", file=sys.stderr, flush=True)
    with log.open("wb") as file:
        code = subprocess.run(command, cwd=ROOT, check=False, stdout=file, stderr=file).returncode
    if code != 0:
        raise BenchError(f"expected {command} to end with 0, found {code}: {log.read_text(errors='replace')[-2000:]}")


def _check_alike(reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Raises `BenchError` unless all saw the same images through the same versions of what decodes them."""
    wanted = reports["ours"][0]
    for name, each in reports.items():
        for report in each:
            packages = {package: report["versions"][package] for package in environments.FIXED}
            if packages != {package: wanted["versions"][package] for package in environments.FIXED}:
                raise BenchError(
                    f"expected the versions that ours has of {environments.FIXED}, found {packages}: {name}"
                )
            mean = report["pixel_mean"]
            if mean is not None and abs(mean - wanted["pixel_mean"]) > _SAME_PIXELS:
                raise BenchError(f"expected pixels of {wanted['pixel_mean']:.2f} on average, found {mean:.2f}: {name}")


def _median(reports: Sequence[Mapping[str, Any]], count: int) -> dict[str, float | None]:
    """Of every figure for itself."""

    def middle(name: str) -> float:
        return statistics.median(report[name] for report in reports)

    return {
        "images_per_s": round(count / middle("epoch_s"), 1),
        "epoch_s": round(middle("epoch_s"), 3),
        "first_batch_s": None if reports[0]["first_batch_s"] is None else round(middle("first_batch_s"), 3),
        "imports_s": round(middle("imports_s"), 3),
        "imports_mb": round(middle("imports_mb"), 1),
        "cpu_ms_per_image": round(1e3 * middle("cpu_s") / count, 4),
    }


def ratios(medians: Medians, unit: str) -> dict[str, float]:
    """Of ours over theirs: in `unit` images_per_s, or in images per CPU second where it is cpu_ms_per_image, which tells
    the same of a machine that others use too. The bare decoder runs in threads or processes, whichever is faster."""

    def rate(name: str) -> float:
        found = medians[name][unit] or 0.0
        return 1e3 / found if unit == "cpu_ms_per_image" else found

    documented = [rate(name) for name in PEERS if name in medians]
    our_decode = [rate(f"{name}{OUR_DECODE}") for name in PEERS if name in medians]
    theirs = {"webdataset_readme": rate("webdataset")} if "webdataset" in medians else {}
    if documented:
        theirs |= {"best_peer": max(documented), "best_peer_our_decode": max(our_decode)}
    theirs["bare_decode"] = max(rate(name) for name in BARE)
    return {name: round(rate("ours") / their, 3) for name, their in theirs.items()}


def figures(medians: Medians) -> dict[str, float | None]:
    """Of ours, and the least memory of any peer."""
    peers = [name for name in medians if name.removesuffix(OUR_DECODE) in PEERS]
    found = {"first_batch_s": medians["ours"]["first_batch_s"]}
    for kind in ("private_mb", "unshared_mb", "proportional_mb"):
        found[kind] = medians["ours"][kind]
        found[f"{kind}_least_peer"] = min((medians[name][kind] or 0.0 for name in peers), default=None)
    return found


def _scale(work: Path, images: Sequence[bytes], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    loader_data.write(images, work / "real", 4 * PER_SHARD_AT_SCALE, PER_SHARD_AT_SCALE)
    for name, samples in SCALES.items():
        loader_scale.repeat(work / "real", work / name, samples)
    photos.warm(work / "real/shards")
    for path in work.rglob("index.arrow"):
        path.read_bytes()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SCALES}
    for _ in range(options.repetitions):
        for name in SCALES:
            command = [sys.executable, "-m", "tests.benchmarks.loader_scale", str(work / name), str(options.workers)]
            found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            runs[name].append(json.loads(found.stdout))
            print(f"{name} samples: {runs[name][-1]}", file=sys.stderr, flush=True)
    middle = {
        name: {key: statistics.median(run[key] for run in each) for key in each[0]} for name, each in runs.items()
    }
    figures = {f"{_named(key, name)}": round(value, 3) for name, each in middle.items() for key, value in each.items()}
    return {"figures": figures, "runs": {f"scale_{name}": each for name, each in runs.items()}}


def _named(key: str, scale: str) -> str:
    """`first_batch_5m_s` of `first_batch_s`, `us_per_sample_5m` of `us_per_sample`."""
    return f"{key[:-2]}_{scale}_s" if key.endswith("_s") else f"{key}_{scale}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
