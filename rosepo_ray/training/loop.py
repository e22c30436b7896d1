"""The training loop that oracle, SFT and alignment share. It knows no particular model and no cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rosepo_ray.config.training import FitSettings
from rosepo_ray.errors import RosepoError
from rosepo_ray.training.optimiser import build_optimiser, learning_rate
from rosepo_ray.training.program import MicroBatch, Program
from rosepo_ray.training.watch import Watch
from rosepo_ray.training.world import World


@dataclass
class State:
    """Everything that a resumed run needs. All randomness derives from (seed, row, purpose), so the position stands
    for the state of the random generators."""

    module: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0
    kept: nn.Module = field(default_factory=nn.Module)
    """Whose buffers are checkpointed as well."""


def start(program: Program, settings: FitSettings) -> State:
    kept = nn.Module()
    kept.program = program.state
    if program.watch is not None:
        kept.watch = program.watch
    return State(program.module, build_optimiser(program.module, settings), kept=kept)


def fit(
    state: State,
    program: Program,
    settings: FitSettings,
    total_steps: int,
    world: World,
    on_step: Callable[[int, dict[str, float]], None],
    on_checkpoint: Callable[[State], None],
    should_stop: Callable[[], bool] = lambda: False,
    on_best: Callable[[State], None] = lambda state: None,
) -> bool:
    """Train a program from `state.step` to `total_steps`, or until its watch has seen enough; False where it was
    stopped before.

    The gradient is that of (sum of all losses) / (sum of all counts) over the global batch. `on_step(step, metrics)`
    gets global means on every rank; `on_checkpoint(state)` is called each `settings.checkpoint_every` steps, and before
    an early end: once `should_stop()` holds on some rank, all ranks end before the next step. `on_best(state)` follows
    a look at validation rows that was better than all before, and a checkpoint follows it.

    Raises RosepoError naming the rows when a loss or gradient is not finite; nothing is stepped then. What
    `program.batches` raises comes out at the step that it was for.
    """
    model = world.wrap(state.module)
    if state.step == 0 and program.watch is not None and program.watch.due(0, total_steps):
        first: dict[str, float] = {}
        _look(state, program.watch, on_best, first)
        on_step(0, first)
    state.module.train()
    supply: Iterator[list[MicroBatch]] = program.batches(state.step)
    with ThreadPoolExecutor(1) as beside:
        prepared = beside.submit(next, supply)
        while state.step < total_steps:
            began = time.perf_counter()
            micros = prepared.result()
            waited = time.perf_counter() - began
            sums = world.sum({"count": float(sum(micro.count for micro in micros)), "stop": float(should_stop())})
            if sums["stop"]:
                on_checkpoint(state)
                return False
            if state.step + 1 < total_steps:
                prepared = beside.submit(next, supply)
            metrics = _step(model, state, micros, sums["count"], program, settings, total_steps, world)
            state.step += 1
            program.after_step(metrics)
            elapsed = time.perf_counter() - began
            better, over = False, state.step == total_steps
            if program.watch is not None and program.watch.due(state.step, total_steps):
                better = _look(state, program.watch, on_best, metrics)
                over = over or program.watch.done
            metrics["wait_share"] = waited / elapsed
            metrics["tokens_per_second"] = metrics.pop("tokens") / elapsed
            metrics["step_seconds"] = elapsed
            on_step(state.step, metrics)
            if (better or state.step % settings.checkpoint_every == 0) and not over:
                on_checkpoint(state)
            if over:
                break
    return True


def _look(state: State, watch: Watch, on_best: Callable[[State], None], metrics: dict[str, float]) -> bool:
    """Look at the validation rows; the figures, and the seconds that they took, join the step's."""
    began = time.perf_counter()
    state.module.eval()
    figures, better = watch.look(state.step)
    state.module.train()
    metrics.update(figures, val_seconds=time.perf_counter() - began)
    if better:
        on_best(state)
    return better


def _step(
    model: nn.Module,
    state: State,
    micros: list[MicroBatch],
    total: float,
    program: Program,
    settings: FitSettings,
    total_steps: int,
    world: World,
) -> dict[str, float]:
    rate = learning_rate(settings, state.step, total_steps)
    for group in state.optimiser.param_groups:
        group["lr"] = rate

    def run(inputs: Any, module: nn.Module = state.module) -> Any:
        with world.autocast():
            return module(inputs.to(world.device) if hasattr(inputs, "to") else inputs)

    program.look_ahead(micros, run)
    sums: dict[str, float] = {"loss": 0.0, "tokens": 0.0}
    bad: list[str] = []
    for number, micro in enumerate(micros):
        last = number == len(micros) - 1
        # Gradients are exchanged once per step, with the last micro-batch.
        silent = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()
        with silent:
            value, extras = program.loss(run(micro.inputs, model), micro)
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
