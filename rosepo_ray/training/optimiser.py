"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with linear warm-up and cosine decay to zero."""

from __future__ import annotations

import math

import torch
from torch import nn

from rosepo_ray.config.training import FitSettings


def build_optimiser(module: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; only matrices decay, since decaying norms and biases merely shrinks them."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), foreach=True)


def learning_rate(settings: FitSettings, step: int, total_steps: int) -> float:
    """Rate of the optimiser step number `step` (from 0): linear to the peak over the warm-up, then cosine to zero."""
    warm = max(1, round(settings.warmup * total_steps))
    if step < warm:
        return settings.lr * (step + 1) / warm
    share = (step - warm) / max(1, total_steps - warm)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
