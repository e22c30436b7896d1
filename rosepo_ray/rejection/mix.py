"""`mix`: each slot is served by one of the other strategies, drawn by weight."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import ClassVar, Literal

import numpy as np
from pydantic import field_validator

from rosepo_ray import seeds
from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.kinds import STRATEGIES
from rosepo_ray.errors import RosepoError
from rosepo_ray.rejection.base import Answers, Pool, RejectionRow, Strategy, StrategySettings


@STRATEGIES.kind
class Mix(StrategySettings):
    """Each rejected item comes from one of several strategies, drawn by weight."""

    type: Literal["mix"] = "mix"
    parts: dict[str, float]
    """Weight of each strategy by its type, as `parts.self_hard 2` and `parts.popularity 1`; all with their defaults."""

    @field_validator("parts")
    @classmethod
    def _usable(cls, parts: dict[str, float]) -> dict[str, float]:
        for name, weight in parts.items():
            if weight < 0:
                raise ValueError(f"rejection.strategy.parts.{name} {weight:g} is negative; weights are 0 or more")
            STRATEGIES.find(name)
        if "mix" in parts or sum(weight > 0 for weight in parts.values()) < 1:
            raise ValueError(f"a mix needs a strategy with a weight above 0, and no other mix (given: {parts})")
        return parts

    @property
    def pool(self) -> Pool:
        """The candidates only where all parts pick from them."""
        pools = {settings.pool for settings in self.chosen.values()}
        return "texts" if "texts" in pools else "catalogue" if "catalogue" in pools else "candidates"

    @property
    def chosen(self) -> dict[str, StrategySettings]:
        """The strategies that have a weight."""
        return {name: STRATEGIES.make(name) for name, weight in self.parts.items() if weight > 0}

    def build(self, catalogue: Catalogue) -> Strategy:
        built = {name: (settings.build(catalogue), self.parts[name]) for name, settings in self.chosen.items()}
        return MixStrategy(built, catalogue)


class MixStrategy(Strategy):
    """Slots are assigned from (seed, row, slot); those that need the policy are filled last."""

    name: ClassVar[str] = "mix"

    def __init__(self, parts: Mapping[str, tuple[Strategy, float]], catalogue: Catalogue) -> None:
        """`parts`: name -> (strategy, weight > 0)."""
        super().__init__(catalogue)
        names = sorted(parts)
        self.parts = [parts[name][0] for name in names]
        weights = np.array([parts[name][1] for name in names], dtype=np.float64)
        self.chances = weights / weights.sum()

    def source(self, row: RejectionRow, slot: int, seed: int) -> Strategy:
        generator = seeds.generator(seed, row.example_id, slot, self.name)
        return self.parts[int(generator.choice(len(self.parts), p=self.chances))]

    def draw(
        self, row: RejectionRow, slot: int, taken: AbstractSet[str], answers: Answers, seed: int
    ) -> tuple[str, str] | None:
        raise RosepoError("mix draws nothing itself; its slots are served by the strategies it mixes")
