"""Matrix products in float32 on a CPU: PyTorch sends them to MKL on x86, here the large ones go to oneDNN.

On the AMD processor of our benchmarks MKL reaches 55 to 85 GFLOP/s a core and oneDNN 85 to 100, at the same shapes
(`benchmarks/flop_bound.py` measures both). oneDNN makes a kernel for each new shape, in about a millisecond; a model's
layers share it, and smaller products, where it would cost more than it gains, stay with MKL. The shape alone decides
which of the two runs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST = 1 << 25
"""Multiplications of a product from which on oneDNN is asked: about a millisecond by MKL."""


def product(a_MI: Tensor, b_IN: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """a b + bias [M, N], without gradients of its own."""
    onednn = onednn_for(a_MI, b_IN.shape[1])
    if onednn is not None:
        out: Tensor = onednn(a_MI, b_IN.t(), bias_N, "none", [], "")
        return out
    return torch.mm(a_MI, b_IN) if bias_N is None else torch.addmm(bias_N, a_MI, b_IN)


def add_product(total_MN: Tensor, a_MI: Tensor, b_IN: Tensor) -> Tensor:
    """total + a b, written into `total`."""
    if onednn_for(a_MI, b_IN.shape[1]) is None:
        return total_MN.addmm_(a_MI, b_IN)
    return total_MN.add_(product(a_MI, b_IN))


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    """`module(x)` [..., its features], by :func:`product` where that is oneDNN and nothing is hooked to the module."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    if hooked or onednn_for(x, len(module.weight)) is None:
        return torch.as_tensor(module(x))
    return torch.as_tensor(_Linear.apply(x, module.weight, module.bias))


def onednn_for(a: Tensor, columns: int) -> Any:
    """oneDNN's operation where it is worth asking for a [..., I] times [I, columns], else None."""
    if a.dtype != torch.float32 or a.device.type != "cpu" or a.numel() * columns < LEAST:
        return None
    return _onednn() if torch.backends.mkldnn.enabled else None


@cache
def _onednn() -> Any:
    """x W^T + b, an operation that PyTorch's compiler uses; None where this build lacks it or it answers otherwise than
    :func:`torch.addmm`, with W as it lies in memory or transposed."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")
        for shape in ((48, 40), (32, 40), (32,))
    )
    try:
        operation = torch.ops.mkldnn._linear_pointwise
        for laid in (weight, weight.t().contiguous().t()):
            for added in (bias, None):
                wanted = torch.mm(x, weight.t()) + (0 if added is None else added)
                if not torch.allclose(operation(x, laid, added, "none", [], ""), wanted, atol=1e-4):
                    return None
    except (AttributeError, RuntimeError, TypeError):
        return None
    return operation


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Only the weight's gradient needs x.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.shape = x.shape
        return product(x.reshape(-1, x.shape[-1]), weight.t(), bias).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        into_x, into_weight, into_bias = ctx.needs_input_grad
        return (
            product(flat, weight).view(ctx.shape) if into_x else None,
            # Its inner axis is the rows', where oneDNN is no faster.
            torch.mm(flat.t(), x.reshape(-1, x.shape[-1])) if into_weight else None,
            flat.sum(0) if into_bias else None,
        )
