"""What a model costs: parameters, operations, bytes and milliseconds.

Axes: none; everything is of one image (S x S pixels) and one text of L tokens.
"""

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bitgen.evaluation.bootstrap import RESAMPLES, percentiles
from bitgen.model.bitgen import BitGen, ImageStates, TextStates
from bitgen.model.bitlinear import BitLinear, ternarised_once
from bitgen.tokens import EOT
from bitgen.training.summary import parameter_table

TOKENS = 16
"""Of the text: a caption of COCO has 10 to 15, its two ends included."""
REPETITIONS, WARM_UP = 30, 5
WEIGHTS = "model.safetensors"
TERNARY_BITS = math.log2(3)


def evaluate_efficiency(
    model: BitGen, side_px: int, checkpoint: Path | None = None, repetitions: int = REPETITIONS
) -> dict[str, Any]:
    """Every figure of one model in evaluation mode, where it is.

    Args:
        side_px: S.
        checkpoint: the folder whose weights' size is told.
        repetitions: of each latency, after `WARM_UP` that do not count.

    Returns {"parameters": `parameters`, "flops": `flops`, "bytes": `sizes`, "latency": `latencies`, "machine": `machine`,
    "image_px", "tokens"}. Latencies are this machine's, as it is busy, and the only figures that another may not reproduce.
    """
    calls = parts(model, side_px)
    return {
        "image_px": side_px,
        "tokens": TOKENS,
        "parameters": parameters(model),
        "flops": flops(calls),
        "bytes": sizes(model, checkpoint),
        "latency": latencies(calls, repetitions, next(model.parameters()).device),
        "machine": machine(next(model.parameters()).device),
    }


def parameters(model: BitGen) -> dict[str, Any]:
    """{"total", "trained" (adapters included), "lora", "frozen", "ternary", "parts": {part: {"frozen", "lora", "trained"}}}.

    What is trained is what takes a gradient in the model as it is: all but a tower that is kept, for one that was just loaded.
    """
    table = parameter_table(model)
    frozen, lora, trained = (sum(getattr(part, kind) for part in table) for kind in ("frozen", "lora", "trained"))
    return {
        "total": frozen + lora + trained,
        "trained": lora + trained,
        "lora": lora,
        "frozen": frozen,
        "ternary": sum(layer.weight.numel() for layer in _ternary(model)),
        "parts": {part.name: {"frozen": part.frozen, "lora": part.lora, "trained": part.trained} for part in table},
    }


def sizes(model: BitGen, checkpoint: Path | None = None) -> dict[str, int]:
    """Bytes. Only "on_disk" is measured; the rest is arithmetic on the number of parameters:

    on_disk       the checkpoint's `model.safetensors`, latent weights of ternary layers in full precision; absent without one
    fp32          4 bytes a parameter
    fp16          2 bytes a parameter
    ternary_1_58  log2(3) = 1.58 bits a ternary weight, the least there can be, and 4 bytes for each tensor's scale and for
                  every other parameter
    ternary_2     likewise with 2 bits, as packed four to a byte
    """
    total, layers = sum(p.numel() for p in model.parameters()), _ternary(model)
    ternary = sum(layer.weight.numel() for layer in layers)
    rest = 4 * (total - ternary) + 4 * len(layers)
    found = {
        "fp32": 4 * total,
        "fp16": 2 * total,
        "ternary_1_58": math.ceil(ternary * TERNARY_BITS / 8) + rest,
        "ternary_2": sum(math.ceil(layer.weight.numel() / 4) for layer in layers) + rest,
    }
    return found if checkpoint is None else {"on_disk": (checkpoint / WEIGHTS).stat().st_size, **found}


@torch.no_grad()
def parts(model: BitGen, side_px: int) -> dict[str, Callable[[], object]]:
    """What is counted and timed, each a call at batch 1:

    image          pixels to states and a unit vector
    text           a text of `TOKENS` tokens to states and a unit vector
    grounding      fusion of both and the box of one phrase, from their states
    caption_token  the decoder's next token after `TOKENS` / 2, keys and values kept
    """
    device, generator = next(model.parameters()).device, torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, side_px, side_px), dtype=torch.uint8, generator=generator).to(device)
    known = model.text.token.ids(torch.arange(TOKENS, device=device) % model.text.token.classes)
    ids = torch.where(torch.arange(TOKENS, device=device) % (TOKENS - 1) == 0, EOT, known)[None]
    mask = torch.ones_like(ids, dtype=torch.bool)
    image, text = model.encode_image(pixels), model.encode_text(ids, mask)
    return {
        "image": lambda: model.encode_image(pixels),
        "text": lambda: model.encode_text(ids, mask),
        "grounding": _grounding(model, image, text),
        "caption_token": _token(model, image),
    }


