"""`uniform`: a wrong candidate drawn uniformly; the baseline of every other strategy."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import ClassVar, Literal

from rosepo_ray import seeds
from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.kinds import STRATEGIES
from rosepo_ray.rejection.base import Answers, Pool, RejectionRow, Strategy, StrategySettings, wrong_candidates


@STRATEGIES.kind
class Uniform(StrategySettings):
    """A wrong candidate drawn uniformly: the baseline."""

    pool: ClassVar[Pool] = "candidates"
    type: Literal["uniform"] = "uniform"

    def build(self, catalogue: Catalogue) -> Strategy:
        return UniformStrategy(catalogue)


class UniformStrategy(Strategy):
    name = "uniform"

    def draw(
        self, row: RejectionRow, slot: int, taken: AbstractSet[str], answers: Answers, seed: int
    ) -> tuple[str, str] | None:
        pool = wrong_candidates(row, taken, self.catalogue)
        if not pool:
            return None
        item = pool[int(seeds.generator(seed, row.example_id, slot, self.name).integers(len(pool)))]
        return item, self.catalogue.title_of(item)
