"""A linear layer of 1.58 bits a weight, trained as it will run.

What it computes, for tokens x [..., I] and weight W [O, I]:

    n = x / rms(x)                     parameter-free RMSNorm, per token
    a = round(127 n / max|n|)          8-bit activations, per token
    w = clip(round(W / mean|W|))       -1, 0 or 1, per tensor
    y = (a wᵀ) · max|n|/127 · mean|W|  [..., O]

The product multiplies whole numbers and adds them in fp32, where every sum below 2^24 is exact, and scales afterwards.
So no order of summation, no batch and no kernel changes it, and training computes what an int8 runtime computes.
Gradients go straight through both roundings and through neither scale. Training and evaluation are one graph.

The norm divides a token by one number, which dividing by its own largest value undoes: the codes are taken from x
itself, and the norm only scales the output. Bit for bit, each line rounded to fp32 once and halves to even:

    s = mean|W| in fp64                w = clip(round(W / s), -1, 1)
    p = max|x|                         a = round(x · (127 / p))
    r = (mean x² + 1e-6)^-½ in fp64    y = (a wᵀ) · (((p / 127) · r) · s)

On an accelerator with Triton each of the lines is one kernel (`bitlinear_gpu.py`), and the product is of bytes. The products of
the backward pass, which hold no promise, are in fp32, or under autocast in its type.

Sums in fp64 are off by less than 2^-29 of an fp32 digit per term, so their order, which depends on threads and device,
does not show after rounding (in fp32, mean|W| of 512 x 256 weights differed among 1, 2 and 4 threads in 22 of 30 draws).

Source: arXiv 2402.17764 (absmean, absmax, straight-through); github.com/pytorch/ao, quantized_training (norm inside).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook

LEVELS = 127
"""The largest activation code."""
WIDEST = 2**24 // LEVELS
"""Of `in`: up to here every sum of codes is exact in fp32."""
NORM_EPS = 1e-6
"""Added to the mean square of a token, so that an all-zero one (padding) stays zero."""
SMALLEST_MEAN = 1e-5
"""Of |weight|: a tensor of zeros has codes of zero, not NaN."""
SMALLEST_PEAK = 1e-30
"""Of |x| in a token, likewise."""


@cache
def _kernels() -> ModuleType | None:
    """`bitlinear_gpu`, where there is Triton."""
    return import_module("bitgen.model.bitlinear_gpu") if find_spec("triton") else None


def _fused(x: Tensor) -> ModuleType | None:
    """The kernels for `x` [..., I]; None where PyTorch's operators do it."""
    if x.device.type != "cuda" or torch.compiler.is_compiling():
        return None
    kernels = _kernels()
    return kernels if kernels is not None and x.shape[-1] <= kernels.WIDEST else None


def ternarise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes -1, 0 and 1 as bytes, shaped like `weight`, and their scale, a scalar. No gradient."""
    weight = weight.detach().float()
    kernels = _fused(weight)
    if kernels is not None:
        return kernels.weights(weight, SMALLEST_MEAN)
    magnitude = weight.abs()
    scale = magnitude.mean(dtype=torch.float64).float().clamp_min_(SMALLEST_MEAN)
    return torch.div(weight, scale, out=magnitude).round_().clamp_(-1, 1).to(torch.int8), scale


@dataclass(frozen=True)
class _Kept:
    """What a weight became, and how to tell that it is still the same."""

    values: Tensor
    """The weight's storage then, held so that nothing else takes its address."""
    version: int
    codes: Tensor
    scale: Tensor

    def is_of(self, weight: Tensor) -> bool:
        return weight._version == self.version and weight.data_ptr() == self.values.data_ptr()


_kept: ContextVar[dict[int, _Kept] | None] = ContextVar("_kept", default=None)


