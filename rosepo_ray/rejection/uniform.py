"""`uniform`: a wrong candidate drawn uniformly; the baseline of every other strategy."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from rosepo_ray import seeds
from rosepo_ray.rejection.base import RejectionRow, Strategy, wrong_candidates


class UniformStrategy(Strategy):
    name = "uniform"

    def draw(
        self, row: RejectionRow, slot: int, taken: AbstractSet[str], candidate_logps: np.ndarray | None, seed: int
    ) -> str | None:
        pool = wrong_candidates(row, taken, self.catalogue)
        if not pool:
            return None
        return pool[int(seeds.generator(seed, row.example_id, slot, self.name).integers(len(pool)))]
