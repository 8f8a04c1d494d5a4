"""One contestant of `edge.py` in a process of its own, which begins with nothing loaded.

    python -m tests.benchmarks.edge_run KIND FOLDER THREADS IMAGES TOKENS REPORT

KIND is `packed` (the export, by `bitgen.deploy.runtime`, without torch), `fp32` (the same by graphs of floats), `torch` (the same
in PyTorch, eagerly), `bounds` (what the machine can do) or `profile` (what the packed image encoder's time goes to). FOLDER is what
`edge.prepare` left. Writes what it found to REPORT, as JSON. Linux alone: a process's start and memory are read from /proc.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 3
SHAPES = ((1024, 1024, 1024), (257, 384, 1536), (257, 1536, 384))
"""Of products M K N whose best rate is the peak: a large one, and those of DINOv2-small's feed-forward layers."""
LARGE, SMALL = 1 << 28, 1 << 23
"""Bytes that are copied: of memory, and of a head of 50,257 tokens, which some caches hold."""


def since_start_s() -> float:
    """Seconds since this process began, within 0.01."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def most_memory_mb() -> float:
    """10^6 bytes that were in memory at most, mapped files and libraries among them."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024 / 1e6


def median_ms(call: Callable[[], object], repetitions: int) -> float:
    taken = []
    for _ in range(WARM_UP + repetitions):
        start_s = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start_s)
    return 1e3 * statistics.median(taken[WARM_UP:])


def graphs(folder: Path, form: str, threads: int, images: int, tokens: int) -> dict[str, float]:
    """Of the graphs in `folder`/`form`, `packed` or `fp32`."""
    from bitgen.deploy.packed import read  # here: each kind loads only what it needs
    from bitgen.deploy.runtime import Runtime, sessions, squeezed

    packed = read(folder / "packed")
    runtime = Runtime(packed, sessions(folder / form, threads))
    seen = runtime.see(folder / "photo.jpg")
    runtime.caption_ids(seen, 1)
    cold_s = since_start_s()
    from tests.benchmarks.edge_count import token_inputs

    config, pixels = packed.facts.config, squeezed(seen.picture, packed.facts.image_px)
    inputs = token_inputs(config.decoder_layers, config.heads, config.width, seen.states["dual"].shape[1])
    step = inputs | inputs.pop("cache")
    found = {
        "cold_s": cold_s,
        "image_ms": median_ms(lambda: runtime.run("image_encoder", {"pixels": pixels}), images),
        "token_ms": median_ms(lambda: runtime.run("decoder_step", step), tokens),
    }
    runtime.ground(seen, "the red tram")
    runtime.caption_ids(seen)
    return found | {"memory_mb": most_memory_mb()}


def torch_eager(folder: Path, form: str, threads: int, images: int, tokens: int) -> dict[str, float]:
    """Of the same model with its tower in floats, adapters merged, and every ternary weight rounded once."""
    import torch

    from bitgen import BitGen
    from bitgen.deploy.unpack import load
    from bitgen.evaluation.efficiency import parts
    from bitgen.model.bitlinear import ternarised_once

    torch.set_num_threads(threads)
    network, packed = load(folder / "fp16")
    model = BitGen(network, packed.facts.image_px, packed.facts.max_tokens)
    photo = folder / "photo.jpg"
    model.encode_image(photo)
    model.caption(photo, max_tokens=1)
    cold_s, calls = since_start_s(), parts(network, packed.facts.image_px)
    with torch.no_grad(), ternarised_once():
        latency = {
            "image_ms": median_ms(calls["image"], images),
            "token_ms": median_ms(calls["caption_token"], tokens),
        }
    model.ground(photo, "the red tram")
    model.caption(photo)
    return {"cold_s": cold_s, **latency, "memory_mb": most_memory_mb()}


def bounds(folder: Path, form: str, threads: int, images: int, tokens: int) -> dict[str, float]:
    """10^9 multiplications a second of bytes and of floats, by ONNX Runtime, and GB a second read and written."""
    return {
        "byte_peak": max(_rate(shape, threads, is_bytes=True) for shape in SHAPES),
        "float_peak": max(_rate(shape, threads, is_bytes=False) for shape in SHAPES),
        "memory_gb_per_s": _bandwidth(LARGE, threads, 3),
        "cache_gb_per_s": _bandwidth(SMALL, threads, 50),
    }


def profile(folder: Path, form: str, threads: int, images: int, tokens: int) -> dict[str, float]:
    """Milliseconds by kind of node, all of its nodes together, each by the median of `images` runs; what takes most comes first."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.enable_profiling = 3, threads, True
    options.profile_file_prefix = str(folder / "profile")
    path = folder / "packed/image_encoder.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    pixels = np.zeros([1, *session.get_inputs()[0].shape[1:]], np.uint8)
    for _ in range(WARM_UP + images):
        session.run(None, {"pixels": pixels})
    events = json.loads(Path(session.end_profiling()).read_bytes())
    taken: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"] / 1e3)
    found: dict[str, float] = {}
    for (kind, _), each in taken.items():
        found[kind] = found.get(kind, 0.0) + statistics.median(each[WARM_UP:])
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _rate(shape: tuple[int, int, int], threads: int, *, is_bytes: bool) -> float:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    m, k, n = shape
    noise = np.random.default_rng(0)
    if is_bytes:
        kind, given, taken = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
        a, b = noise.integers(0, 256, (m, k), np.uint8), noise.integers(-127, 128, (k, n), np.int8)
    else:
        kind, given, taken = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
        a, b = (noise.normal(size=size).astype(np.float32) for size in ((m, k), (k, n)))
    graph = helper.make_graph(
        [helper.make_node(kind, ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", given, [m, k])],
        [helper.make_tensor_value_info("y", taken, [m, n])],
        [numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return m * k * n / _best_s(lambda: session.run(None, {"a": a}), 20) / 1e9


def _bandwidth(size_bytes: int, threads: int, repetitions: int) -> float:
    source = np.ones(size_bytes, np.uint8)
    target = np.zeros_like(source)
    pairs = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        best_s = _best_s(lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs)), repetitions)
    return 2 * size_bytes / best_s / 1e9


def _best_s(call: Callable[[], object], repetitions: int) -> float:
    """The shortest of all: what disturbs a bound only makes it easier to reach."""
    taken = []
    for _ in range(repetitions):
        start_s = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start_s)
    return min(taken)


KINDS: dict[str, Callable[[Path, str, int, int, int], dict[str, float]]] = {
    "packed": graphs,
    "fp32": graphs,
    "torch": torch_eager,
    "bounds": bounds,
    "profile": profile,
}


def run(kind: str, folder: Path, threads: int, images: int, tokens: int) -> dict[str, Any]:
    """Milliseconds are medians of `images` and `tokens` calls."""
    return KINDS[kind](folder, kind, threads, images, tokens)


if __name__ == "__main__":
    kind, folder, threads, images, tokens, report = sys.argv[1:]
    Path(report).write_text(json.dumps(run(kind, Path(folder), int(threads), int(images), int(tokens))))
