"""Pieces of a transformer block that pass over memory as seldom as they can; each equals its module form.

On one CPU core a training step of a small model spends a quarter of its time moving activations about: RMS
normalisation alone is six passes as separate tensor operations, and keeps three tensors for its gradient. Here each
gradient is written out. Under autocast the module forms run, since the written ones know one precision only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def written_out(x: Tensor) -> bool:
    """Whether the written gradients apply: one precision throughout."""
    return x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)


def rms_norm(module: Any, x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    if not written_out(x):
        return module(x)
    out: Tensor = _RmsNorm.apply(x, module.weight, module.variance_epsilon)
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020, arXiv:2002.05202)."""
    if not written_out(gate):
        return F.silu(gate) * up
    out: Tensor = _Swiglu.apply(gate, up)
    return out


def rotate(x_BLHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864): halves (a, b) of the last axis become
    (a cos - b sin, b cos + a sin); `cos` and `sin` are [B, L, 1, D / 2]."""
    if not written_out(x_BLHD):
        a, b = x_BLHD.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x_BLHD.dtype)
    out: Tensor = _Rotate.apply(x_BLHD, cos, sin)
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return torch.mul(x, scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        dx = dweight = None
        if ctx.needs_input_grad[1]:
            dweight = (grad * x).mul_(scale).flatten(0, -2).sum(0)
        if ctx.needs_input_grad[0]:
            dx = grad * weight
            pull = torch.linalg.vecdot(dx, x).unsqueeze(-1).mul_(scale.pow(3)).div_(x.shape[-1])
            dx.mul_(scale).addcmul_(x, pull, value=-1)
        return dx, dweight, None


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, sin, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (a, b), (first, second) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(a, cos, out=first).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=second).addcmul_(a, sin, value=sign)
    return out
