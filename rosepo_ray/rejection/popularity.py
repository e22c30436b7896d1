"""`popularity`: an item never taken, drawn by how popular it is, against popularity bias."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rosepo_ray import seeds
from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.kinds import STRATEGIES
from rosepo_ray.errors import BadInput
from rosepo_ray.rejection.base import Answers, RejectionRow, Strategy, StrategySettings, untakeable

_ROUNDS, _TRIES = 4, 16


@STRATEGIES.kind
class Popularity(StrategySettings):
    """An item never taken, drawn with probability proportional to popularity ** alpha (against popularity bias)."""

    type: Literal["popularity"] = "popularity"
    alpha: float = Field(1.0, ge=0)
    """Exponent."""

    def build(self, catalogue: Catalogue) -> Strategy:
        return PopularityStrategy(self, catalogue)


class PopularityStrategy(Strategy):
    """p(item) proportional to popularity ** alpha over the catalogue without what the user took.

    Popularity counts interactions of the training split; alpha 0 draws uniformly from all items, those without
    any interaction too. Further slots draw from what the earlier ones left.
    """

    name: ClassVar[str] = "popularity"

    def __init__(self, settings: Popularity, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        # By id, so that the order of the items table decides nothing.
        self.item_ids: list[str] = sorted(catalogue.item_ids)
        counts = np.array([catalogue.popularity[catalogue.index[item]] for item in self.item_ids], dtype=np.float64)
        # Relative to the largest: a large alpha must not overflow.
        self.weights = (counts / max(counts.max(initial=0.0), 1.0)) ** settings.alpha
        if not self.weights.sum() > 0:
            raise BadInput(
                "rejection.strategy popularity got a catalogue in which no item has a training interaction, so "
                "nothing can be drawn; check data.interactions and data.min_rating"
            )
        self.cumulative = np.cumsum(self.weights)
        self.last = int(np.flatnonzero(self.weights)[-1])

    def draw(
        self, row: RejectionRow, slot: int, taken: AbstractSet[str], answers: Answers, seed: int
    ) -> tuple[str, str] | None:
        item = self._item(row, slot, taken, seed)
        return None if item is None else (item, self.catalogue.title_of(item))

    def _item(self, row: RejectionRow, slot: int, taken: AbstractSet[str], seed: int) -> str | None:
        forbidden = untakeable(row, taken, self.catalogue)
        generator = seeds.generator(seed, row.example_id, slot, self.name)
        # Drawing again until the item is allowed has exactly the wanted distribution and touches no N numbers.
        for _ in range(_ROUNDS):
            points = generator.random(_TRIES) * self.cumulative[-1]
            for position in np.minimum(np.searchsorted(self.cumulative, points, side="right"), self.last):
                item = self.item_ids[int(position)]
                if item not in forbidden:
                    return item
        # A user who took nearly everything popular: mask and draw once.
        weights = self.weights.copy()
        weights[[i for i, item in enumerate(self.item_ids) if item in forbidden]] = 0.0
        if not weights.sum() > 0:
            return None
        return self.item_ids[int(generator.choice(len(weights), p=weights / weights.sum()))]
