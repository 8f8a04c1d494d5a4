"""One list of URLs of a local server through our crawl and through img2dataset's, over HTTP and over TLS."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks import web
from tests.benchmarks.harness import BenchError, Contestant, Medians, Run, as_lists, in_turn, medians, ratios


def crawl(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    work.mkdir(parents=True)
    certificate, key, trusted = web.own_certificate(work)
    runs: dict[str, list[Run]] = {}
    starts: dict[str, list[Run]] = {}
    middle: Medians = {}
    for scheme, urls, files in (("http", options.urls, None), ("tls", options.tls_urls, (certificate, key))):
        with web.running(options.images, options.processes, files) as address:
            for count, found in ((2 * options.processes, starts), (urls, runs)):
                contestants = [
                    _crawler(f"{scheme}_{name}", name, work, address, count, trusted, options)
                    for name in ("ours", "img2dataset")
                ]
                found |= in_turn(contestants, options.repetitions, work / "log.txt")
        middle |= medians({name: each for name, each in runs.items() if name.startswith(scheme)}, starts, urls)
    compared = {"crawl_http": ("http_ours", "http_img2dataset")}
    seconds = {"crawl_tls_cpu": ("tls_ours", "tls_img2dataset")}
    return {
        "ratios": ratios(middle, compared, "images_per_s") | ratios(middle, seconds, "cpu_ms_per_image"),
        "ratios_apart_from_start": ratios(middle, compared, "images_per_s_apart")
        | ratios(middle, seconds, "cpu_ms_per_image_apart"),
        "medians": {f"crawl_{name}": found for name, found in middle.items()},
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
