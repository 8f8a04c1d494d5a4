"""A linear layer of 1.58 bits a weight, trained as it will run.

What it computes, for tokens x [..., I] and weight W [O, I]:

    n = x / rms(x)                     parameter-free RMSNorm, per token
    a = round(127 n / max|n|)          8-bit activations, per token
    w = clip(round(W / mean|W|))       -1, 0 or 1, per tensor
    y = (a wᵀ) · max|n|/127 · mean|W|  [..., O]

The product multiplies whole numbers and adds them in fp32, where every sum below 2^24 is exact, and scales afterwards. So no
order of summation, no batch and no kernel changes a result, and training computes what an int8 runtime computes.
Gradients go straight through both roundings, and through neither scale. Training and evaluation are one graph.

The norm divides a token by one number, which the rounding to its own largest value takes out again: the codes are taken from x
itself, and the norm only scales the output.

Source: arXiv 2402.17764 (absmean, absmax, straight-through); norm inside the layer: github.com/pytorch/ao, quantized_training.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.autograd.function import FunctionCtx, once_differentiable

LEVELS = 127
"""The largest activation code."""
NORM_EPS = 1e-6
"""Added to the mean square of a token, so that an all-zero one (padding) stays zero."""
SMALLEST_SCALE = 1e-5
"""Of a weight: a tensor of zeros has codes of zero, not NaN."""
SMALLEST_PEAK = 1e-30
"""Of a token, likewise."""


def ternarise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes -1, 0, 1 in fp32, shaped like `weight`, and their scale, a scalar: codes times scale stand for the weight."""
    weight = weight.detach().float()
    scale = weight.abs().mean().clamp_min(SMALLEST_SCALE)
    return (weight / scale).round_().clamp_(-1, 1), scale


def quantise_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers in -127..127 as fp32, [..., I], and the scale of each token, [..., 1]; no gradient."""
    x = x.detach().float()
    peak = x.abs().amax(-1, keepdim=True).clamp_min(SMALLEST_PEAK)
    return (x * (LEVELS / peak)).round_(), peak / LEVELS


def inverse_rms(x: Tensor) -> Tensor:
    """1 / rms of each token, [..., 1], of x [..., I] in fp32."""
    return torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1] + NORM_EPS)


class _Ternary(torch.autograd.Function):
    """x [M, I], weight [O, I] -> [M, O] in fp32. Keeps x, its codes as bytes and two numbers a token for the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        weight_codes, weight_scale = ternarise(weight)
        codes, scale = quantise_activations(x)
        inverse = inverse_rms(x.detach().float())
        scale = scale * inverse
        ctx.save_for_backward(x, codes.to(torch.int8), scale, inverse, weight_codes, weight_scale)
        return torch.mm(codes, weight_codes.t()).mul_(scale).mul_(weight_scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, codes, scale, inverse, weight_codes, weight_scale = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        needs_x, needs_weight = ctx.needs_input_grad  # pyright: ignore[reportAttributeAccessIssue]
        (gradient,) = gradients
        with torch.autocast(gradient.device.type, enabled=False):
            gradient = gradient.float()
            to_x = to_weight = None
            if needs_weight:
                to_weight = torch.mm(gradient.t(), codes * scale)
            if needs_x:
                to_norm = torch.mm(gradient, weight_codes * weight_scale).mul_(inverse)
                # d(x r)/dx with r = 1/rms(x): r (g - x r² mean(g x)); `to_norm` is r g already.
                wide = x.float()
                along = torch.linalg.vecdot(to_norm, wide).unsqueeze(-1).mul_(inverse.square() / x.shape[-1])
                to_x = to_norm.addcmul_(wide, along, value=-1).to(x.dtype)
        return to_x, to_weight


class BitLinear(nn.Module):
    """RMSNorm and a linear map without bias, [..., in] -> [..., out], in ternary weights and 8-bit activations.

    `ternary=False` is the full-precision twin: the same parameters, norm and shapes without the two roundings.
    `weight` [out, in] is the latent full-precision one in both cases.

    The ternary map runs in fp32 whatever autocast says, and returns fp32; the twin follows autocast.
    """

    def __init__(self, in_width: int, out_width: int, ternary: bool = True) -> None:
        super().__init__()
        self.in_width, self.out_width, self.ternary = in_width, out_width, ternary
        self.weight = nn.Parameter(torch.empty(out_width, in_width))
        nn.init.normal_(self.weight, std=in_width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        if not self.ternary:
            return functional.linear(functional.rms_norm(x, (self.in_width,), eps=NORM_EPS), self.weight)
        with torch.autocast(x.device.type, enabled=False):
            return _Ternary.apply(x.reshape(-1, self.in_width), self.weight).view(*x.shape[:-1], self.out_width)

    def extra_repr(self) -> str:
        return f"{self.in_width}, {self.out_width}, ternary={self.ternary}"
