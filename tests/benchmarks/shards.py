"""`make bench BENCH=shards`: building, crawling and opening an index, against what others would do on the same files.

build   the same photographs through bitgen-shards, webdataset's own writer with the same checks, a bare JPEG decode,
        and with `--check header` against plain tar; as many processes for each that can have them
crawl   one list of URLs of a local server through our crawl and img2dataset's, over HTTP and over TLS
index   5,000,000 samples, opened in fresh processes

The peers, webdataset and img2dataset, are what BitGen itself depends on, so they are in its environment already.
All files are in the page cache before the first repetition, building has a round that is not counted, and what is
written counts when it is on disk.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shards.index import INDEX
from tests.benchmarks import index_size, photos
from tests.benchmarks.building import build
from tests.benchmarks.crawling import crawl
from tests.benchmarks.harness import ROOT, commit, load, machine, versions, write_results

PARTS = ("build", "crawl", "index")


def main(arguments: list[str]) -> int:
    """Runs it all and writes `results/shards.json`; `--parts` runs some of it and prints what it found."""
    options = _options(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="shards-", dir=options.work.absolute()))
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "build": lambda: build(work / "build", options),
        "crawl": lambda: crawl(work / "crawl", options),
        "index": lambda: _index(work / "index"),
    }
    results: dict[str, Any] = {
        "bench": "shards",
        "input": options.called,
        "processes": options.processes,
        "repetitions": options.repetitions,
        "page_cache": "warm for all: every file is read once before the first repetition",
        "uncounted": "a round of building before the repetitions: its memory is touched for the first time",
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
    parser.add_argument("--count", type=int, default=16000, help="photographs to build")
    parser.add_argument("--header-count", type=int, default=48000, help="photographs of which the headers are read")
    parser.add_argument("--urls", type=int, default=12000, help="photographs to crawl over HTTP")
    parser.add_argument("--tls-urls", type=int, default=4000, help="photographs to crawl over TLS")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--processes", type=int, default=machine()["cores"])
    parser.add_argument("--threads", type=int, default=32, help="of each process of a crawl")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--work", type=Path, default=Path("data/bench"), help="a folder to work in")
    options = parser.parse_args(arguments)
    found = photos.find(options.images)
    mean_kb = sum(path.stat().st_size for path in found) / len(found) / 1e3
    name = options.called or ("the embedded sample's" if options.images == ROOT / "manifests/sample" else "own")
    options.called = (
        f"{len(found)} {name} photographs, {mean_kb:.0f} KB on average, copied to {options.count:,} (built),"
        f" {options.header_count:,} (built by their headers), {options.urls:,} (crawled over HTTP) and"
        f" {options.tls_urls:,} (over TLS), distinct by a comment in each"
    )
    return options


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
