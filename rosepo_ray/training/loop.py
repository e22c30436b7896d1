"""The training loop that oracle, SFT and alignment share. It knows no particular model and no cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rosepo_ray.config.training import FitSettings
from rosepo_ray.errors import RosepoError
from rosepo_ray.training.optimiser import build_optimiser, learning_rate
from rosepo_ray.training.world import World

Loss = Callable[[Any, Any], tuple[Tensor, dict[str, float]]]
"""(outputs, micro-batch) -> (summed loss as a scalar tensor, sums of other quantities by name)."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass."""

    inputs: Any
    """What the module is called with; has `.to(device)` where it holds tensors."""
    count: int
    """What the loss sum is divided by, added over micro-batches and ranks (rows, or response tokens in SFT). 0 marks
    rows that only keep a rank in step."""
    row_ids: list[str]
    tokens: int = 0
    """Tokens processed, for the throughput."""


@dataclass
class State:
    """Everything that a resumed run needs. All randomness derives from (seed, row, purpose), so the position stands
    for the state of the random generators."""

    module: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0


def start(module: nn.Module, settings: FitSettings) -> State:
    return State(module, build_optimiser(module, settings))


def fit(
    state: State,
    batches: Iterable[list[MicroBatch]],
    loss: Loss,
    settings: FitSettings,
    total_steps: int,
    world: World,
    on_step: Callable[[int, dict[str, float]], None],
    on_checkpoint: Callable[[State], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train from `state.step` to `total_steps`; `batches` yields this rank's micro-batches from that step on.

    The gradient is that of (sum of all losses) / (sum of all counts) over the global batch. `on_step(step, metrics)`
    gets global means on every rank; `on_checkpoint(state)` is called each `settings.checkpoint_every` steps, and before
    an early end: once `should_stop()` holds on some rank, all ranks end before the next step.

    Raises RosepoError naming the rows when a loss or gradient is not finite; nothing is stepped then. What `batches`
    raises comes out at the step that it was for.
    """
    model = world.wrap(state.module)
    state.module.train()
    supply: Iterator[list[MicroBatch]] = iter(batches)
    with ThreadPoolExecutor(1) as beside:
        prepared = _prepare(supply, beside, world)
        while state.step < total_steps:
            began = time.perf_counter()
            micros = prepared()
            waited = time.perf_counter() - began
            sums = world.sum({"count": float(sum(micro.count for micro in micros)), "stop": float(should_stop())})
            if sums["stop"]:
                on_checkpoint(state)
                return
            if state.step + 1 < total_steps:
                prepared = _prepare(supply, beside, world)
            metrics = _step(model, state, micros, sums["count"], loss, settings, total_steps, world)
            state.step += 1
            elapsed = time.perf_counter() - began
            metrics["wait_share"] = waited / elapsed
            metrics["tokens_per_second"] = metrics.pop("tokens") / elapsed
            metrics["step_seconds"] = elapsed
            on_step(state.step, metrics)
            if state.step % settings.checkpoint_every == 0 and state.step < total_steps:
                on_checkpoint(state)


def _prepare(
    supply: Iterator[list[MicroBatch]], beside: ThreadPoolExecutor, world: World
) -> Callable[[], list[MicroBatch]]:
    """What gives the next micro-batches: made in the thread `beside` while the step before computes, but with other
    ranks only when asked for, since `supply` may exchange with them and so may the step, in an order that must agree.
    """
    return beside.submit(next, supply).result if world.size == 1 else partial(next, supply)


def _step(
    model: nn.Module,
    state: State,
    micros: list[MicroBatch],
    total: float,
    loss: Loss,
    settings: FitSettings,
    total_steps: int,
    world: World,
) -> dict[str, float]:
    rate = learning_rate(settings, state.step, total_steps)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    sums: dict[str, float] = {"loss": 0.0, "tokens": 0.0}
    bad: list[str] = []
    for number, micro in enumerate(micros):
        last = number == len(micros) - 1
        # Gradients are exchanged once per step, with the last micro-batch.
        silent = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()
        with silent:
            inputs = micro.inputs.to(world.device) if hasattr(micro.inputs, "to") else micro.inputs
            with world.autocast():
                outputs = model(inputs)
            value, extras = loss(outputs, micro)
            weight = 0.0 if micro.count == 0 else 1.0
            # DDP averages over ranks: times size makes it a sum, over the global count.
            (value * (weight * world.size / max(total, 1.0))).backward()
        number_loss = float(value.detach()) * weight
        if not math.isfinite(number_loss):
            bad += micro.row_ids
        sums["loss"] += number_loss
        sums["tokens"] += micro.tokens
        for name, extra in extras.items():
            sums[name] = sums.get(name, 0.0) + extra * weight
    norm = float(nn.utils.clip_grad_norm_(state.module.parameters(), settings.clip))
    sums = world.sum(sums)
    if not (math.isfinite(sums["loss"]) and math.isfinite(norm)):
        rows = ", ".join((bad or [row for micro in micros for row in micro.row_ids])[:10])
        raise RosepoError(
            f"step {state.step}: loss {sums['loss']} or gradient norm {norm} is not finite; rows of this rank: {rows}. "
            "Lower the learning rate or look at these rows; the last checkpoint is intact"
        )
    state.optimiser.step()
    state.optimiser.zero_grad(set_to_none=True)
    metrics = {name: value / max(total, 1.0) for name, value in sums.items() if name != "tokens"}
    return metrics | {"grad_norm": norm, "lr": rate, "count": total, "tokens": sums["tokens"]}
