"""Linear maps of one input, with low-rank adapters added to the weights instead of to the outputs.

peft computes x W^T + s (x A^T) B^T: two thin products and two passes over the output. Here the sum W + s B A is formed
once for all passes of an optimiser step, forward and backward, and kept: as much memory as the adapted weights take.
Under autocast (where a sum in bf16 would round the adapter away) and for every other kind of adapter, the modules
themselves run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

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
    sums = [_summed(*parts) for parts in zip(modules, weights, downs, ups, scales, strict=True)]
    outputs: Sequence[Tensor] = _Adapted.apply(x, scales, biases, *sums, *downs, *ups)
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


_SUMS: WeakKeyDictionary[nn.Module, tuple[Any, Tensor]] = WeakKeyDictionary()
"""The last sum of each map, and what its parts were then."""


def _summed(module: nn.Module, weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """W + s B A, written anew where a part was changed in place or replaced since. Its buffer stays the same, so that a
    backward pass fails whose forward pass saw another sum, as with any weight that was changed in between."""
    state = scale, *((part.data_ptr(), part._version, part.dtype) for part in (weight, down, up))
    before, total = _SUMS.get(module, (None, weight))
    if before != state:
        with torch.inference_mode(False), torch.no_grad():  # what scoring leaves must do for training too
            fresh = before is None or (total.dtype, total.device) != (weight.dtype, weight.device)
            total = torch.empty_like(weight) if fresh else total
            torch.addmm(weight, up, down, alpha=scale, out=total)
        _SUMS[module] = state, total
    return total


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scales: Sequence[float], biases: Sequence[Tensor | None], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        sums, _, _ = _thirds(tensors)
        ctx.save_for_backward(x, *tensors)
        ctx.scales = scales
        return tuple(F.linear(x, total, bias) for total, bias in zip(sums, biases, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, *tensors = ctx.saved_tensors
        sums, downs, ups = _thirds(tensors)
        flat = x.reshape(-1, x.shape[-1])
        grads = tuple(grad.reshape(-1, grad.shape[-1]) for grad in grads)
        dx = _into_input(grads, sums).view(x.shape) if ctx.needs_input_grad[0] else None
        ranks = [len(down) for down in downs]
        # The thin products with x are done for all maps at once.
        low = torch.mm(flat, torch.cat(list(downs)).t()).split(ranks, 1)
        back = torch.cat([torch.mm(grad, up).mul_(s) for grad, up, s in zip(grads, ups, ctx.scales, strict=True)], 1)
        ddowns = torch.mm(back.t(), flat).split(ranks)
        dups = [torch.mm(grad.t(), part).mul_(s) for grad, part, s in zip(grads, low, ctx.scales, strict=True)]
        return dx, None, None, *[None] * len(sums), *ddowns, *dups


def _into_input(grads: Sequence[Tensor], sums: Sequence[Tensor]) -> Tensor:
    total = torch.mm(grads[0], sums[0])
    for grad, weight in zip(grads[1:], sums[1:], strict=True):
        total.addmm_(grad, weight)
    return total


def _thirds(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    count = len(tensors) // 3
    return tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