@contextmanager
def ternarised_once() -> Iterator[None]:
    """Within it, layers ternarise a weight at its first use and again only when it has changed; as a decorator, in each call.

    For a stretch in which nobody trains the weights, such as the micro-steps of one optimizer step. Nothing outlives it,
    so what an optimizer, a checkpoint or a move to another device does between two stretches needs no notice. Inside,
    any optimizer's step forgets everything (a fused one leaves no trace in a weight's version), and else a weight counts as
    changed by its version and its address. Writing through `weight.data` or a NumPy view escapes both: not inside.
    """
    kept: dict[int, _Kept] = {}
    token = _kept.set(kept)
    hook = register_optimizer_step_post_hook(lambda *_: kept.clear())
    try:
        yield
    finally:
        hook.remove()
        _kept.reset(token)


def weight_codes_of(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`ternarise(weight)`, or what it gave before within `ternarised_once`."""
    # A compiled graph takes a tensor of another call for a constant; tensors made in inference mode have no version.
    kept = None if torch.compiler.is_compiling() or weight.is_inference() else _kept.get()
    if kept is None:
        return ternarise(weight)
    found = kept.get(id(weight))
    if found is None or not found.is_of(weight):
        with torch.inference_mode(False):  # or a backward pass could not use them afterwards
            found = kept[id(weight)] = _Kept(weight.detach(), weight._version, *ternarise(weight))
    return found.codes, found.scale


def quantise_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes from -127 to 127 as bytes, shaped like x [..., I], and each token's scale, [..., 1]. No gradient."""
    x = x.detach().float()
    magnitude = x.abs()
    peak = magnitude.amax(-1, keepdim=True).clamp_min_(SMALLEST_PEAK)
    # One division, correctly rounded: `LEVELS / peak` is a reciprocal times a number, whose ties fall elsewhere.
    factor = peak.new_full((), LEVELS) / peak
    return torch.mul(x, factor, out=magnitude).round_().to(torch.int8), peak.div_(LEVELS)


def inverse_rms(x: Tensor) -> Tensor:
    """1 / rms of each token of x [..., I], [..., 1] in fp32. No gradient."""
    length = torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True, dtype=torch.float64)
    return length.square_().div_(x.shape[-1]).add_(NORM_EPS).rsqrt_().float()


