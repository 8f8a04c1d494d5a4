"""What `evaluate_efficiency` found, as figures by name and as a table."""

from collections.abc import Mapping
from typing import Any

from bitgen.evaluation.charts import Bar, bar_ranking
from bitgen.evaluation.histograms import short
from bitgen.evaluation.page import Html, count, size, table

_PARTS = {
    "image": "image encoder",
    "text": "text encoder",
    "grounding": "fusion and grounding",
    "caption_token": "one token of a caption",
}
_BYTES = {
    "on_disk": "checkpoint on disk",
    "fp32": "fp32",
    "fp16": "fp16",
    "ternary_2": "ternary layers at 2 bits, the rest fp32",
    "ternary_1_58": "ternary layers at 1.58 bits, the rest fp32",
}


def efficiency_figures(found: Mapping[str, Any]) -> dict[str, Html]:
    """Each a `<figure>`, by a name fit for a file."""
    parts = found["parameters"]["parts"]
    bars = [
        Bar(name, sum(kinds.values()), int(not (kinds["lora"] + kinds["trained"]))) for name, kinds in parts.items()
    ]
    total, machine = found["parameters"]["total"], found["machine"]
    sizes = [Bar(name, found["bytes"][kind]) for kind, name in _BYTES.items() if kind in found["bytes"]]
    latency = found["latency"]
    medians = [Bar(name, latency[part]["median_ms"]) for part, name in _PARTS.items()]
    operations = [Bar(name, found["flops"][part]) for part, name in _PARTS.items()]
    asked = f"an image of {found['image_px']} px, a text of {found['tokens']} tokens"
    return {
        "efficiency-parameters": bar_ranking(
            f"{count(total)} parameters by part", bars, small="red: frozen", say=short
        ),
        "efficiency-bytes": bar_ranking("Size", sizes, small="all but the first by arithmetic", say=size),
        "efficiency-flops": bar_ranking("Floating-point operations", operations, small=asked, say=short),
        "efficiency-latency": bar_ranking(
            "Median latency at batch 1, ms",
            medians,
            small=f"{machine['cpu'] if machine['device'] == 'cpu' else machine['device']}, {machine['threads']} threads",
        ),
    }


def efficiency_table(found: Mapping[str, Any]) -> Html:
    """Operations and latencies, part by part."""
    rows = [
        (
            name,
            count(found["flops"][part]),
            f"{found['latency'][part]['median_ms']:.2f}",
            f"{found['latency'][part]['p90_ms']:.2f}",
            count(found["latency"][part]["repetitions"]),
        )
        for part, name in _PARTS.items()
    ]
    return table(("at batch 1", "operations", "median, ms", "90%, ms", "repetitions"), rows)
