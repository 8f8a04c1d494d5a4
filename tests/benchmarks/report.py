"""RESULTS.md from the JSON files of `results/`: `python -m tests.benchmarks.report`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.benchmarks.harness import RESULTS

MEANINGS = {
    "webdataset_writer": "images/s of bitgen-shards over webdataset's ShardWriter, the same checks and records",
    "bare_decode": "images/s of bitgen-shards over a strict JPEG decode of the same files and nothing else",
    "tar": "images/s of bitgen-shards --check header (header, sha256, records, index) over plain tar",
    "crawl_http": "images/s of our crawl over img2dataset alone, plain HTTP",
    "crawl_tls_cpu": "CPU time an image of our crawl over img2dataset's alone, over TLS: less is better",
    "index_samples": "samples of the index",
    "index_open_s": "seconds to open it, in a fresh process",
    "index_private_mb": "MB of a process's own memory for it",
    "index_private_mb_after_10000_reads": "MB of a process's own memory after 10,000 rows all over it",
}


def main() -> None:
    """Writes RESULTS.md beside `results/`."""
    documents = [json.loads(path.read_bytes()) for path in sorted(RESULTS.glob("*.json"))]
    text = "\n".join(line for document in documents for line in _lines(document))
    head = "# What `make bench` found\n\nMade from `results/*.json` by `python -m tests.benchmarks.report`.\n\n"
    (RESULTS.parent / "RESULTS.md").write_text(head + text, encoding="utf-8")


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    machine = found["machine"]
    yield f"## {found['bench']}"
    yield ""
    yield f"{found['input']}."
    yield ""
    yield (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']},"
        f" Python {machine['python']}; {', '.join(f'{k} {v}' for k, v in found['versions'].items())};"
        f" commit {found['commit']}. {found['processes']} processes each, {found['repetitions']} repetitions in turn,"
        f" medians. Page cache: {found['page_cache']}. Disk: {found['disk']}. Other load before the start:"
        f" {found['load_before']}."
    )
    yield ""
    yield from _table(("ratio", "whole process", "apart from start", ""), _ratios(found))
    figures = found["figures"]
    yield from _table(("figure", "", ""), [(k, _said(v), MEANINGS.get(k, "")) for k, v in figures.items()])
    keys = ("wall_s", "cpu_s", "start_wall_s", "images_per_s", "images_per_s_apart", "cpu_ms_per_image")
    rows = [(name, *(_said(each[key]) for key in keys)) for name, each in found["medians"].items()]
    yield from _table(("median of", *keys), rows)


def _ratios(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    apart = found["ratios_apart_from_start"]
    return [(k, _said(v), _said(apart.get(k, "")), MEANINGS.get(k, "")) for k, v in found["ratios"].items()]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield f"| {' | '.join(head)} |"
        yield f"|{'---|' * len(head)}"
        yield from (f"| {' | '.join(row)} |" for row in rows)
        yield ""


def _said(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else "" if value is None else str(value)


if __name__ == "__main__":
    main()
