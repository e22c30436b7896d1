"""Matrix products in float32 on a CPU: PyTorch sends them to MKL, here the large ones go to oneDNN.

On the AMD processor of our benchmarks MKL reaches 55 to 85 GFLOP/s a core and oneDNN 85 to 100, at the same shapes
(`benchmarks/flop_bound.py` measures both). oneDNN makes a kernel for each new shape, which takes about a millisecond
and serves all layers; products so small that this would not pay stay with MKL. The shape alone decides which runs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST = 1 << 25
"""Multiplications of a product from which on oneDNN is asked: about a millisecond by MKL."""


def large(rows: int, inner: int, columns: int) -> bool:
    return rows * inner * columns >= LEAST


def product(a_MI: Tensor, b_IN: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """a b + bias [M, N], without gradients of its own."""
    if a_MI.dtype == torch.float32 and a_MI.device.type == "cpu" and large(len(a_MI), *b_IN.shape):
        onednn = _onednn()
        if onednn is not None:
            out: Tensor = onednn(a_MI, b_IN.t(), bias_N, "none", [], "")
            return out
    return torch.mm(a_MI, b_IN) if bias_N is None else torch.addmm(bias_N, a_MI, b_IN)


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    """`module(x)` [..., its features], by :func:`product` where it is large."""
    if x.device.type != "cpu" or not large(x.numel() // x.shape[-1], *module.weight.shape):
        return torch.as_tensor(module(x))
    return torch.as_tensor(_Linear.apply(x, module.weight, module.bias))


@cache
def _onednn() -> Any:
    """x W^T + b as PyTorch's compiler calls it; None where this build of PyTorch has no such operation."""
    try:
        operation = torch.ops.mkldnn._linear_pointwise
        operation(torch.zeros(1, 1), torch.zeros(1, 1), None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return None
    return operation


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x.reshape(-1, x.shape[-1]), weight.t(), bias).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        into_x, into_weight, into_bias = ctx.needs_input_grad
        return (
            product(flat, weight).view(x.shape) if into_x else None,
            # Its inner axis is the rows', where oneDNN is no faster.
            torch.mm(flat.t(), x.reshape(-1, x.shape[-1])) if into_weight else None,
            flat.sum(0) if into_bias else None,
        )
