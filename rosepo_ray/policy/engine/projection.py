"""Linear maps of one input, with low-rank adapters added to the weights instead of to the outputs.

peft computes x W^T + s (x A^T) B^T: two thin products and two passes over the output. With rank 16 the sum W + s B A
costs a hundredth of the product with x, so it is formed for each use, in the backward pass again, and never kept.
Under autocast (where a sum in bf16 would round the adapter away) and for every other kind of adapter, the modules
themselves run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rosepo_ray.policy.engine.ops import written_out


def project(modules: Sequence[Any], x: Tensor) -> Sequence[Tensor]:
    """What each module makes of x [..., H]: outputs [..., its features]."""
    if not written_out(x) or not all(_plain_lora(module) for module in modules):
        return [module(x) for module in modules]
    found = [(module, module.active_adapters[0]) for module in modules]
    weights = [module.base_layer.weight for module in modules]
    downs = [module.lora_A[name].weight for module, name in found]
    ups = [module.lora_B[name].weight for module, name in found]
    scales = [module.scaling[name] for module, name in found]
    biases = [module.base_layer.bias for module in modules]
    outputs: Sequence[Tensor] = _Adapted.apply(x, scales, biases, *weights, *downs, *ups)
    return outputs


def _plain_lora(module: Any) -> bool:
    """One unmerged LoRA adapter without extras over a frozen linear layer."""
    base = getattr(module, "base_layer", None)
    if type(base) is not nn.Linear or not hasattr(module, "lora_A") or len(module.active_adapters) != 1:
        return False
    name = module.active_adapters[0]
    frozen = not any(parameter.requires_grad for parameter in base.parameters())
    return (
        frozen
        and name in module.lora_A
        and not (module.merged or module.disable_adapters)
        and type(module.lora_A[name]) is nn.Linear
        and not getattr(module, "lora_variant", {})
        and not getattr(module, "lora_bias", {}).get(name)
        and isinstance(module.lora_dropout[name], nn.Identity)
        and module.lora_A[name].weight.dtype == base.weight.dtype
    )


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scales: Sequence[float], biases: Sequence[Tensor | None], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        weights, downs, ups = _thirds(tensors)
        ctx.save_for_backward(x, *tensors)
        ctx.scales = scales
        flat = x.reshape(-1, x.shape[-1])
        outputs = []
        for weight, down, up, scale, bias in zip(weights, downs, ups, scales, biases, strict=True):
            merged = torch.addmm(weight, up, down, alpha=scale)
            outputs.append(F.linear(flat, merged, bias).view(*x.shape[:-1], -1))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, *tensors = ctx.saved_tensors
        weights, downs, ups = _thirds(tensors)
        flat = x.reshape(-1, x.shape[-1])
        grads = tuple(grad.reshape(-1, grad.shape[-1]) for grad in grads)
        dx = _into_input(grads, weights, downs, ups, ctx.scales).view(x.shape) if ctx.needs_input_grad[0] else None
        ranks = [len(down) for down in downs]
        # The thin products with x are done for all maps at once.
        low = torch.mm(flat, torch.cat(list(downs)).t()).split(ranks, 1)
        back = torch.cat([torch.mm(grad, up).mul_(s) for grad, up, s in zip(grads, ups, ctx.scales, strict=True)], 1)
        ddowns = torch.mm(back.t(), flat).split(ranks)
        dups = [torch.mm(grad.t(), part).mul_(s) for grad, part, s in zip(grads, low, ctx.scales, strict=True)]
        return dx, None, None, *[None] * len(weights), *ddowns, *dups


def _into_input(
    grads: Sequence[Tensor],
    weights: Sequence[Tensor],
    downs: Sequence[Tensor],
    ups: Sequence[Tensor],
    scales: Sequence[float],
) -> Tensor:
    total: Tensor | None = None
    for grad, weight, down, up, scale in zip(grads, weights, downs, ups, scales, strict=True):
        merged = torch.addmm(weight, up, down, alpha=scale)
        total = torch.mm(grad, merged) if total is None else total.addmm_(grad, merged)
    assert total is not None
    return total


def _thirds(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    count = len(tensors) // 3
    return tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
