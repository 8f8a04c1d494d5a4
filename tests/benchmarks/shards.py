"""`make bench BENCH=shards`: building, crawling and opening an index, against what others would do on the same files.

build   the same photographs through bitgen-shards, webdataset's own writer with the same checks, a bare JPEG decode,
        and with `--check header` against plain tar; as many processes for each that can have them
crawl   one list of URLs of a local server through our crawl and img2dataset's, over HTTP and over TLS
index   5,000,000 samples, opened in fresh processes

All files are in the page cache before the first repetition, and what is written counts when it is on disk.
"""

import argparse
import io
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards.index import INDEX
from tests.benchmarks import index_size, photos, web
from tests.benchmarks.harness import (
    ROOT,
    BenchError,
    Contestant,
    Run,
    as_lists,
    commit,
    in_turn,
    load,
    machine,
    median,
    timed,
    versions,
    write_results,
)

PARTS = ("build", "crawl", "index")
PER_SHARD = 1000
BITGEN_SHARDS = (sys.executable, "-m", "cli.build_shards")
MANIFEST = """name = "bench"
licence = "CC BY"

[[source]]
name = "bench"
phase = "coarse"
role = "train"
split = "train"
reader = "coco"
annotations = ["captions.json"]
images = ["photos"]
samples_per_shard = {per_shard}
"""


def main(arguments: list[str]) -> int:
    """Runs it all and writes `results/shards.json`; `--parts` runs some of it and prints what it found."""
    options = _options(arguments)
    work = Path(options.work).absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "build": lambda: _build(work / "build", options),
        "crawl": lambda: _crawl(work / "crawl", options),
        "index": lambda: _index(work / "index"),
    }
    results: dict[str, Any] = {
        "bench": "shards",
        "input": options.called,
        "processes": options.processes,
        "repetitions": options.repetitions,
        "page_cache": "warm for all: every file is read once before the first repetition",
        "disk": "what is written counts when it is on disk: a sync is part of every contestant's time",
        "machine": machine(),
        "load_before": load(),
        "commit": commit(),
        "versions": versions(["bitgen", "webdataset", "img2dataset", "simplejpeg", "pillow", "pyarrow"]),
        "ratios": {},
        "ratios_apart_from_start": {},
        "figures": {},
        "medians": {},
        "runs": {},
    }
    try:
        for part in options.parts:
            for section, found in parts[part]().items():
                results[section] = results.get(section, {}) | found
            shutil.rmtree(work / part)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if tuple(options.parts) == PARTS:
        print(f"written: {write_results('shards', results).relative_to(ROOT)}", file=sys.stderr)
    print(json.dumps({name: results[name] for name in ("ratios", "ratios_apart_from_start", "figures")}, indent=1))
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench BENCH=shards", description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=Path, default=ROOT / "manifests/sample", help="JPEG photographs to copy")
    parser.add_argument("--called", default="", help="what they are, as the results say it")
    parser.add_argument("--count", type=int, default=8000, help="photographs to build")
    parser.add_argument("--urls", type=int, default=4000, help="photographs to crawl")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--processes", type=int, default=machine()["cores"])
    parser.add_argument("--threads", type=int, default=32, help="of each process of a crawl")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--work", default="data/bench", help="a folder to work in; it is emptied")
    options = parser.parse_args(arguments)
    found = photos.find(options.images)
    mean_kb = sum(path.stat().st_size for path in found) / len(found) / 1e3
    name = options.called or ("the embedded sample's" if options.images == ROOT / "manifests/sample" else "own")
    options.called = (
        f"{len(found)} {name} photographs, {mean_kb:.0f} KB on average, copied to {options.count:,} (built) and"
        f" {options.urls:,} (crawled), made distinct by a comment in each"
    )
    return options


