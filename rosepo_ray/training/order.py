"""The training order: fixed by the rows, the seed and the global batch, never by the layout of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rosepo_ray.seeds import hash_order


@dataclass(frozen=True)
class RankSlice:
    """What one rank trains on at one step. `real` is False where the step has fewer rows than ranks and this rank
    repeats a row with weight zero, since every rank must take part in the gradient exchange."""

    step: int
    rows: list[tuple[int, int]]
    """(epoch, index into that epoch's rows)."""
    real: bool = True


def steps(
    row_ids: Callable[[int], Sequence[str]],
    *,
    seed: int,
    batch: int,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
    epochs: int | None = None,
) -> Iterator[RankSlice]:
    """Slices of `rank` from step `start` on. Step s takes rows [s * batch, (s + 1) * batch) of the epochs laid end to
    end, each epoch sorted by hash(seed, epoch, row id); rank r takes the r-th of `world` contiguous runs of the step.

    `row_ids(epoch)` names the rows of an epoch; `epochs` None goes on for ever, else the last step may be short.
    """
    waiting: list[tuple[int, int]] = []
    step = epoch = 0
    while True:
        while len(waiting) < batch and (epochs is None or epoch < epochs):
            waiting += [(epoch, int(index)) for index in hash_order(seed, epoch, row_ids(epoch))]
            epoch += 1
        if not waiting:
            return
        taken, waiting = waiting[:batch], waiting[batch:]
        if step >= start:
            mine = [taken[i] for i in np.array_split(np.arange(len(taken)), world)[rank]]
            yield RankSlice(step, mine or taken[:1], bool(mine))
        step += 1
