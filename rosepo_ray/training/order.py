"""The training order: fixed by the rows, the seed and the global batch, never by the layout of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

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
    rows = _end_to_end(row_ids, seed, epochs)
    for step in count():
        taken = list(islice(rows, batch))
        if not taken:
            return
        if step >= start:
            mine = [taken[i] for i in np.array_split(np.arange(len(taken)), world)[rank]]
            yield RankSlice(step, mine or taken[:1], bool(mine))


def _end_to_end(row_ids: Callable[[int], Sequence[str]], seed: int, epochs: int | None) -> Iterator[tuple[int, int]]:
    """(epoch, index) of every row of every epoch in its order."""
    for epoch in count() if epochs is None else range(epochs):
        for index in hash_order(seed, epoch, row_ids(epoch)).tolist():
            yield epoch, index
