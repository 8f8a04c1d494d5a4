"""What RESULTS.md says of `results/edge.json`: what was asked for, times and bounds, where the time goes, and accuracy by step."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

TARGETS: Mapping[str, tuple[str, Callable[[float], bool], str]] = {
    "package_mb": ("at most 30", lambda found: found <= 30, "MB (10^6) of the packed file and its graphs"),
    "package_mb_trimmed": ("at most 24", lambda found: found <= 24, "likewise with 8,000 tokens"),
    "fp32": ("1.9", lambda found: found >= 1.9, "images/s on one thread over the same model as graphs of fp32"),
    "int8_bound": (
        "0.55",
        lambda found: found >= 0.55,
        "of the speed at which all products of bytes at their peak, and those of floats at theirs, would be done",
    ),
    "token_ms": ("under 2", lambda found: found < 2, "milliseconds a token of a caption, on one thread"),
    "memory_mb": (
        "under 200",
        lambda found: found < 200,
        "MB in memory at most: image, caption and box, on one thread",
    ),
}
"""By the name of a ratio or a figure: what was asked for, whether that is so, and what it is."""
RATIOS: Mapping[str, str] = {
    "fp32": "images/s over fp32",
    "torch": "images/s over PyTorch",
    "int8_bound": "of the bound",
    "all_bytes_bound": "of the bound if all products were of bytes",
    "token_fp32": "tokens/s over fp32",
    "token_torch": "tokens/s over PyTorch",
    "token_bound": "of the bound of a token",
}
COLUMNS = {"cold_s": "cold start, s", "image_ms": "image, ms", "token_ms": "token, ms", "memory_mb": "most memory, MB"}
PEAKS = {
    "byte_peak": "10^9 products of bytes/s",
    "float_peak": "of floats",
    "memory_gb_per_s": "GB/s copied in memory",
    "cache_gb_per_s": "of 8 MiB",
}
LEAST = {"bound_ms": "image at least, ms", "all_bytes_ms": "all in bytes", "token_ms": "token at least, ms"}
WITHIN = 0.01
"""Share of the time below which a kind of node is not told."""


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Tables as Markdown, line by line, without the heading."""
    reached = {**found["figures"], **found["ratios"]}
    yield from _table(
        ("", "reached", "asked for", ""),
        [
            (name, f"{reached[name]}{'' if is_met(reached[name]) else ' (missed)'}", asked, what)
            for name, (asked, is_met, what) in TARGETS.items()
        ],
    )
    yield from _table(
        ("median (least to most), threads", *COLUMNS.values()),
        [
            (_named(name), *(_spread(median[key], found["spread"][name][key]) for key in COLUMNS))
            for name, median in found["medians"].items()
            if "image_ms" in median
        ],
    )
    suffixes = list(found["bounds"])
    yield from _table(
        ("of the package", *map(_threads, suffixes)),
        [(what, *(str(found["ratios"][name + suffix]) for suffix in suffixes)) for name, what in RATIOS.items()],
    )
    yield from _table(
        ("bound", *map(_threads, suffixes)),
        [(what, *(str(found["medians"][f"bounds{suffix}"][key]) for suffix in suffixes)) for key, what in PEAKS.items()]
        + [(what, *(str(found["bounds"][suffix][key]) for suffix in suffixes)) for key, what in LEAST.items()],
    )
    total = sum(found["profile"].values())
    shares = ", ".join(f"{kind} {ms:.2f} ms" for kind, ms in found["profile"].items() if ms >= WITHIN * total)
    yield f"An image on one thread, by kind of node: {shares}; {total:.2f} ms in all."
    yield ""
    if "accuracy" in found:
        yield "A trained model of drawn scenes, step by step, and by how much each differs from the first (95% intervals):"
        yield ""
        names = list(found["accuracy"][0]["figures"])
        rows = [
            (e["step"], f"{e['mb']}", *(_said(e["figures"][n], e is found["accuracy"][0]) for n in names))
            for e in found["accuracy"]
        ]
        yield from _table(("step", "MB", *names), rows)


def _said(figure: Mapping[str, Any], is_first: bool) -> str:
    if is_first or not figure["interval"]:
        return f"{figure['value']}"
    low, high = figure["interval"]
    return f"{figure['value']} ({figure['difference']:+.4f}; {low:+.4f} to {high:+.4f})"


def _spread(median: float, ends: list[float]) -> str:
    return f"{median:.4g} ({ends[0]:.4g} to {ends[1]:.4g})"


def _named(name: str) -> str:
    kind, _, threads = name.partition("_")
    return f"{kind}, {threads or 1}"


def _threads(suffix: str) -> str:
    return f"{suffix.strip('_')} threads" if suffix else "one thread"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""
