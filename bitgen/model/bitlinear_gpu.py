"""The element-wise parts of a ternary layer on an accelerator: each in one kernel, where PyTorch's operators take up to fifteen.

Layers are small and steps are short: what a step costs there is how many kernels it starts. The numbers are those of
`bitlinear.py`, rounded at the same places: divisions and roots are correctly rounded, sums are in fp64, and no product is
fused with a sum (`enable_fp_fusion=False`), which would round once where two roundings are meant. A row is one program.

Triton comes with PyTorch where there is an accelerator for it; elsewhere nothing here is imported.

Axes: M rows (tokens), I and O widths.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDEST = 16384
"""Of a row, which a program holds whole."""
_EXACT = {"enable_fp_fusion": False}
_ELEMENTS = 1024
"""Of a weight, that a program rounds."""


@triton.jit
def _half_to_even(x):
    """Rounded to a whole number, for |x| below 2^22: adding 1.5 x 2^23 leaves no bit for a fraction."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def _activations(x, codes, scale, inverse, width, levels, smallest, EPS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
    peak = tl.maximum(tl.max(tl.abs(value), axis=0), smallest)
    code = _half_to_even(value * tl.div_rn(levels, peak))
    tl.store(codes + row * width + column, code.to(tl.int8), mask=inside)
    wide = value.to(tl.float64)
    mean = tl.sum(wide * wide, axis=0) / width
    length = (1.0 / tl.sqrt(mean + tl.full((), EPS, tl.float64))).to(tl.float32)
    tl.store(inverse + row, length)
    tl.store(scale + row, tl.div_rn(peak, levels) * length)


@triton.jit
def _weights(weight, total, codes, scale, count, smallest, BLOCK: tl.constexpr):
    mean = tl.maximum((tl.load(total) / count).to(tl.float32), smallest)
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    value = tl.div_rn(tl.load(weight + place, mask=inside, other=0.0), mean)
    code = tl.minimum(tl.maximum(_half_to_even(value), -1.0), 1.0)
    tl.store(codes + place, code.to(tl.int8), mask=inside)
    if tl.program_id(0) == 0:
        tl.store(scale, mean)


@triton.jit
def _through_norm(product, x, inverse, weight_scale, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside, place = column < width, row * width + column
    length = tl.load(inverse + row)
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    pulled = tl.load(product + place, mask=inside, other=0.0).to(tl.float32) * (tl.load(weight_scale) * length)
    along = tl.sum(pulled * value, axis=0) / width * (length * length)
    tl.store(out + place, (pulled - value * along).to(out.dtype.element_ty), mask=inside)


def activations(x: Tensor, levels: int, smallest: float, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of x [M, I]: codes [M, I] as bytes; max|n| / levels of each normalised row, [M, 1]; 1 / rms of each row, [M, 1]."""
    x = x.contiguous()
    codes = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scale, inverse = (torch.empty(x.shape[0], 1, dtype=torch.float32, device=x.device) for _ in range(2))
    block, how = _row(x.shape[1])
    if len(x):
        _activations[(len(x),)](x, codes, scale, inverse, x.shape[1], float(levels), smallest, eps, block, **how)  # pyright: ignore[reportArgumentType]
    return codes, scale, inverse


def weights(weight: Tensor, smallest: float) -> tuple[Tensor, Tensor]:
    """As `bitlinear.ternarise`, of a weight in fp32."""
    weight = weight.contiguous()
    total = torch.linalg.vector_norm(weight, 1, dtype=torch.float64)
    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty((), dtype=torch.float32, device=weight.device)
    count = weight.numel()
    _weights[(triton.cdiv(count, _ELEMENTS),)](weight, total, codes, scale, count, smallest, _ELEMENTS, **_EXACT)  # pyright: ignore[reportArgumentType]
    return codes, scale


def through_norm(product: Tensor, x: Tensor, inverse: Tensor, weight_scale: Tensor) -> Tensor:
    """dL/dx [M, I] in x's dtype from `product` [M, I], the gradient times the weight's codes: as `_Ternary.backward` says."""
    product, x = product.contiguous(), x.contiguous()
    out = torch.empty_like(x)
    block, how = _row(x.shape[1])
    if len(x):
        _through_norm[(len(x),)](product, x, inverse, weight_scale, out, x.shape[1], block, **how)  # pyright: ignore[reportArgumentType]
    return out


def _row(width: int) -> tuple[int, dict[str, int | bool]]:
    """Elements and warps of a program for a row."""
    block = triton.next_power_of_2(width)
    return block, _EXACT | {"num_warps": max(1, min(16, block // 256))}
