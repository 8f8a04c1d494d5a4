"""RESULTS.md from the JSON files of `results/`: `python -m tests.benchmarks.report`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.benchmarks import ablation_report, edge_report, feeding_report, gpu_report, learn_report, photographs_report
from tests.benchmarks.harness import RESULTS

SHARDS = {
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
LOADER = {
    "webdataset_readme": "ours over webdataset, set up as its README does",
    "best_peer": "ours over the fastest other loader as documented",
    "best_peer_our_decode": "ours over the fastest other loader that is given our decoder",
    "bare_decode": "ours over decode and resize of the same JPEGs and nothing else",
    "pixel_error": "mean difference from Pillow's antialiased bicubic in grey levels: less is better",
    "first_batch_s": "seconds from opening the datasets to the first batch, imports apart",
    "private_mb": "most MB of all its processes at one time, mapped files apart",
    "private_mb_least_peer": "likewise of the peer that has least",
    "unshared_mb": "most MB that its processes each have to themselves",
    "unshared_mb_least_peer": "likewise of the peer that has least",
    "proportional_mb": "most MB of all its processes, mapped files among them",
    "proportional_mb_least_peer": "likewise of the peer that has least",
}
LOADER_AT_SCALE = {
    "samples_{}": "samples of the two indexes",
    "first_batch_{}_s": "seconds from opening them to the first batch, in a fresh process, imports apart",
    "first_batch_with_imports_{}_s": "likewise from the start of the process",
    "us_per_sample_{}": "CPU microseconds to plan and draw a sample: order, index, words and bytes",
    "us_per_sample_whole_{}": "CPU microseconds a sample of whole batches, by all processes and from their start",
    "private_mb_{}": "MB of the process at the end, mapped files apart",
}
FEATURES = {
    "uncached": "images/s of the warm-up on stored features over the warm-up on images",
    "cached_bound": "over the same steps on features that are in memory already",
    "stored_kb_per_image": "KB on disk that an image's features take, its record among them",
    "made_images_per_s": "images/s when they are made, by a process that has done its imports",
}
TRAIN_STEP = {
    "bare_forward": "images/s of a coarse step before the thaw over the tower's forward pass alone",
    "bare_forward_backward": "after the thaw, over the tower's passes forward and back to its adapters alone",
    "open_clip": "after the thaw, over a step of open_clip's model of this size, of which everything trains",
    "bare_forward_compiled": "before the thaw, both compiled",
    "bare_forward_backward_compiled": "after the thaw, both compiled",
    "compiled_frozen": "before the thaw, compiled over as written",
    "compiled_thawed": "after the thaw, likewise",
    "recomputed": "after the thaw, with --run.recompute over without",
    "sum_of_parts": "seconds of the tower alone and of all but the tower, over those of a step before the thaw",
    "sum_of_parts_thawed": "likewise after the thaw",
    "peak_gflops": "10^9 operations a second that the device is good for: of a product of matrices, or a data sheet's",
    "bandwidth_gb_per_s": "GB a second that a copy of 256 MiB reads and writes",
    "first_step_coarse_frozen_compiled_s": "seconds of the first step of a run that finds nothing compiled, before the thaw",
    "first_step_coarse_thawed_compiled_s": "likewise after the thaw",
}
MEANINGS = {
    "shards": SHARDS,
    "features": FEATURES,
    "train_step": TRAIN_STEP,
    "train_step_gpu": TRAIN_STEP,
    "loader": LOADER
    | {name.format(scale): text for scale in ("10k", "1m", "5m") for name, text in LOADER_AT_SCALE.items()},
}
"""What a ratio or a figure is, by benchmark."""


BESIDE = {
    "shards": ("ratios_apart_from_start", "whole process", "apart from start"),
    "loader": ("ratios_per_cpu_s", "images/s", "images/CPU s"),
    "features": ("ratios_per_cpu_s", "images/s", "images/CPU s"),
    "train_step": ("ratios_per_cpu_s", "images/s", "images/CPU s"),
    "train_step_gpu": ("ratios_per_cpu_s", "images/s", "images/CPU s"),
}
"""The ratios that stand beside `ratios`, and what the two columns are called."""
PAGES = {
    "ablations": (
        ablation_report.lines,
        {"ablations": ablation_report.plot, "ablations-claims": ablation_report.differences},
    ),
    "edge": (edge_report.lines, {}),
    "gpu": (gpu_report.lines, {}),
    "learn": (learn_report.lines, {"learn": learn_report.curves}),
    "photos": (photographs_report.lines, {"photos": photographs_report.curves}),
}
"""What is told of a benchmark that has no table of ratios, and what is drawn of it, by the name of the file."""
CONDITIONS = ("page_cache", "disk", "threads")
UNTOLD = ("start_cpu_s", "cpu_ms_per_image_apart", "epoch_s")
"""Medians that the page has no room for."""


def main() -> None:
    """Writes RESULTS.md beside `results/`."""
    documents = [json.loads(path.read_bytes()) for path in sorted(RESULTS.glob("*.json"))]
    text = "\n".join(line for document in documents for line in _lines(document))
    named = {document["bench"]: document for document in documents}
    if {"train_step", "loader"} <= named.keys():
        text += "\n" + "\n".join(feeding_report.lines(named["train_step"], named["loader"]))
    for document in documents:
        if document["bench"] in PAGES:
            for name, draw in PAGES[document["bench"]][1].items():
                (RESULTS / f"{name}.svg").write_text(draw(document), encoding="utf-8")
    head = "# What `make bench` found\n\nMade from `results/*.json` by `python -m tests.benchmarks.report`.\n\n"
    (RESULTS.parent / "RESULTS.md").write_text(head + text, encoding="utf-8")


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    machine = found["machine"]
    yield f"## {found['bench']}"
    yield ""
    yield f"{found['input']}."
    yield ""
    repeated = ""
    if "repetitions" in found:
        repeated = f" {found['processes']} processes each, {found['repetitions']} repetitions in turn, medians."
    kept = [f"{name.replace('_', ' ').capitalize()}: {found[name]}." for name in CONDITIONS if name in found]
    accelerator = f"{machine['accelerator']}; " if "accelerator" in machine else ""
    yield (
        f"{accelerator}{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']},"
        f" Python {machine['python']}; {', '.join(f'{k} {v}' for k, v in found['versions'].items())};"
        f" commit {found['commit']}.{repeated} {' '.join(kept)} Other load before the start: {found['load_before']}."
    )
    yield ""
    if found["bench"] in PAGES:
        yield from PAGES[found["bench"]][0](found)
        return
    meanings = MEANINGS[found["bench"]]
    yield from _ratios(found, meanings)
    figures = found["figures"]
    yield from _table(("figure", "", ""), [(k, _said(v), meanings.get(k, "")) for k, v in figures.items()])
    keys = [key for key in next(iter(found["medians"].values())) if key not in UNTOLD]
    rows = [(name, *(_said(each[key]) for key in keys)) for name, each in found["medians"].items()]
    yield from _table(("median of", *keys), rows)
    peers = found.get("documentation", {})
    yield from _table(("peer", "set up as in"), [(name, address) for name, address in peers.items()])


def _ratios(found: Mapping[str, Any], meanings: Mapping[str, str]) -> Iterator[str]:
    """Each with what is told of it beside."""
    beside, name, head = BESIDE[found["bench"]]
    rows = [(k, _said(v), _said(found[beside].get(k, "")), meanings.get(k, "")) for k, v in found["ratios"].items()]
    yield from _table(("ratio", name, head, ""), rows)


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