def flops(calls: Mapping[str, Callable[[], object]]) -> dict[str, int]:
    """Floating-point operations of each call, two for a product and its sum: `torch.utils.flop_counter`'s of matrix products,
    convolutions and attention, which is nearly all there is. The whole-number products of ternary layers count as well."""
    found = {}
    for name, call in calls.items():
        counter = FlopCounterMode(display=False, custom_mapping=_COUNTED)
        with torch.no_grad(), counter:
            call()
        found[name] = int(counter.get_total_flops())
    return found


def latencies(
    calls: Mapping[str, Callable[[], object]], repetitions: int, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Of each call {"median_ms", "p90_ms", "repetitions", "warm_up", "interval": {"median_ms": [low, high], "p90_ms"}}; weights are
    ternarised once, before. Intervals are of other repetitions in the same minute (`bootstrap.py`), empty of one."""
    found = {}
    with torch.no_grad(), ternarised_once():
        for name, call in calls.items():
            taken = [_time_ms(call, device) for _ in range(WARM_UP + repetitions)][WARM_UP:]
            found[name] = {
                "median_ms": statistics.median(taken),
                "p90_ms": percentile(taken, 0.9),
                "repetitions": repetitions,
                "warm_up": WARM_UP,
                "interval": latency_intervals(taken) if repetitions > 1 else {},
            }
    return found


def latency_intervals(taken_ms: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> dict[str, list[float]]:
    """[low, high] of the median and of the 90% of latencies, repetitions drawn anew."""
    drawn = np.sort(np.random.default_rng(seed).choice(taken_ms, (resamples, len(taken_ms))), axis=1)
    slow = drawn[:, max(0, math.ceil(0.9 * len(taken_ms)) - 1)]
    ends = percentiles(np.stack([np.median(drawn, axis=1), slow], axis=1))
    return dict(zip(("median_ms", "p90_ms"), ends.tolist(), strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least `share` of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def machine(device: torch.device) -> dict[str, Any]:
    """The processor and the accelerator, threads, system and versions."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _grounding(model: BitGen, image: ImageStates, text: TextStates) -> Callable[[], object]:
    device = image.start.device
    zero, span = torch.zeros(1, dtype=torch.int64, device=device), torch.tensor([[1, 3]], device=device)
    return lambda: model.ground(image, text, zero, zero, zero, span, 1)


def _token(model: BitGen, image: ImageStates) -> Callable[[], object]:
    """One step of decoding, each time from the same eight tokens."""
    context, mask = model.caption_context(image)
    token = torch.full((1, 1), model.text.token.end, device=context.device)
    start = model.decoder.start(context, mask)
    for _ in range(TOKENS // 2):
        model.decoder.step(model.text.token.ids(token), model.text.token, start)
    kept = [(layer.key, layer.value) for layer in start.layers]

    def step() -> Tensor:
        for layer, (key, value) in zip(start.layers, kept, strict=True):
            layer.key, layer.value = key, value
        start.length = TOKENS // 2
        return model.decoder.step(model.text.token.ids(token), model.text.token, start) @ model.text.token.head.T

    return step


def _time_ms(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def _ternary(model: BitGen) -> list[BitLinear]:
    return [layer for layer in model.modules() if isinstance(layer, BitLinear) and layer.ternary]


def _product(left: Sequence[int], right: Sequence[int], *_: object, **__: object) -> int:
    return 2 * left[0] * left[1] * right[1]


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (width + value[3])


_COUNTED: dict[Any, Callable[..., int]] = {
    torch.ops.aten._int_mm.default: _product,
    torch.ops.aten._int_mm: _product,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}
"""What torch's counter leaves out: whole-number products, and attention on a CPU."""
