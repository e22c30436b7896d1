"""Preference objectives: one pure function per file, found by the `type` of `align.objective`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rosepo_ray.losses.conservative import conservative
from rosepo_ray.losses.margin import margins
from rosepo_ray.losses.robust import robust

Objective = Callable[[Tensor, Tensor, float], Tensor]
"""(margins_BK, epsilon_BK, beta) -> loss_BK, not reduced."""

OBJECTIVES: dict[str, Objective] = {"conservative": conservative, "robust": robust}

__all__ = ["OBJECTIVES", "Objective", "conservative", "margins", "robust"]
