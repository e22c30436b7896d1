"""`popularity`: an item never taken, drawn by how popular it is, against popularity bias."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from rosepo_ray import seeds
from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.rejection import Popularity
from rosepo_ray.errors import BadInput
from rosepo_ray.rejection.base import RejectionRow, Strategy, untakeable

_ROUNDS, _TRIES = 4, 16


class PopularityStrategy(Strategy):
    """p(item) proportional to popularity ** alpha over the catalogue without what the user took.

    Popularity counts interactions of the training split; alpha 0 draws uniformly from all items, those without
    any interaction too. Further slots draw from what the earlier ones left.
    """

    name = "popularity"

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
        self, row: RejectionRow, slot: int, taken: AbstractSet[str], candidate_logps: np.ndarray | None, seed: int
    ) -> str | None:
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
