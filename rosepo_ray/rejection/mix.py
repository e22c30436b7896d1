"""`mix`: each slot is served by one of the other strategies, drawn by weight."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import numpy as np

from rosepo_ray import seeds
from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.errors import RosepoError
from rosepo_ray.rejection.base import RejectionRow, Strategy


class MixStrategy(Strategy):
    """Slots are assigned from (seed, row, slot); those that need scores are filled last and avoid the others' picks."""

    name = "mix"

    def __init__(self, parts: Mapping[str, tuple[Strategy, float]], catalogue: Catalogue) -> None:
        """`parts`: name -> (strategy, weight > 0)."""
        super().__init__(catalogue)
        names = sorted(parts)
        self.parts = [parts[name][0] for name in names]
        weights = np.array([parts[name][1] for name in names], dtype=np.float64)
        self.chances = weights / weights.sum()
        self.needs_scores = any(part.needs_scores for part in self.parts)

    def source(self, row: RejectionRow, slot: int, seed: int) -> Strategy:
        generator = seeds.generator(seed, row.example_id, slot, self.name)
        return self.parts[int(generator.choice(len(self.parts), p=self.chances))]

    def draw(
        self, row: RejectionRow, slot: int, taken: AbstractSet[str], candidate_logps: np.ndarray | None, seed: int
    ) -> str | None:
        raise RosepoError("mix draws nothing itself; its slots are served by the strategies it mixes")