def normalise_activations(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of x [M, I], the scale of each normalised token, [M, 1], and 1 / rms of each token, [M, 1]. No gradient."""
    kernels = _fused(x)
    if kernels is not None:
        return kernels.activations(x.detach(), LEVELS, SMALLEST_PEAK, NORM_EPS)
    codes, scale = quantise_activations(x)
    inverse = inverse_rms(x)
    return codes, scale * inverse, inverse


@cache
def _has_byte_products() -> bool:
    """Whether this CPU multiplies bytes in hardware (VNNI); elsewhere torch's byte product is a plain loop."""
    return torch.cpu._is_vnni_supported()


def multiply(codes: Tensor, weight_codes: Tensor) -> Tensor:
    """codes weight_codesᵀ of bytes [M, I] and [O, I], [M, O]: exact whole numbers, on every device, in fp32 or int32.

    In bytes on a CPU that can (2.1 times as fast as fp32 for [2048, 128] x [128, 256] on one AVX512 thread) and on NVIDIA's
    accelerators, for the shapes that they take; else in fp32, TF32 included: its 10 bits hold every code.
    """
    if codes.is_cuda and codes.shape[0] > 16 and codes.shape[1] % 8 == 0 and weight_codes.shape[0] % 8 == 0:
        return torch._int_mm(codes, weight_codes.t())  # pyright: ignore[reportPrivateImportUsage]
    # Not at one channel, of which torch 2.14 multiplies bytes that lie elsewhere.
    is_wide = codes.shape[1] > 1
    if is_wide and codes.device.type == "cpu" and not torch.compiler.is_compiling() and _has_byte_products():
        return torch._int_mm(codes, weight_codes.t()).float()  # pyright: ignore[reportPrivateImportUsage]
    return torch.mm(codes.float(), weight_codes.float().t())


class _Ternary(torch.autograd.Function):
    """x [M, I], weight [O, I] with its codes and scale -> [M, O] in `out`. Keeps x, its codes and two numbers a token.

    `dtype` is that of the products of the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        weight_codes: Tensor,
        weight_scale: Tensor,
        dtype: torch.dtype,
        out: torch.dtype,
    ) -> Tensor:
        codes, scale, inverse = normalise_activations(x)
        ctx.save_for_backward(x, codes, scale, inverse, weight_codes, weight_scale)
        ctx.dtype = dtype
        product, factor = multiply(codes, weight_codes), scale * weight_scale
        if product.dtype == out:
            return product.mul_(factor)
        return torch.mul(product, factor, out=product.new_empty(product.shape, dtype=out))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, codes, scale, inverse, weight_codes, weight_scale = ctx.saved_tensors
        to_x = to_weight = None
        with torch.autocast(gradient.device.type, enabled=False):
            if ctx.needs_input_grad[1]:
                weighted = torch.mul(gradient, scale, out=gradient.new_empty(gradient.shape, dtype=ctx.dtype))
                to_weight = torch.mm(weighted.t(), codes.to(ctx.dtype)).float()
            if ctx.needs_input_grad[0]:
                pulled = torch.mm(gradient.to(ctx.dtype), weight_codes.to(ctx.dtype))
                to_x = _through_norm(pulled, x, inverse, weight_scale)
        return to_x, to_weight, None, None, None, None


def _through_norm(product: Tensor, x: Tensor, inverse: Tensor, weight_scale: Tensor) -> Tensor:
    """dL/dx of x [M, I], in its dtype, from `product` [M, I], the gradient times the weight's codes.

    n = r x with r = 1 / rms(x), so with h = r dL/dn: dL/dx = h - x r² mean(h x).
    """
    kernels = _fused(x)
    if kernels is not None:
        return kernels.through_norm(product, x, inverse, weight_scale)
    pulled, wide = product.float().mul_(weight_scale * inverse), x.float()
    along = (pulled * wide).mean(-1, keepdim=True).mul_(inverse.square())
    return pulled.addcmul_(wide, along, value=-1).to(x.dtype)


class BitLinear(nn.Module):
    """RMSNorm and a linear map without bias, [..., in] -> [..., out], in ternary weights and 8-bit activations.

    `ternary=False` is the full-precision twin: the same parameters, norm and shapes without the two roundings. Either
    way `weight` [out, in] is the latent full-precision one, drawn so that outputs start with a variance of about 1.

    The ternary map runs in fp32 whatever autocast says, and returns fp32 unless it is to round for what takes its output in
    autocast's type anyway, such as attention; the twin follows autocast.
    """

    def __init__(self, in_width: int, out_width: int, ternary: bool = True) -> None:
        super().__init__()
        if not 0 < in_width <= WIDEST:
            raise ValueError(f"expected an input width from 1 to {WIDEST}, came {in_width}")
        self.in_width, self.out_width, self.ternary = in_width, out_width, ternary
        self.weight = nn.Parameter(torch.empty(out_width, in_width))
        nn.init.normal_(self.weight, std=in_width**-0.5)

    def forward(self, x: Tensor, rounds: bool = False) -> Tensor:
        """[..., out] of x [..., in]. `rounds`: in autocast's type where there is one, else in fp32."""
        if not self.ternary:
            return functional.linear(functional.rms_norm(x, (self.in_width,), eps=NORM_EPS), self.weight)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        with torch.autocast(kind, enabled=False):
            rows = x.reshape(-1, self.in_width)
            y = _Ternary.apply(
                rows, self.weight, *weight_codes_of(self.weight), dtype, dtype if rounds else torch.float32
            )
            return y.view(*x.shape[:-1], self.out_width)  # pyright: ignore

    def extra_repr(self) -> str:
        return f"{self.in_width}, {self.out_width}, ternary={self.ternary}"
