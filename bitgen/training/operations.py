"""How much of what a device can do a run makes it do: model FLOPs utilisation (MFU; Source: arXiv 2204.02311, appendix B).

A micro-step is counted while it happens, the first of its kind: text bucket, trained adapters or not, images or features. That
changes no bit of it and costs a few milliseconds a thousand operators. What is counted are matrix products, convolutions and
attention, a multiplication and an addition each, by PyTorch's own formulas (torch.utils.flop_counter), in both passes and in
the functions that bring a backward pass of their own. A layer's second forward pass (`run.recompute`) is not: a model needs it
no more than without. Not counted either are factorisations of the memory (32 x 32) and everything elementwise.

What a device can do is in dense bfloat16 for the accelerators that are named below, whatever a run computes in. Any other device
is measured: by a product of matrices of bfloat16, or of float32 on a CPU.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bitgen.batch import Batch
from bitgen.training.layers import is_again

TFLOPS: Mapping[str, float] = {
    "A10": 125,
    "A30": 165,
    "A40": 149.7,
    "A100": 312,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "B200": 2250,
    "L4": 121,
    "L40": 181,
    "L40S": 362,
    "RTX 3090": 71,
    "RTX 4090": 165.2,
    "RTX A6000": 154.8,
}
"""10^12 operations a second in dense bfloat16 with sums in float32, by words of an accelerator's name. Source: NVIDIA's data
sheets (half of a figure that they give with sparsity), for GeForce cards the white papers of their architectures."""
_PART_OF_ONE = frozenset({"MIG", "Laptop", "Max"})
"""Words of a device's name that say it is less than the data sheet's."""

_aten = torch.ops.aten
_FORMULAS: Mapping[Any, Any] = {
    **flop_registry,
    _aten._int_mm: flop_registry[_aten.mm],
    _aten.addmm_: flop_registry[_aten.addmm],
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}
"""PyTorch's, and of operators that it has no formula for that of the operator that computes the same."""


class Operations(TorchDispatchMode):
    """Counts, within it, into `total`."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled graphs stay compiled: their products are seen as they are called."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(getattr(func, "_overloadpacket", None))
        if formula is not None and not is_again():
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


class Utilisation:
    """The MFU of one device, this rank's.

    Args:
        device: its peak is measured at once where no data sheet gives it: before anything else runs on it.
    """

    def __init__(self, device: torch.device) -> None:
        self._peak = peak(device)
        self._known: dict[tuple[int, bool, bool], float] = {}
        self._operations = 0.0
        self._images = 0

    @contextmanager
    def of(self, batch: Batch, trains_tower: bool) -> Iterator[None]:
        """Runs a micro-step inside, and notes what it took: counted, or as the first of its kind, image by image."""
        kind = (batch.token_ids.shape[1], trains_tower, batch.features is None)
        if kind in self._known:
            yield
        else:
            with Operations() as counted:
                yield
            self._known[kind] = counted.total / len(batch.keys)
        self._operations += self._known[kind] * len(batch.keys)
        self._images += len(batch.keys)

    def read(self, images_per_s: float) -> dict[str, float]:
        """`mfu`, 0..1, since the last reading, at this many images a second of this rank; nothing where there were no steps."""
        if not self._images:
            return {}
        found = images_per_s * self._operations / self._images / self._peak
        self._operations, self._images = 0.0, 0
        return {"mfu": found}


@cache
def peak(device: torch.device) -> float:
    """Operations a second that a device is good for: from a data sheet, or measured once."""
    if device.type == "cuda":
        words = set(torch.cuda.get_device_name(device).replace("-", " ").split())
        named = [name for name in TFLOPS if set(name.split()) <= words and not words & _PART_OF_ONE]
        if named:
            return 1e12 * TFLOPS[max(named, key=lambda name: len(name.split()))]
    return measured_peak(device, 2048) if device.type == "cpu" else measured_peak(device, 8192, torch.bfloat16)


def measured_peak(device: torch.device, side: int, dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of a product of two square matrices of `side`, the best of three."""
    matrix = torch.arange(side * side, device=device).remainder(7).view(side, side).to(dtype)
    found = 0.0
    for _ in range(3):
        start = time.perf_counter()
        _last(matrix @ matrix)
        found = max(found, 2 * side**3 / (time.perf_counter() - start))
    return found


def _last(product: Tensor) -> float:
    """Its last number, which waits for the device."""
    return product[-1, -1].item()