def _build(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    originals, count = photos.find(options.images), options.count
    # Beside the whole, what starting costs each: the same with a photograph or two for each process.
    folders = {"whole": (count, PER_SHARD), "start": (2 * options.processes, 1)}
    for name, (photographs, per_shard) in folders.items():
        photos.write_coco(originals, work / name / "data/raw/bench", photographs)
        (work / name / "bench.toml").write_text(MANIFEST.format(per_shard=per_shard))
        photos.warm(work / name)
    log = work / "log.txt"
    has_header_check = (
        "--check" in subprocess.run([*BITGEN_SHARDS, "--help"], capture_output=True, text=True, check=True).stdout
    )
    runs: dict[str, dict[str, list[Run]]] = {}
    for name in folders:
        contestants = _builders(work / name, *folders[name], options.processes)
        if not has_header_check:
            print("left out: this bitgen-shards has no --check header", file=sys.stderr)
            contestants.pop("header")
        runs[name] = in_turn(list(contestants.values()), options.repetitions, log)
        if name == "whole":
            _check_same_work(contestants["ours"], contestants["webdataset_writer"], work / name, log)
    medians = _medians(runs["whole"], runs["start"], count)
    compared = {"webdataset_writer": ("ours", "webdataset_writer"), "bare_decode": ("ours", "bare_decode")}
    if has_header_check:
        compared["tar"] = ("header", "tar")
    return {
        "ratios": _ratios(medians, compared, "images_per_s"),
        "ratios_apart_from_start": _ratios(medians, compared, "images_per_s_apart"),
        "medians": {f"build_{name}": found for name, found in medians.items()},
        "runs": {f"build_{part}_{name}": found for part in runs for name, found in as_lists(runs[part]).items()},
    }


def _builders(work: Path, count: int, per_shard: int, processes: int) -> dict[str, Contestant]:
    raw, shards, out = work / "data/raw/bench", work / "data/shards", work / "out"

    def clear() -> None:
        for folder in (shards, out):
            shutil.rmtree(folder, ignore_errors=True)
        out.mkdir()

    def check() -> None:
        found = json.loads((shards / "coarse/bench-train/dataset.json").read_bytes())["samples"]
        if found != count:
            raise BenchError(f"expected {count} samples, found {found}")

    ours = [
        *BITGEN_SHARDS,
        str(work / "bench.toml"),
        "--data",
        str(work / "data"),
        "--workers",
        str(processes),
    ]
    peer = [sys.executable, "-m", "tests.benchmarks.peers"]
    parts = [(str(part), str(processes)) for part in range(processes)]
    found = [
        Contestant("ours", [ours], clear, check),
        Contestant(
            "webdataset_writer", [[*peer, "webdataset", str(raw), str(out), *p, str(per_shard)] for p in parts], clear
        ),
        Contestant("bare_decode", [[*peer, "bare_decode", str(raw), *p] for p in parts], clear),
        Contestant("header", [[*ours, "--check", "header"]], clear, check),
        Contestant("tar", [["tar", "-cf", str(out / "photos.tar"), "-C", str(raw / "photos"), "."]], clear),
    ]
    return {contestant.name: contestant for contestant in found}


def _check_same_work(ours: Contestant, peer: Contestant, work: Path, log: Path) -> None:
    """Raises `BenchError` unless webdataset's shards hold the samples that ours do: the same images and records."""
    timed(ours, log)
    wanted = _members(work / "data/shards/coarse/bench-train")
    timed(peer, log)
    found = _members(work / "out")
    if wanted != found:
        different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise BenchError(f"expected the same members of both writers, found others: {different[:4]}")


def _members(folder: Path) -> dict[str, int]:
    """A hash of every member of all tars: of an image's bytes, of what a record says."""
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                content = (tar.extractfile(member) or io.BytesIO()).read()
                if member.name.endswith(".json"):
                    content = json.dumps(json.loads(content), sort_keys=True).encode()
                found[member.name] = hash(content)
    return found


def _crawl(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    work.mkdir(parents=True)
    certificate, key, trusted = web.own_certificate(work)
    runs: dict[str, list[Run]] = {}
    starts: dict[str, list[Run]] = {}
    for scheme, files in (("http", None), ("tls", (certificate, key))):
        with web.running(options.images, options.processes, files) as address:
            for count, found in ((2 * options.processes, starts), (options.urls, runs)):
                contestants = [
                    _crawler(f"{scheme}_{name}", name, work, address, count, trusted, options)
                    for name in ("ours", "img2dataset")
                ]
                found |= in_turn(contestants, options.repetitions, work / "log.txt")
    medians = _medians(runs, starts, options.urls)
    compared = {"crawl_http": ("http_ours", "http_img2dataset")}
    seconds = {"crawl_tls_cpu": ("tls_ours", "tls_img2dataset")}
    return {
        "ratios": _ratios(medians, compared, "images_per_s") | _ratios(medians, seconds, "cpu_ms_per_image"),
        "ratios_apart_from_start": _ratios(medians, compared, "images_per_s_apart")
        | _ratios(medians, seconds, "cpu_ms_per_image_apart"),
        "medians": {f"crawl_{name}": found for name, found in medians.items()},
        "runs": {f"crawl_whole_{name}": found for name, found in as_lists(runs).items()}
        | {f"crawl_start_{name}": found for name, found in as_lists(starts).items()},
    }


def _crawler(
    called: str, name: str, work: Path, address: str, count: int, trusted: Path, options: argparse.Namespace
) -> Contestant:
    urls, folder = work / f"{called}-{count}.parquet", work / called
    pq.write_table(pa.table({"url": [f"{address}/{number:06d}.jpg" for number in range(count)]}), urls)
    per_shard = max(1, count // (4 * options.processes))

    def check() -> None:
        found = sum(1 for _ in folder.rglob("*.jpg"))
        if found != count:
            raise BenchError(f"expected {count} images of {called}, found {found}")

    command = [sys.executable, "-m", "tests.benchmarks.crawls", name, str(urls), str(folder)]
    command += [str(options.processes), str(options.threads), str(per_shard)]
    return Contestant(
        called,
        [command],
        lambda: shutil.rmtree(folder, ignore_errors=True),
        check,
        {"SSL_CERT_FILE": str(trusted), "NO_ALBUMENTATIONS_UPDATE": "1"},
    )


def _index(work: Path) -> dict[str, Any]:
    folder = work / "dataset"
    index_size.write(folder)
    (folder / INDEX).read_bytes()  # into the page cache
    found: dict[str, list[dict[str, float]]] = {}
    for what in ("open", "read"):
        command = [sys.executable, "-m", "tests.benchmarks.index_size", str(folder), what]
        found[what] = [
            json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout) for _ in range(5)
        ]
    middle = {
        what: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for what, runs in found.items()
    }
    return {
        "figures": {
            "index_samples": index_size.SAMPLES,
            "index_open_s": round(middle["open"]["open_s"], 4),
            "index_private_mb": round(middle["open"]["private_mb"], 1),
            "index_private_mb_after_10000_reads": round(middle["read"]["private_mb"], 1),
        },
        "runs": {f"index_{what}": runs for what, runs in found.items()},
    }


def _medians(whole: dict[str, list[Run]], start: dict[str, list[Run]], count: int) -> dict[str, dict[str, float]]:
    """Rates of each contestant, of the whole process and apart from what starting it costs."""
    found: dict[str, dict[str, float]] = {}
    for name, runs in whole.items():
        all_, first = median(runs), median(start[name])
        found[name] = {
            "wall_s": round(all_.wall_s, 3),
            "cpu_s": round(all_.cpu_s, 3),
            "start_wall_s": round(first.wall_s, 3),
            "start_cpu_s": round(first.cpu_s, 3),
            "images_per_s": round(count / all_.wall_s, 1),
            "images_per_s_apart": round(count / max(all_.wall_s - first.wall_s, 1e-3), 1),
            "cpu_ms_per_image": round(1e3 * all_.cpu_s / count, 4),
            "cpu_ms_per_image_apart": round(1e3 * max(all_.cpu_s - first.cpu_s, 1e-3) / count, 4),
        }
    return found


def _ratios(medians: dict[str, dict[str, float]], pairs: dict[str, tuple[str, str]], unit: str) -> dict[str, float]:
    """Ours over theirs, in `unit`."""
    return {name: round(medians[our][unit] / medians[their][unit], 3) for name, (our, their) in pairs.items()}
