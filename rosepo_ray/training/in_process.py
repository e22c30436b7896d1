"""Training in one process, without a cluster and without checkpoints: for libraries, examples and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rosepo_ray.config.training import FitSettings
from rosepo_ray.training import loop
from rosepo_ray.training.checkpoint import trainable
from rosepo_ray.training.program import Program
from rosepo_ray.training.world import World


def _ignore(*_: Any) -> None:
    pass


def train(
    program: Program,
    fit: FitSettings,
    steps: int,
    on_step: Callable[[int, dict[str, float]], None] = _ignore,
) -> None:
    """Train `steps` steps of a program that was built for `World()`, or as many as its watch lets it, and leave it with
    the best weights; `on_step(step, metrics)` follows each."""
    best: dict[str, Tensor] = {}

    def keep(state: loop.State) -> None:
        best.update({name: weight.clone() for name, weight in trainable(state.module).items()})

    loop.fit(loop.start(program, fit), program, fit, steps, World(), on_step, _ignore, on_best=keep)
    with torch.no_grad():
        for name, weight in (trainable(program.module) if best else {}).items():
            weight.copy_(best[name])
