"""What `evaluate_efficiency` found, as figures by name."""

from collections.abc import Mapping
from typing import Any

from bitgen.evaluation.charts import Bar, bar_ranking
from bitgen.evaluation.histograms import short
from bitgen.evaluation.page import Html, count, size

PARTS = {
    "image": "image encoder",
    "text": "text encoder",
    "grounding": "fusion and grounding",
    "caption_token": "one token of a caption",
}
"""What `efficiency.parts` are, in words."""
_BYTES = {
    "on_disk": "checkpoint on disk",
    "fp32": "fp32",
    "fp16": "fp16",
    "ternary_2": "ternary at 2 bits, rest fp32",
    "ternary_1_58": "ternary at 1.58 bits, rest fp32",
}


def efficiency_figures(found: Mapping[str, Any]) -> dict[str, Html]:
    """Each a `<figure>`, by a name fit for a file."""
    parts = found["parameters"]["parts"]
    bars = [
        Bar(f"{name.partition(' (')[0]}{'' if kinds['lora'] + kinds['trained'] else ', frozen'}", sum(kinds.values()))
        for name, kinds in parts.items()
    ]
    total, machine = found["parameters"]["total"], found["machine"]
    sizes = [Bar(name, found["bytes"][kind]) for kind, name in _BYTES.items() if kind in found["bytes"]]
    latency = found["latency"]
    medians = [Bar(name, latency[part]["median_ms"]) for part, name in PARTS.items()]
    operations = [Bar(name, found["flops"][part]) for part, name in PARTS.items()]
    asked = f"an image of {found['image_px']} px, a text of {found['tokens']} tokens"
    return {
        "efficiency-parameters": bar_ranking(f"{count(total)} parameters by part", bars, say=short),
        "efficiency-bytes": bar_ranking("Size", sizes, small="all but the first by arithmetic", say=size),
        "efficiency-flops": bar_ranking("Floating-point operations", operations, small=asked, say=short),
        "efficiency-latency": bar_ranking(
            "Median latency at batch 1, ms",
            medians,
            small=f"{machine['cpu'] if machine['device'] == 'cpu' else machine['device']}, threads: {machine['threads']}",
            say=lambda ms: f"{ms:.2f}",
        ),
    }
